"""Outputs of ``batch_norm`` that a backward computes again, where it would save them.

Norm and ReLU are a pass over memory, and the norm saves its input in any case: a convolution after
it saves that input, too, and not what it has been given.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_ATTRIBUTE = "_sparsefl_recipe"


class Recipe(NamedTuple):
    """What ``relu(norm(x))`` is computed from again."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    invstd: Tensor


def offer(y: Tensor, recipe: Recipe) -> None:
    """Note how ``y`` is computed again, for the functions that take it; it holds what it needs."""
    if y.requires_grad and not torch.compiler.is_compiling():
        x, weight, bias, *statistics = recipe
        weight = None if weight is None else weight.detach()
        bias = None if bias is None else bias.detach()
        setattr(y, _ATTRIBUTE, (y._version, Recipe(x.detach(), weight, bias, *statistics)))


def recipe_of(y: Tensor) -> Recipe | None:
    """Return how ``y`` is computed again, if it is what a norm gave, unchanged."""
    if torch.compiler.is_compiling():
        return None
    version, recipe = getattr(y, _ATTRIBUTE, (None, None))
    return recipe if version == y._version else None


def cook(recipe: Recipe) -> Tensor:
    """Compute the output once more, the same bits."""
    y: Tensor = torch.ops.sparsefl.batch_norm_again.default(*recipe[:3], None, *recipe[3:], True)
    return y
