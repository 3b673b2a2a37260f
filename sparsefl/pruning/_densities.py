"""How many weights each layer keeps, and which: what rules of layer densities share."""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl import random as streams
from sparsefl.pruning._prunable import keep_largest

Select: TypeAlias = Literal["random", "magnitude"]


def erdos_renyi_targets(
    weights: Mapping[str, nn.Parameter], density: float, kernel: bool
) -> dict[str, float]:
    """Return the weights that each layer keeps, unrounded; they sum to ``density * N``.

    Args:
        weights: The layers' weights.
        density: Share kept over all.
        kernel: Whether the kernel's sides count.
    """
    budget = density * sum(w.numel() for w in weights.values())
    raw: dict[str, float] = {}
    for name, weight in weights.items():
        sides = weight.shape if kernel else weight.shape[:2]
        raw[name] = sum(sides) / math.prod(sides) * weight.numel()
    targets = dict.fromkeys(weights, 0.0)
    # A layer whose share exceeds its size stays full; the others divide what is left.
    while raw:
        scale = max(budget, 0.0) / sum(raw.values())
        full = [name for name in raw if raw[name] * scale >= weights[name].numel()]
        if not full:
            return targets | {name: share * scale for name, share in raw.items()}
        for name in full:
            targets[name] = float(weights[name].numel())
            budget -= targets[name]
            del raw[name]
    return targets


def rounded_counts(targets: Mapping[str, float], total: int) -> dict[str, int]:
    """Round counts so that they sum to ``total``: the largest fractions up, ties to the first."""
    counts = {name: math.floor(target) for name, target in targets.items()}
    missing = total - sum(counts.values())
    order = sorted(targets, key=lambda name: counts[name] - targets[name])
    for name in order[: max(missing, 0)]:
        counts[name] += 1
    return counts


def check_select(select: str) -> None:
    """Refuse an unknown way to select weights within a layer.

    Raises:
        ValueError: if ``select`` is neither "random" nor "magnitude".
    """
    if select not in ("random", "magnitude"):
        raise ValueError(f"select must be 'random' or 'magnitude', got {select!r}")


def drawn(
    weights: Mapping[str, nn.Parameter], counts: Mapping[str, int], seed: int
) -> dict[str, Tensor]:
    """Draw ``counts[name]`` positions of each weight, one Philox stream a layer."""
    masks = {}
    for name, weight in weights.items():
        generator = streams.generator(seed, f"random mask of {name}")
        flat = np.zeros(weight.numel(), dtype=np.bool_)
        flat[generator.choice(weight.numel(), counts[name], replace=False)] = True
        masks[name] = torch.from_numpy(flat).reshape(weight.shape).to(weight.device)
    return masks


def largest(weights: Mapping[str, nn.Parameter], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Keep the ``counts[name]`` largest ``|w|`` of each weight, ties by the lowest index."""
    return {
        name: keep_largest(weight.detach().flatten().abs(), counts[name]).view(weight.shape)
        for name, weight in weights.items()
    }
