"""Autograd shared by ``sparse_linear`` and ``sign_linear``.

The latter has a magnitude.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _dense, _kernel_linear, _passes
from sparsefl.ops._autograd import (
    BATCH_LAST,
    NOT_WANTED,
    ROW_MAJOR,
    SHORT,
    first_order,
    only_wanted,
    rounded,
    widened,
    without_autocast,
)
from sparsefl.ops._kernel_weight import packed_weight
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import LinearPlan
from sparsefl.ops._view import View
from sparsefl.ops.batch_last import empty_batch_last


def empty_output(x: Tensor, out_features: int, row_major: bool) -> Tensor:
    """Return an output ``[N, out]`` of the strides that a forward operator gives."""
    if row_major:
        return x.new_empty(x.shape[0], out_features)
    return empty_batch_last(x, x.shape[0], out_features)


class SparseLinearFunction(torch.autograd.Function):
    """``y = x W^T + b`` through the sparse kernels; computes and saves only what is asked for.

    One operator call a direction: beside a layer of 1024 features, each further call of torch would
    be seen on the clock.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        bias: Tensor | None,
        magnitude: Magnitude | None,
        views: tuple[View, View],
        row_major: bool = False,
    ) -> Tensor:
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        wanted_x = ROW_MAJOR if x.is_contiguous() else BATCH_LAST
        ctx.wanted_x = wanted_x if needs_x else NOT_WANTED
        ctx.save_for_backward(x if needs_stored else None, stored if needs_x else None)
        dtype = x.dtype
        if dtype in SHORT:
            x, stored, bias = widened(x, stored, bias)
            magnitude = magnitude and magnitude.widened()
        ctx.magnitude, ctx.transposed = magnitude, views[1]
        view, how = views[0], (row_major, 0)
        if x.shape[0] == 1 and views[1].position is None:
            # One sample: reading the values in another order than theirs would wait for memory.
            view, how = views[1], (True, views[0].work.shape[0] - 1)
        if magnitude is None:
            y = torch.ops.sparsefl.sparse_linear.default(x, stored, bias, *view, *how)
        else:
            y = torch.ops.sparsefl.sign_linear.default(x, stored, *magnitude, bias, *view, *how)
        return y.to(dtype) if dtype in SHORT else y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored = ctx.saved_tensors
        view = ctx.transposed
        dtype = grad.dtype
        if dtype in SHORT:
            grad, x, stored = widened(grad, x, stored)
        if stored is None:
            stored = grad.new_empty(len(view.columns))  # its size is asked for, not its elements
        _, needs_stored, needs_bias, *_ = ctx.needs_input_grad
        wanted = [ctx.wanted_x, int(needs_stored), int(needs_bias)]
        if ctx.magnitude is None:
            gradients = torch.ops.sparsefl.sparse_linear_backward.default(
                grad, x, stored, *view, wanted
            )
        else:
            gradients = torch.ops.sparsefl.sign_linear_backward.default(
                grad, x, stored, *ctx.magnitude, *view, wanted
            )
        if dtype in SHORT:
            gradients = rounded(gradients, dtype)
        return (*only_wanted(gradients, wanted), None, None, None)


def dense_linear(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: LinearPlan,
) -> Tensor:
    """Return the map through dense torch; in the dtype of autocast where all weights are kept.

    On a GPU each pass goes through a kernel of :mod:`sparsefl.kernels` where one is chosen.
    Elsewhere autocast's bfloat16 does not pay: the scratch weight and its gradient would have to be
    converted. 1024x1024, batch 64, density 0.5, forward and backward: 5.6 ms, the sparse kernels in
    float32 2.0 ms.
    """
    if plan.whole and magnitude is None:
        return torch.nn.functional.linear(x, stored.view(plan.support.shape), bias)
    one = magnitude is not None and magnitude.each is None
    passes = _passes.passes_of(plan, x, x.shape[0], one)
    return DenseLinearFunction.apply(x, stored, bias, magnitude, plan, passes)


class DenseLinearFunction(torch.autograd.Function):
    """The same through dense torch on a scratch weight, but for passes that a kernel computes."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        bias: Tensor | None,
        magnitude: Magnitude | None,
        plan: LinearPlan,
        passes: _passes.Passes = _passes.DENSE_PASSES,
    ) -> Tensor:
        ctx.magnitude, ctx.plan, ctx.passes = magnitude, plan, passes
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        packed = None
        if passes.forward is None:
            weight = _dense.fill_weight(stored, magnitude, plan)
            y = torch.nn.functional.linear(x, weight, bias)
        else:
            packed = packed_weight(passes.forward, stored, magnitude, plan)
            y = _kernel_linear.product(passes.forward, x, packed, bias, magnitude, plan)
        # Signs take a bit a weight; weights are packed again rather than kept.
        signs = packed if needs_x and passes.share_signs else None
        ctx.save_for_backward(x if needs_stored else None, stored if needs_x else None, signs)
        return y

    @staticmethod
    @without_autocast
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, packed = ctx.saved_tensors
        magnitude, plan, passes = ctx.magnitude, ctx.plan, ctx.passes
        grad_x = grad_stored = grad_bias = None
        if ctx.needs_input_grad[0]:
            if passes.dx is None:
                grad_x = grad @ _dense.fill_weight(stored, magnitude, plan)
            else:
                if packed is None:
                    packed = packed_weight(passes.dx, stored, magnitude, plan)
                grad_x = _kernel_linear.product(passes.dx, grad, packed, None, magnitude, plan)
        if ctx.needs_input_grad[1]:
            if passes.dw is None:
                dense = weight_gradient(grad, x, plan)
                grad_stored = _dense.kept_gradient(dense, magnitude, plan)
            else:
                grad_stored = _kernel_linear.stored_gradient(passes.dw, grad, x, magnitude, plan)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_stored, grad_bias, None, None, None


def weight_gradient(grad: Tensor, x: Tensor, plan: LinearPlan) -> Tensor:
    """Return the dense weight's gradient, ``[out, in]``, in the memory order of its scratch.

    Args:
        grad: Gradient of the output, ``[N, out]``.
        x: Input, ``[N, in]``.
        plan: Of the weight.
    """
    if plan.whole:
        return grad.t() @ x
    dense = _dense.empty_weight(plan, grad)
    # The compiler takes no transposed ``out``.
    if dense.is_contiguous():
        torch.mm(grad.t(), x, out=dense)
    else:
        torch.mm(x.t(), grad, out=dense.t())
    return dense
