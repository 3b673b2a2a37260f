"""Outputs of ``batch_norm`` and ``group_norm`` that a backward computes again, and does not save.

Norm, residual and ReLU are a pass over memory, and the norm saves its input in any case: a
convolution after it saves that input, too, and not what it has been given. The residual is read
again where another convolution holds it in any case; of a row of residual blocks every second
output is then saved.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_RECIPE, _HELD = "_sparsefl_recipe", "_sparsefl_held"


class Recipe(NamedTuple):
    """What ``relu(norm(x) + residual)`` is computed from again."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    mean: Tensor
    invstd: Tensor


class Dish:
    """The output for those who have asked for it, computed again once for all in a backward.

    It is held from the first backward that wants it to the last; one of them that never runs makes
    it last as long as their graph.
    """

    def __init__(self, again: Callable[..., Any]) -> None:
        """Have it asked for by none; ``again`` computes it from a recipe, and whether of a ReLU."""
        self._again = again
        self._waiting = 0
        self._y: Tensor | None = None

    def order(self) -> None:
        """Ask for it."""
        self._waiting += 1

    def cook(self, recipe: Recipe) -> Tensor:
        """Return the output once more, the same bits."""
        y = self._y
        if y is None:
            y = self._again(*recipe, True)
            assert isinstance(y, Tensor)
        self._waiting -= 1
        self._y = y if self._waiting > 0 else None
        return y


class _Offered(NamedTuple):
    version: int
    recipe: Recipe
    dish: Dish


def offer(y: Tensor, recipe: Recipe, again: Callable[..., Any]) -> None:
    """Note how ``y`` is computed again, for the functions that take it; it holds what it needs."""
    if y.requires_grad and not torch.compiler.is_compiling():
        detached = Recipe(*(None if t is None else t.detach() for t in recipe))  # type: ignore[arg-type]
        setattr(y, _RECIPE, _Offered(y._version, detached, Dish(again)))


def keep(y: Tensor) -> tuple[Tensor | None, Recipe | tuple[()], Dish | None]:
    """Return what a function keeps of ``y`` for its backward.

    That is ``y`` itself, which is noted; or, if it is what a norm gave, unchanged, how it is
    computed again, which is ordered.
    """
    if torch.compiler.is_compiling():
        return y, (), None
    offered: _Offered | None = getattr(y, _RECIPE, None)
    if offered is not None and offered.version == y._version:
        offered.dish.order()
        return None, offered.recipe, offered.dish
    # Inference tensors count no versions, and nothing is differentiated.
    if not y.is_inference():
        setattr(y, _HELD, y._version)
    return y, (), None


def is_held(y: Tensor) -> bool:
    """Tell whether a function saves ``y`` itself, unchanged."""
    if torch.compiler.is_compiling():
        return False
    held = getattr(y, _HELD, None)
    return held is not None and held == y._version
