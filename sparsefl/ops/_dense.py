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

from sparsefl.ops._magnitude import Magnitude, kept_weights, stored_gradient

_LOCAL = threading.local()


def scratch(numel: int, like: Tensor) -> Tensor:
    """Return this thread's zeroed scratch of ``numel`` elements, of ``like``'s dtype and device."""
    if torch.compiler.is_compiling():
        # The compiler plans memory itself, and fails to partition a graph that writes into ours.
        return like.new_zeros(numel)
    cache = _LOCAL.__dict__.setdefault("cache", {})
    key = (like.dtype, like.device)
    if key not in cache or cache[key].numel() < numel:
        cache[key] = like.new_empty(numel)
    view: Tensor = cache[key][:numel]
    return view.zero_()


def fill_weight(
    stored: Tensor, magnitude: Magnitude | None, flat: Tensor | None, shape: torch.Size
) -> Tensor:
    """Return the dense weight of ``shape``: a scratch, or the stored elements where all are kept.

    Args:
        stored: Values or scores, ``[nnz]``.
        magnitude: That of a sign operator, or None.
        flat: Row-major positions of ``stored`` in the weight, ``[nnz]`` int64; None: it is all of
            them, in that order.
        shape: Of the weight.
    """
    kept = kept_weights(stored, magnitude)
    if flat is None:
        return kept.view(shape)
    return scratch(shape.numel(), stored).scatter_(0, flat, kept).view(shape)


def kept_gradient(dense: Tensor, magnitude: Magnitude | None, flat: Tensor | None) -> Tensor:
    """Return the stored elements' gradient from the dense weight's."""
    if flat is not None:
        return stored_gradient(dense.reshape(-1)[flat], magnitude)
    kept = stored_gradient(dense.reshape(-1), magnitude)
    # The scratch is filled again for the next layer, so nothing may keep it.
    return kept.clone() if magnitude is None else kept


def without_autocast(function: Callable[..., Any]) -> Any:
    """Return an autograd method that computes in the dtype of its tensors under autocast too."""

    @functools.wraps(function)
    def run(ctx: Any, x: Tensor, *arguments: Any) -> Any:
        if x.is_meta:
            # Autocast knows no meta device.
            return function(ctx, x, *arguments)
        with torch.autocast(x.device.type, enabled=False):
            return function(ctx, x, *arguments)

    return run
