"""Static random masks: uniform over all weights, or with Erdos-Renyi layer densities.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity",
Nature Communications 2018, arXiv 1707.04780 (Erdos-Renyi); Evci et al., "Rigging the lottery",
ICML 2020, arXiv 1911.11134 (its kernel form). They are the controls of every pruning method: what
a method's machinery earns is its lead over these at the same density.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl import random as streams
from sparsefl.pruning._prunable import check_density, prunable_weights


def random(
    model: nn.Module, density: float, seed: int = 0, *, include_dense: bool = False
) -> dict[str, Tensor]:
    """Keep ``round(density * n)`` weights of each layer, drawn uniformly.

    Args:
        model: Plain torch model; only its shapes are read.
        density: Share of weights kept in every layer, in (0, 1].
        seed: One seed, one set of masks.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density`` is out of range, or there is nothing to prune.
    """
    check_density(density)
    weights = prunable_weights(model, include_dense)
    return _draw(weights, {name: round(density * w.numel()) for name, w in weights.items()}, seed)


def erdos_renyi(
    model: nn.Module,
    density: float,
    seed: int = 0,
    kernel: bool = True,
    *,
    include_dense: bool = False,
) -> dict[str, Tensor]:
    """Keep weights drawn at random, layers thinner the larger they are.

    Layer densities are ``d_l = min(1, e * (n_in + n_out + kh + kw) / (n_in * n_out * kh * kw))``
    with one ``e`` such that the whole model has ``density`` (to one weight a layer by rounding).

    Args:
        model: Plain torch model; only its shapes are read.
        density: Share of weights kept over all layers, in (0, 1].
        seed: One seed, one set of masks.
        kernel: Count the kernel's sides (ERK); without them the plain Erdos-Renyi form.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density`` is out of range, or there is nothing to prune.
    """
    check_density(density)
    weights = prunable_weights(model, include_dense)
    budget = density * sum(w.numel() for w in weights.values())
    raw: dict[str, float] = {}
    for name, weight in weights.items():
        sides = weight.shape if kernel else weight.shape[:2]
        raw[name] = sum(sides) / math.prod(sides) * weight.numel()
    counts: dict[str, int] = {}
    # A layer whose share exceeds its size stays full; the others divide what is left.
    while raw:
        scale = max(budget, 0.0) / sum(raw.values())
        full = [name for name in raw if raw[name] * scale >= weights[name].numel()]
        if not full:
            counts |= {name: round(raw[name] * scale) for name in raw}
            break
        for name in full:
            counts[name] = weights[name].numel()
            budget -= counts[name]
            del raw[name]
    return _draw(weights, counts, seed)


def _draw(weights: dict[str, nn.Parameter], counts: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Draw ``counts[name]`` positions of each weight, one Philox stream a layer."""
    masks = {}
    for name, weight in weights.items():
        generator = streams.generator(seed, f"random mask of {name}")
        flat = np.zeros(weight.numel(), dtype=np.bool_)
        flat[generator.choice(weight.numel(), counts[name], replace=False)] = True
        masks[name] = torch.from_numpy(flat).reshape(weight.shape).to(weight.device)
    return masks
