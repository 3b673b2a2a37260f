"""``python -m sparsefl.bench.claims.prunefl``: training steps of PruneFL's networks by density.

Its sparse kernels keep the weight's gradient dense, which bounds what its authors measured. Here a
whole step (forward, backward, SGD with momentum) of a network under random masks of one density a
layer is timed in turns with the dense network, in torch's faster memory layout of two.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import torch
from torch import nn

from sparsefl import models, pruning
from sparsefl.bench.networks import CLASSES, IMAGE, seconds_of, train_step
from sparsefl.nn import sparsify
from sparsefl.timing import Effort, Samples, StepTime, paired_ratio, stopwatch

from . import claim
from .claim import Claim, Limits

IMAGES = {"conv2": (1, 28, 28), "vgg11": IMAGE}
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)
BATCH = 32
# What dense weight gradients leave of any sparsity, and from which density on it is to be beaten.
CEILING_FACTOR, LARGEST_DENSITY = 2.0, 0.1
EFFORT = Effort(warmup=1, timed=9, probes=1, slow_s=float("inf"))
SEED = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Time both networks, and write the claims."""
    rows = {
        row_of(name, density): functools.partial(claim_of, name, density)
        for name in IMAGES
        for density in DENSITIES
    }
    return claim.main("prunefl", rows, argv)


def row_of(name: str, density: float) -> str:
    """Name a row."""
    return f"7 PruneFL, {name}, density {density:g}"


def network(name: str, density: float) -> nn.Module:
    """Return a network under random masks; plain torch.nn at density 1."""
    torch.manual_seed(SEED)
    dense = models.build(name, IMAGES[name], CLASSES)
    return dense if density == 1 else sparsify(dense, pruning.random(dense, density))


def claim_of(
    name: str, density: float, command: str, batch: int = BATCH, effort: Effort = EFFORT
) -> Claim:
    """Time one network at one density."""
    step = functools.partial(train_step, image=IMAGES[name], batch=batch)
    times = seconds_of(
        {
            "ours": stopwatch(step(network(name, density))),
            "contiguous": stopwatch(step(network(name, 1.0))),
            "channels_last": stopwatch(step(network(name, 1.0), channels_last=True)),
        },
        effort,
    )
    factors = {layout: paired_ratio(times[layout], times["ours"]) for layout in LAYOUTS}
    layout = min(factors, key=lambda layout: factors[layout])
    return Claim(
        row=row_of(name, density),
        claim="PruneFL's own sparse kernels: a step 1.74x to 2.3x faster, however sparse (Jiang et "
        "al. 2022, arXiv 1909.12326)",
        accounting={"step_factor": CEILING_FACTOR, "flops_factor": 1 / density},
        measured=measured(times, factors, layout),
        realised_factor=factors[layout] / CEILING_FACTOR,
        baseline={"name": f"dense torch.nn, {layout}, the faster of {' and '.join(LAYOUTS)}"},
        settings={
            "model": name,
            "image": list(IMAGES[name]),
            "density": density,
            "masks": "random, uniform",
            "batch_size": batch,
            "threads": torch.get_num_threads(),
            "timed_steps": effort.timed,
        },
        goals=goals_of(density),
        command=command,
    )


LAYOUTS = ("contiguous", "channels_last")


def measured(times: dict[object, Samples], factors: dict[str, float], layout: str) -> dict:
    """Return what was measured as quantities."""
    return {
        "step_factor": factors[layout],
        "step_s": claim.seconds(StepTime.of(times["ours"])),
        "dense_step_s": claim.seconds(StepTime.of(times[layout])),
        **{f"against_{own}_factor": value for own, value in factors.items()},
    }


def goals_of(density: float) -> dict[str, Limits]:
    """Return what is to be reached at a density; none above those that the claim is of."""
    return {"step_factor": (CEILING_FACTOR, None)} if density <= LARGEST_DENSITY else {}


if __name__ == "__main__":
    sys.exit(main())
