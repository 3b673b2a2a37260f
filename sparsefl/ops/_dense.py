"""The dense layout: torch's own kernels on a scratch weight, values and gradients staying O(nnz).

One scratch serves all layers of a thread: it is filled before each use, so nothing of dense size
is a Parameter, a gradient or optimizer state, and none is saved for backward. On other devices than
the CPU torch's caching allocator lends it, which knows of streams and of CUDA graphs.
"""

import math
import threading
from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _dispatch
from sparsefl.ops._autograd import SHORT
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._magnitude import Magnitude, kept_weights, stored_gradient
from sparsefl.ops._plan import Conv2dPlan, LinearPlan
from sparsefl.ops._view import View

_LOCAL = threading.local()

define(
    "dense_weight(Tensor stored, Tensor? magnitudes, float constant, bool signs, Tensor begin,"
    " Tensor index, Tensor? position, Tensor work, int block, Tensor(a!) out) -> ()"
)
define(
    "kept_gradient(Tensor dense, Tensor? magnitudes, float constant, bool signs, Tensor begin,"
    " Tensor index, Tensor? position, Tensor work, int block) -> Tensor"
)


def scratch(shape: torch.Size, like: Tensor) -> Tensor:
    """Return an uninitialised scratch of ``like``'s dtype and device, on the CPU this thread's."""
    if torch.compiler.is_compiling() or _dispatch.accelerated(like.device):
        # The compiler plans memory itself, and fails to partition a graph that writes into ours.
        return like.new_empty(shape)
    cache = _LOCAL.__dict__.setdefault("cache", {})
    key, numel = (like.dtype, like.device), shape.numel()
    if key not in cache or cache[key].numel() < numel:
        cache[key] = like.new_empty(numel)
    view: Tensor = cache[key][:numel].view(shape)
    return view


def fill_weight(
    stored: Tensor, magnitude: Magnitude | None, plan: LinearPlan | Conv2dPlan
) -> Tensor:
    """Return the dense weight: a scratch, or a view of the stored values where all are kept.

    Args:
        stored: Values or scores, ``[nnz]``.
        magnitude: That of a sign operator, or None.
        plan: Where they lie.
    """
    shape = torch.Size(plan.support.shape)
    if plan.whole:
        return kept_weights(stored, magnitude).view(shape)
    dtype, view = stored.dtype, _stored_view(plan)
    if dtype in SHORT and not view.flat:
        stored, magnitude = stored.float(), magnitude and magnitude.widened()
    weight = empty_weight(plan, stored)
    torch.ops.sparsefl.dense_weight.default(
        stored, *_magnitudes(magnitude), *view, _in_memory(weight, plan)
    )
    return weight.view(shape).to(dtype)


def empty_weight(plan: LinearPlan | Conv2dPlan, like: Tensor) -> Tensor:
    """Return a scratch in the memory order of the stored values.

    Returns:
        ``[out, inputs of an output]``, or for a convolution on another device than the CPU the
        shape of its weight in channels_last.
    """
    rows, columns = plan.support.shape[0], math.prod(plan.support.shape[1:])
    if plan.turned:
        return scratch(torch.Size((columns, rows)), like).t()
    if _is_channels_last(plan):
        out, inner, height, width = plan.support.shape
        return scratch(torch.Size((out, height, width, inner)), like).permute(0, 3, 1, 2)
    return scratch(torch.Size((rows, columns)), like)


def kept_gradient(
    dense: Tensor, magnitude: Magnitude | None, plan: LinearPlan | Conv2dPlan
) -> Tensor:
    """Return the stored elements' gradient, ``[nnz]``, from the dense weight's.

    Args:
        dense: Gradient of the dense weight, in its shape and the memory order of
            :func:`fill_weight`, else it is copied; it is handed on where all are kept.
        magnitude: That of a sign operator, or None.
        plan: Where they lie.
    """
    if plan.whole:
        return stored_gradient(dense.reshape(-1), magnitude)
    matrix, view = _in_memory(dense, plan).contiguous(), _stored_view(plan)
    dtype = matrix.dtype
    if dtype in SHORT and not view.flat:
        matrix, magnitude = matrix.float(), magnitude and magnitude.widened()
    kept: Tensor = torch.ops.sparsefl.kept_gradient.default(matrix, *_magnitudes(magnitude), *view)
    return kept.to(dtype)


def _in_memory(weight: Tensor, plan: LinearPlan | Conv2dPlan) -> Tensor:
    """Return a dense weight or its gradient as :func:`empty_weight` has it in memory."""
    if _is_channels_last(plan):
        return weight.permute(0, 2, 3, 1)
    rows = weight.reshape(weight.shape[0], -1)
    return rows.t() if plan.turned else rows


def _is_channels_last(plan: LinearPlan | Conv2dPlan) -> bool:
    return plan.forward.flat and len(plan.support.shape) == 4


def _stored_view(plan: LinearPlan | Conv2dPlan) -> View:
    """Return the view in whose order the values are stored."""
    return plan.transposed if plan.turned else plan.forward


def _magnitudes(magnitude: Magnitude | None) -> tuple[Tensor | None, float, bool]:
    return (None, 1.0, False) if magnitude is None else (*magnitude, True)


@torch.library.register_fake("sparsefl::dense_weight", lib=LIBRARY)
def _(stored: Tensor, *others: Any) -> None:
    return None


@torch.library.register_fake("sparsefl::kept_gradient", lib=LIBRARY)
def _(
    dense: Tensor,
    magnitudes: Tensor | None,
    constant: float,
    signs: bool,
    begin: Tensor,
    index: Tensor,
    *others: Any,
) -> Tensor:
    return dense.new_empty(index.shape)
