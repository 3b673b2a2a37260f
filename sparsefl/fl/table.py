"""Claimed beside measured, as text: one line a run, or a line for the seeds of one."""

import json
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sparsefl.columns import GAP, align

Row: TypeAlias = Mapping[str, Any]
_Column: TypeAlias = tuple[str, Callable[[Row], str]]

WIDTH = 100
_ABSENT = "-"
# Rows that agree in all of these differ in the seed alone. Those whose values speak for themselves
# are named by them, the others as NAME=VALUE.
_SPEAKING = ("density", "model", "norm", "data")
IDENTITY = (
    "method",
    *_SPEAKING,
    "rounds",
    "clients",
    "clients_per_round",
    "sampling",
    "batch_size",
    "local_epochs",
    "local_steps",
    "threads",
    "capabilities",
    "options",
)

# What a row must have to be shown; older versions' may lack the rest.
NEEDED = (
    "method",
    "model",
    "norm",
    "density",
    "seed",
    "threads",
    "rounds",
    "accuracy",
    "accuracy_per_client",
    "uplink_bytes",
    "downlink_bytes",
    "setup_bytes",
    "uplink_bound_bytes",
    "uplink_claimed_bytes",
    "uplink_dense_bytes",
    "downlink_dense_bytes",
    "client_step_s",
    "dense_step_s",
    "claimed_flops",
    "dense_flops",
    "client_peak_bytes",
    "dense_peak_bytes",
    "encode_s",
    "decode_s",
    "aggregate_s",
)
NEEDED_PER_CLIENT = ("mean", "worst_decile")


def factor(dense: float | None, ours: float | None) -> float | None:
    """Return ``dense / ours``: how many times less ours is; ``None`` where one is unknown."""
    return None if not dense or not ours else dense / ours


def claimed_uplink_factor(row: Row) -> float | None:
    """Return how many times fewer bytes the method claims to send up."""
    return factor(row["uplink_dense_bytes"], row["uplink_claimed_bytes"])


def measured_uplink_factor(row: Row) -> float | None:
    """Return how many times fewer bytes its messages up have."""
    return factor(row["uplink_dense_bytes"], row["uplink_bytes"])


def claimed_step_factor(row: Row) -> float | None:
    """Return how many times fewer FLOPs the method claims for a local step."""
    return factor(row["dense_flops"], row["claimed_flops"])


def measured_step_factor(row: Row) -> float | None:
    """Return how many times faster than dense torch its local step is, in paired turns."""
    paired: float | None = row.get("step_factor")
    return factor(row["dense_step_s"], row["client_step_s"]) if paired is None else paired


def realised(measured: float | None, claimed: float | None) -> float | None:
    """Return the realised factor, ``measured / claimed``."""
    return None if measured is None or claimed is None else measured / claimed


def identity(row: Row) -> tuple[str, ...]:
    """Return what tells a run from all but its other seeds; rows of older versions lack some."""
    return tuple(_text(row.get(name)) for name in IDENTITY)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def name_rows(rows: Sequence[Row]) -> list[str]:
    """Return the method of each row, and what else tells it from others of its method."""
    names = []
    for row in rows:
        alike = [other for other in rows if other["method"] == row["method"]]
        names.append(" ".join([row["method"], *_told(row, alike)]))
    return names


def _told(row: Row, alike: Sequence[Row]) -> list[str]:
    """Name what rows of one method differ in; of options, those alone that differ."""
    told = []
    for name in IDENTITY[1:-1]:
        if len({_text(other.get(name)) for other in alike}) > 1:
            value = row.get(name)
            text = "none" if value is None else str(value)
            told.append(text if name in _SPEAKING else f"{name}={text}")
    options, own = [other.get("options") or {} for other in alike], row.get("options") or {}
    differing = [
        key
        for key in dict.fromkeys(key for given in options for key in given)
        if len({_text(given.get(key)) for given in options}) > 1
    ]
    return [*told, *(f"{key}={own.get(key)}" for key in differing)]


