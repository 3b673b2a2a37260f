"""A profile as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsefl.profiling.memory import Memory
    from sparsefl.profiling.result import Factor, LayerProfile, Profile, StepProfile
    from sparsefl.timing import StepTime

ABSENT = "-"
_LAYER_HEAD = (
    "layer",
    "kind",
    "density",
    "parameters",
    "kept",
    "dense ms",
    "sparse ms",
    "alone ms",
    "factor [quartiles]",
    "MB dense",
    "sparse",
    "bytes dense",
    "sparse",
    "runs",
    "verdict",
)
_STEP_HEAD = (
    "whole local step",
    "ms",
    "factor [quartiles]",
    "parameters",
    "MB",
    "= weights",
    "+ gradients",
    "+ optimizer",
    "+ activations",
    "+ indices",
    "bytes up",
    "set-up",
    "runs",
)


def render(profile: Profile) -> str:
    """Return the profile as text."""
    parts = [
        _title(profile),
        _layers(profile.layers),
        _steps(profile),
        stay_dense(profile.keep_dense),
    ]
    parts.append("\n".join(f"- {note}" for note in profile.notes))
    return "\n\n".join(part for part in parts if part)


def _title(profile: Profile) -> str:
    s = profile.settings
    return (
        f"{s['model']}, batch {s['batch_size']}, {s['layer']} layers at density "
        f"{s['kept_density']:.3g} (masks: {s['masks']}), {s['optimizer']}, "
        f"{s['threads']} thread{'s' * (s['threads'] > 1)}"
    )


def _layers(layers: Sequence[LayerProfile]) -> str:
    rows = [
        (
            la.name or "the model",
            la.kind,
            ABSENT if la.density is None else f"{la.density:.3g}",
            f"{la.dense_parameters:,}",
            ABSENT if la.kept_parameters is None else f"{la.kept_parameters:,}",
            ms(la.dense_time),
            ms(la.sparse_time),
            ms(la.alone_time),
            _factor(la.factor),
            _mb(la.dense_memory),
            _mb(la.sparse_memory),
            f"{la.dense_uplink_bytes:,}",
            ABSENT if la.sparse_uplink_bytes is None else f"{la.sparse_uplink_bytes:,}",
            str(la.repetitions),
            la.verdict,
        )
        for la in layers
    ]
    return align(_LAYER_HEAD, rows)


def _steps(profile: Profile) -> str:
    named = {
        "dense": profile.dense,
        "all sparse": profile.sparse,
        "these verdicts": profile.recommended,
    }
    return align(_STEP_HEAD, [_step(name, step) for name, step in named.items()])


def _step(name: str, step: StepProfile) -> tuple[str, ...]:
    memory = step.memory
    return (
        name,
        ms(step.time),
        _factor(step.factor),
        f"{step.parameters:,}",
        _mb(memory),
        *(f"{part / 1e6:.3g}" for part in vars(memory).values()),
        f"{step.uplink_bytes:,}",
        f"{step.setup_bytes:,}",
        str(step.repetitions),
    )


def stay_dense(reasons: Mapping[str, str]) -> str:
    """Return the layers that stay dense, a line each with the reason."""
    if not reasons:
        return "Every layer pays."
    width = max(len(name or "the model") for name in reasons)
    lines = [f"  {name or 'the model':{width}}  {why}" for name, why in reasons.items()]
    return "\n".join(["Stay dense:", *lines])


def ms(time: StepTime | None) -> str:
    """Return the median in milliseconds."""
    return ABSENT if time is None else f"{time.median_s * 1e3:.3g}"


def _mb(memory: Memory | None) -> str:
    return ABSENT if memory is None else f"{memory.total_bytes / 1e6:.3g}"


def _factor(factor: Factor | None) -> str:
    if factor is None:
        return ABSENT
    quartiles = f"[{factor.lower_quartile:.2f} {factor.upper_quartile:.2f}]"
    return f"{factor.median:.2f}x {quartiles}"


def align(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Put cells under their heads: words to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    words = [any(row[i][:1].isalpha() for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if word else '>'}{width}}"
            for cell, width, word in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in lines
    )
