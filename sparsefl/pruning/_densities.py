"""How many weights each layer keeps, and which: what rules of layer densities share."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl import random as streams
from sparsefl.pruning._units import Units
from sparsefl.structure import Structure

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
    weights: Mapping[str, nn.Parameter],
    counts: Mapping[str, int],
    seed: int,
    structure: Structure | None = None,
) -> dict[str, Tensor]:
    """Draw ``counts[name]`` positions of each weight, one Philox stream a layer.

    Rectangles of a structure are drawn as :func:`largest` keeps them.
    """

    def scores(name: str, units: Units) -> Tensor:
        return torch.from_numpy(_stream(seed, name).permutation(units.count)).double()

    if structure is not None:
        return _kept_by_layer(weights, counts, structure, scores)
    masks = {}
    for name, weight in weights.items():
        flat = np.zeros(weight.numel(), dtype=np.bool_)
        flat[_stream(seed, name).choice(weight.numel(), counts[name], replace=False)] = True
        masks[name] = torch.from_numpy(flat).reshape(weight.shape).to(weight.device)
    return masks


def largest(
    weights: Mapping[str, nn.Parameter],
    counts: Mapping[str, int],
    structure: Structure | None = None,
) -> dict[str, Tensor]:
    """Keep the ``counts[name]`` largest ``|w|`` of each weight, ties by the lowest index.

    Of rectangles of a structure, those of largest mean ``|w|``: as many as come nearest to a
    layer's count, at least one, and what a layer keeps too many is made up for by the next ones. So
    every layer is within one rectangle of its count.
    """

    def scores(name: str, units: Units) -> Tensor:
        return units.scores([weights[name].detach().abs()])

    return _kept_by_layer(weights, counts, structure, scores)


def _stream(seed: int, name: str) -> np.random.Generator:
    return streams.generator(seed, f"random mask of {name}")


def _kept_by_layer(
    weights: Mapping[str, nn.Parameter],
    counts: Mapping[str, int],
    structure: Structure | None,
    scores: Callable[[str, Units], Tensor],
) -> dict[str, Tensor]:
    """Keep the units of best score, ``counts[name]`` weights of each layer or nearly so."""
    masks: dict[str, Tensor] = {}
    owed = 0
    for name, weight in weights.items():
        units = Units({name: tuple(weight.shape)}, structure)
        # No layer pays more than half a rectangle of its own for what others keep or lack.
        share = max(-(units.largest // 2), min(owed, units.largest // 2))
        keep = units.keep_best(
            scores(name, units), counts[name] + share, at_least=int(counts[name] > 0)
        )
        masks[name] = units.masks(keep)[name].to(weight.device)
        owed += counts[name] - int(masks[name].sum())
    return masks