def merge_seeds(rows: Sequence[Row]) -> list[Row]:
    """Merge the rows of one experiment under several seeds into their mean.

    Returns:
        One row for each :func:`identity`, in the order of the first; a merged one has the mean of
        every number, "seeds", how many, and "spread": the standard deviation of "accuracy",
        "mean" and "worst_decile" over the seeds (``n - 1`` in the denominator).
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(identity(row), []).append(row)
    return [group[0] if len(group) == 1 else _merged(group) for group in groups.values()]


def _merged(group: Sequence[Row]) -> Row:
    merged = {name: _mean([row.get(name) for row in group]) for name in group[0]}
    clients = [row["accuracy_per_client"] for row in group]
    per_client = {name: _mean([c[name] for c in clients]) for name in NEEDED_PER_CLIENT}
    personal = [c["personal"]["mean"] for c in clients if "personal" in c]
    if len(personal) == len(group):
        per_client["personal"] = {"mean": _mean(personal)}
    spread = {name: _deviation([c[name] for c in clients]) for name in NEEDED_PER_CLIENT}
    spread["accuracy"] = _deviation([row["accuracy"] for row in group])
    return merged | {
        "accuracy_per_client": per_client,
        "seeds": len(group),
        "spread": spread,
        **{name: group[0][name] for name in IDENTITY if name in group[0]},
    }


def _mean(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, int | float)]
    return statistics.fmean(numbers) if len(numbers) == len(values) else None


def _deviation(values: Sequence[Any]) -> float | None:
    return None if any(value is None for value in values) else statistics.stdev(values)


def size(count: float | None) -> str:
    """Format bytes with three digits, in units of 1000."""
    if count is None:
        return _ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def times(value: float | None) -> str:
    """Format a factor with three digits."""
    return _ABSENT if value is None else f"{value:.3g}x"


def share(value: float | None, spread: float | None = None) -> str:
    """Format an accuracy, and its spread over seeds where there is one."""
    if value is None or value != value:
        return _ABSENT
    return f"{value:.3f}" if spread is None else f"{value:.3f} ±{spread:.3f}"


def _milliseconds(value: float | None) -> str:
    return _ABSENT if value is None else f"{1000 * value:.3g}"


def _of_bound(row: Row, way: str) -> str:
    """Format messages over their bound; rows of older versions lack that of the downlink."""
    return share(factor(row[f"{way}_bytes"], row.get(f"{way}_bound_bytes")))


def _setup(row: Row) -> str:
    """Format the bytes of the set-up, and those that clients sent for it where they sent any."""
    answered = row.get("setup_uplink_bytes")
    down = size(row["setup_bytes"])
    return f"{down}, up {size(answered)}" if answered else down


def _seeds(row: Row) -> str:
    return f"{row['seeds']} seeds" if "seeds" in row else str(row["seed"])


def _client_accuracy(name: str) -> Callable[[Row], str]:
    return lambda row: share(row["accuracy_per_client"][name], row.get("spread", {}).get(name))


def _privacy(row: Row, name: str) -> str:
    value = row.get(name)
    return _ABSENT if value is None else f"{value:.3g}"


def _has_personal(row: Row) -> bool:
    return "personal" in row["accuracy_per_client"]


def _personal_accuracy(row: Row) -> str:
    return share(row["accuracy_per_client"]["personal"]["mean"]) if _has_personal(row) else _ABSENT


_NAME: _Column = ("method", lambda row: str(row["method"]))
_SECTIONS: tuple[tuple[str, tuple[_Column, ...]], ...] = (
    (
        "Accuracy of the last global model, test data and each client's own held-out data",
        (
            _NAME,
            ("model", lambda row: str(row["model"])),
            ("norm", lambda row: row["norm"] or "none"),
            ("density", lambda row: f"{row['density']:g}"),
            ("seed", _seeds),
            ("rounds", lambda row: str(row["rounds"])),
            ("test", lambda row: share(row["accuracy"], row.get("spread", {}).get("accuracy"))),
            ("clients' mean", _client_accuracy("mean")),
            ("worst decile", _client_accuracy("worst_decile")),
        ),
    ),
    (
        "Bytes of the encoded messages, all clients, all rounds (x: dense FedAvg / this)",
        (
            _NAME,
            ("up", lambda row: size(row["uplink_bytes"])),
            ("claimed", lambda row: size(row["uplink_claimed_bytes"])),
            ("claimed x", lambda row: times(claimed_uplink_factor(row))),
            ("measured x", lambda row: times(measured_uplink_factor(row))),
            (
                "realised",
                lambda row: share(
                    realised(measured_uplink_factor(row), claimed_uplink_factor(row))
                ),
            ),
            ("down", lambda row: size(row["downlink_bytes"])),
            (
                "down x",
                lambda row: times(factor(row["downlink_dense_bytes"], row["downlink_bytes"])),
            ),
            ("set-up", _setup),
        ),
    ),
    (
        "Messages and their order-0 bound (runs, and values coded by classes, may take less)",
        (
            _NAME,
            ("up", lambda row: size(row["uplink_bytes"])),
            ("up bound", lambda row: size(row["uplink_bound_bytes"])),
            ("up/bound", lambda row: _of_bound(row, "uplink")),
            ("down", lambda row: size(row["downlink_bytes"])),
            ("down bound", lambda row: size(row.get("downlink_bound_bytes"))),
            ("down/bound", lambda row: _of_bound(row, "downlink")),
        ),
    ),
    (
        "Local step, optimizer included, against the same model dense in plain torch",
        (
            _NAME,
            ("threads", lambda row: f"{row['threads']:g}"),
            ("ms", lambda row: _milliseconds(row["client_step_s"])),
            ("dense ms", lambda row: _milliseconds(row["dense_step_s"])),
            ("claimed x", lambda row: times(claimed_step_factor(row))),
            ("measured x", lambda row: times(measured_step_factor(row))),
            (
                "realised",
                lambda row: share(realised(measured_step_factor(row), claimed_step_factor(row))),
            ),
            ("peak memory", lambda row: size(row["client_peak_bytes"])),
            ("dense", lambda row: size(row["dense_peak_bytes"])),
        ),
    ),
    (
        "Seconds beside training, all clients, all rounds",
        (
            _NAME,
            ("encode", lambda row: f"{row['encode_s']:.2f}"),
            ("decode", lambda row: f"{row['decode_s']:.2f}"),
            ("aggregate", lambda row: f"{row['aggregate_s']:.2f}"),
        ),
    ),
)


_PRIVACY: tuple[str, tuple[_Column, ...]] = (
    "Differential privacy of the clients: what the published models have spent",
    (
        _NAME,
        ("epsilon", lambda row: _privacy(row, "epsilon")),
        ("delta", lambda row: _privacy(row, "delta")),
        ("sampling", lambda row: str(row.get("sampling", _ABSENT))),
    ),
)

_GROUPS: tuple[str, tuple[_Column, ...]] = (
    "Clients by the share of the weights that they can train: bytes of all, milliseconds of a step",
    (
        _NAME,
        ("share", lambda row: f"{row['capability']:g}"),
        ("clients", lambda row: str(row["members"])),
        ("updates", lambda row: str(row["clients"])),
        ("lost", lambda row: str(row["lost"])),
        ("up", lambda row: size(row["uplink_bytes"])),
        ("down", lambda row: size(row["downlink_bytes"])),
        ("set-up", lambda row: size(row["setup_bytes"])),
        ("ms", lambda row: _milliseconds(factor(row["train_s"], row["local_steps"]))),
    ),
)


def format_table(rows: Sequence[Row], width: int = WIDTH) -> str:
    """Format rows of ``compare.json`` as aligned text, one section a question.

    A realised factor of 1 means that what is claimed was measured; ``-`` means not measured, and
    columns without any measurement are named below. Runs under several seeds are one line: their
    mean, and the standard deviation of the accuracies; other runs of one method are named by what
    they differ in.

    Args:
        rows: At least one.
        width: Characters of a line; what does not fit goes on below, under the method's name.
    """
    merged = merge_seeds(rows)
    named = zip(merged, name_rows(merged), strict=True)
    merged = [{**row, "method": name} for row, name in named]
    sections = list(_SECTIONS)
    if any(_has_personal(row) for row in merged):
        title, columns = sections[0]
        sections[0] = (title, (*columns, ("own models' mean", _personal_accuracy)))
    if any(row.get("epsilon") is not None for row in merged):
        sections.append(_PRIVACY)
    texts = [_section(title, columns, merged, width) for title, columns in sections]
    groups = [
        {**group, "method": row["method"]} for row in merged for group in row.get("groups") or ()
    ]
    if groups:
        texts.append(_section(*_GROUPS, groups, width))
    return "\n\n".join(texts)


def _section(title: str, columns: Sequence[_Column], rows: Sequence[Row], width: int) -> str:
    shown = [[name, *(show(row) for row in rows)] for name, show in columns]
    known = [column for column in shown if any(text != _ABSENT for text in column[1:])]
    lines = [*textwrap.wrap(title, width), *align(known, width)]
    unknown = [column[0] for column in shown if column not in known]
    if unknown:
        lines += textwrap.wrap(
            f"not measured: {', '.join(unknown)}",
            width,
            initial_indent=GAP,
            subsequent_indent=GAP,
        )
    return "\n".join(lines)
