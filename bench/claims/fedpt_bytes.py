"""``python -m sparsefl.bench.claims.fedpt_bytes``: what a round of FedPT takes on the wire.

Two rounds are played on random samples; the second is counted, both ways, headers and whatever a
client gets once included, against FedAvg's messages by the same codec and against 4 bytes a
parameter each way.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

from sparsefl.fl.engine import Federation
from sparsefl.measuring import torch_threads

from . import claim
from .claim import Claim
from .trial import federate, network

PATTERNS: dict[str, tuple[str, ...]] = {
    "cnn": ("conv2", "fc1", "conv2,fc1", "conv1,conv2,fc1"),
    "resnet18": ("stage4.*", "stage3.*,stage4.*", "stage2.*,stage3.*,stage4.*"),
    "transformer": ("blocks.*.ffn*",),
}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"image": (1, 28, 28), "classes": 62},
    "resnet18": {"image": (3, 32, 32), "classes": 10, "norm": "group"},
    "transformer": {"image": (1, 1, 80), "classes": 65, "tokens": 65},
}
NAMES = {
    "cnn": "EMNIST CNN, 62 classes",
    "resnet18": "ResNet-18, GroupNorm, CIFAR",
    "transformer": "transformer, 65 characters",
}
# The abstract's cell, and what it claims.
ABSTRACT, ABSTRACT_FACTOR, ABSTRACT_LEAST = ("cnn", "fc1"), 46.0, 44.0
LEAST_REALISED = 0.97
BATCH = 16
# Local steps of a round: few would leave many changes at 0, which cost nothing.
STEPS = {"cnn": 8, "resnet18": 3, "transformer": 4}
# Small, so that random labels drive no unit to where it learns nothing, whose changes cost nothing.
LR = 0.002


def main(argv: Sequence[str] | None = None) -> int:
    """Count every model and choice of frozen layers, and write the claims."""
    return claim.main("fedpt_bytes", measure, argv)


def measure(command: str) -> list[Claim]:
    """Count every model and choice of frozen layers."""
    with torch_threads(1):
        return [
            claim_of(model, frozen, MODELS[model], STEPS[model], command)
            for model, choices in PATTERNS.items()
            for frozen in choices
        ]


def claim_of(model: str, frozen: str, described: dict[str, Any], steps: int, command: str) -> Claim:
    """Count one choice of frozen layers."""
    factory = network(model, described["image"], described["classes"], norm=described.get("norm"))
    begin = functools.partial(
        federate,
        factory=factory,
        image=described["image"],
        classes=described["classes"],
        batch=BATCH,
        steps=steps,
        tokens=described.get("tokens"),
    )
    ours = begin("fedpt", options={"frozen": frozen, "lr": LR})
    dense = begin("fedavg", options={"lr": LR})
    total = sum(p.numel() for p in factory().parameters())
    trainable = ours.state.parameters
    (up, down), (dense_up, dense_down) = exchange(ours), exchange(dense)
    claimed, factor = total / trainable, (dense_up + dense_down) / (up + down)
    measured = {
        "round_trip_factor": factor,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "dense_uplink_bytes": dense_up,
        "dense_downlink_bytes": dense_down,
        "against_4_bytes_a_parameter_factor": 8 * total / (up + down),
        # Both sides send weights down; up FedPT sends changes, which may be coded better.
        "realised_downlink": dense_down / down / claimed,
        "realised": factor / claimed,
    }
    least = (LEAST_REALISED, None)
    goals: dict[str, claim.Limits] = {"realised": least, "realised_downlink": least}
    accounting: dict[str, Any] = {
        "round_trip_factor": claimed,
        "parameters": total,
        "trainable_parameters": trainable,
    }
    if (model, frozen) == ABSTRACT:
        accounting["abstract_factor"] = ABSTRACT_FACTOR
        goals = {"round_trip_factor": (ABSTRACT_LEAST, None), **goals}
    return Claim(
        row=f"1 FedPT bytes, {NAMES.get(model, model)}, frozen {frozen}",
        claim="up to 46x less communication by not sending what is frozen (Sidahmed et al. 2021, "
        "arXiv 2110.03450, abstract)",
        accounting=accounting,
        measured=measured,
        realised_factor=factor / claimed,
        baseline={"name": "FedAvg's messages by the same codec, both ways"},
        settings={
            "model": model,
            "frozen": frozen,
            "frozen_fraction": round(1 - trainable / total, 4),
            "classes": described["classes"],
            "norm": described.get("norm"),
            "batch_size": BATCH,
            "local_steps": steps,
            "lr": LR,
            "data": "random; a client's bytes of the second round and of its set-up",
        },
        goals=goals,
        command=command,
    )


def exchange(federation: Federation) -> tuple[float, float]:
    """Return a client's bytes up and down in the second round, its set-up counted as down."""
    first, second = (federation.play(round) for round in (1, 2))
    down = second.downlink_bytes + first.setup_bytes
    return second.uplink_bytes / second.clients, down / second.clients


if __name__ == "__main__":
    sys.exit(main())
