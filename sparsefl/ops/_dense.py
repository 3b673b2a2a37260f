"""The dense layout: torch's own kernels on a scratch weight, values and gradients staying O(nnz).

One scratch a (size, dtype, device) serves all layers: it is filled before each use, so nothing of
dense size is a Parameter, a gradient or optimizer state, and none is saved for backward.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOCAL = threading.local()


def scratch(numel: int, like: Tensor) -> Tensor:
    """Return this thread's zeroed scratch of ``numel`` elements, of ``like``'s dtype and device."""
    cache = _LOCAL.__dict__.setdefault("cache", {})
    key = (like.dtype, like.device)
    if key not in cache or cache[key].numel() < numel:
        cache[key] = like.new_empty(numel)
    view: Tensor = cache[key][:numel]
    return view.zero_()


def fill_weight(
    stored: Tensor,
    magnitudes: Tensor | None,
    constant: float | None,
    flat: Tensor | None,
    shape: torch.Size,
) -> Tensor:
    """Return the dense weight of ``shape``: a scratch, or the stored elements where all are kept.

    Args:
        stored: Values or scores, ``[nnz]``.
        magnitudes: Magnitudes ``[nnz]`` of a sign layer, or None.
        constant: The magnitude of a sign layer where it is one number; None: ``stored`` are values.
        flat: Row-major positions of ``stored`` in the weight, ``[nnz]`` int64; None: it is all of
            them, in that order.
        shape: Of the weight.
    """
    kept = kept_weights(stored, magnitudes, constant)
    if flat is None:
        return kept.view(shape)
    return scratch(shape.numel(), stored).scatter_(0, flat, kept).view(shape)


def kept_weights(stored: Tensor, magnitudes: Tensor | None, constant: float | None) -> Tensor:
    """Return the weights on the support: the values, or magnitude times sign."""
    if constant is None:
        return stored
    if magnitudes is None:
        # Exact: 2c - c = c. torch.where would make a tensor of either number at every call.
        return (stored >= 0).to(stored.dtype).mul_(2 * constant).sub_(constant)
    return torch.where(stored >= 0, magnitudes, -magnitudes)


def kept_gradient(
    dense: Tensor, magnitudes: Tensor | None, constant: float | None, flat: Tensor | None
) -> Tensor:
    """Return the gradient on the support, times the magnitude for scores (straight-through)."""
    kept = dense.reshape(-1) if flat is None else dense.reshape(-1)[flat]
    if constant is None:
        # The scratch is filled again for the next layer, so nothing may keep it.
        return kept.clone() if flat is None else kept
    return kept * (constant if magnitudes is None else magnitudes)


def without_autocast(function: Callable[..., Any]) -> Any:
    """Return an autograd method that computes in the dtype of its tensors under autocast too."""

    @functools.wraps(function)
    def run(ctx: Any, x: Tensor, *arguments: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return function(ctx, x, *arguments)

    return run
