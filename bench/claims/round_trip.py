"""``python -m sparsefl.bench.claims.round_trip``: a model of density 0.2, down and up again.

ResNet-18 is trained a few steps on random images under a random mask; the message that holds it is
encoded as the server would send it and, after another step, as the client would. Where the mask
travels with every message the receiver knows nothing; where it is known, both have it from the
set-up, whose bytes are a row of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl import codec, models, pruning
from sparsefl.bench.networks import CLASSES, IMAGE, train_step
from sparsefl.codec import Dense, Schema, Sparse, SupportOnly, Update
from sparsefl.measuring import torch_threads
from sparsefl.nn import densify, sparsify
from sparsefl.support import Support

from . import claim
from .claim import Claim

DENSITY = 0.2
BATCH = 2
CLAIMED_MB, CLAIMED_DENSE_MB = 20.85, 89.52
SEED = 0


@dataclasses.dataclass(frozen=True)
class Form:
    """How a message is encoded: a value format, and whether the receiver knows the mask."""

    name: str
    value_format: Any = "fp32"
    known: bool = False
    rans: bool = True


FORMS = (
    Form("fp32, mask and values plainly coded", rans=False),
    Form("fp32, mask coded every time"),
    Form("fp32, mask known", known=True),
    Form("bf16, mask known", "bf16", known=True),
    Form("int8, mask known", "int8", known=True),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Count every form, and write the claims."""
    return claim.main("round_trip", measure, argv)


def measure(command: str) -> list[Claim]:
    """Count every form."""
    dense = functools.partial(models.build, "resnet18", IMAGE, CLASSES)
    with torch_threads(1):
        return measure_model(dense, IMAGE, DENSITY, command)


def measure_model(
    factory: Any, image: tuple[int, ...], density: float, command: str
) -> list[Claim]:
    """Count every form of one model's round trip."""
    torch.manual_seed(SEED)
    plain: nn.Module = factory()
    schema = Schema.of(plain)
    masks = {k: Support.from_mask(m.numpy()) for k, m in pruning.random(plain, density).items()}
    states = two_states(sparsify(plain, masks), image)
    dense = sum(message_bytes(s, {}, schema, Form("dense")) for s in two_states(plain, image))
    setup = codec.encode(Update({k: SupportOnly(m) for k, m in masks.items()}), schema)
    counted = {
        form: sum(message_bytes(state, masks, schema, form) for state in states) for form in FORMS
    }
    formula, dense_formula = formula_bytes(plain, masks)
    return [
        claim_of(form, count, dense, len(setup), formula, dense_formula, density, command)
        for form, count in counted.items()
    ]


def two_states(model: nn.Module, image: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Return a trained model's tensors in plain torch, and those after a further step."""
    step = train_step(model, image=image, batch=BATCH)
    states = []
    for _ in range(2):
        step()
        held = densify(model).state_dict()
        states.append({name: value.clone() for name, value in held.items()})
    return states


def message_bytes(
    state: Mapping[str, Tensor], masks: Mapping[str, Support], schema: Schema, form: Form
) -> int:
    """Return the bytes of the message that holds a model, headers included."""
    entries: dict[str, Any] = {
        name: Sparse(masks[name], value.numpy()[masks[name].to_mask()])
        if name in masks
        else Dense(value)
        for name, value in state.items()
    }
    known = masks if form.known else {}
    update = Update(entries)
    message = codec.encode(update, schema, form.value_format, known, rans=form.rans)
    if form.value_format == "fp32" and codec.decode(message, schema, known) != update:
        raise RuntimeError(f"{form.name}: what was decoded is not what was encoded")
    return len(message)


def formula_bytes(model: nn.Module, masks: Mapping[str, Support]) -> tuple[float, float]:
    """Return a round trip by the formula, sparse and dense: a bitmap and 4 bytes a value each way.

    ``2 * (n / 8 + 4 m)`` for pruned tensors of n weights, m kept, and 8 bytes for any other value.
    """
    pruned = sum(support.numel for support in masks.values())
    kept = sum(support.nnz for support in masks.values())
    every = sum(value.numel() for value in model.state_dict().values())
    return 2 * (pruned / 8 + 4 * kept) + 8 * (every - pruned), 8 * every


def claim_of(
    form: Form,
    count: int,
    dense: int,
    setup: int,
    formula: float,
    dense_formula: float,
    density: float,
    command: str,
) -> Claim:
    """Compare one form with the table that claims it."""
    claimed = CLAIMED_DENSE_MB / CLAIMED_MB
    factor = dense_formula / count
    return Claim(
        row=f"5 round trip, density {density:g}, {form.name}",
        claim="ResNet-18 at density 0.2: 20.85 MB a round trip instead of 89.52 MB (table of "
        "FedRTS, arXiv 2501.19122; bitmap and fp32 by formula)",
        accounting={
            "round_trip_mb": CLAIMED_MB,
            "dense_round_trip_mb": CLAIMED_DENSE_MB,
            "formula_here_mb": formula / 1e6,
            "dense_formula_here_mb": dense_formula / 1e6,
        },
        measured={
            "round_trip_mb": count / 1e6,
            "fedavg_round_trip_mb": dense / 1e6,
            "setup_mb": setup / 1e6 if form.known else 0.0,
            "round_trip_factor": factor,
            "against_fedavg_by_the_same_codec_factor": dense / count,
        },
        realised_factor=factor / claimed,
        baseline={"name": "4 bytes a parameter and buffer, each way"},
        settings={
            "model": "resnet18",
            "norm": "batch",
            "density": density,
            "masks": "random, uniform",
            **dataclasses.asdict(form),
        },
        goals={"round_trip_mb": (None, CLAIMED_MB)},
        command=command,
    )


if __name__ == "__main__":
    sys.exit(main())
