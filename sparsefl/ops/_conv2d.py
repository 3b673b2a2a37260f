"""Autograd shared by ``sparse_conv2d`` and ``sign_conv2d``.

The latter has a magnitude. A pointwise convolution is a linear map with pixels and batch in the
lanes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sparsefl.ops import _dense
from sparsefl.ops._autograd import (
    NOT_WANTED,
    SHORT,
    first_order,
    only_wanted,
    rounded,
    widened,
    without_autocast,
)
from sparsefl.ops._conv2d_call import Conv2dCall
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import Conv2dPlan
from sparsefl.ops._recompute import Recipe, keep
from sparsefl.ops.batch_last import empty_batch_last, row_major


class SparseConv2dFunction(torch.autograd.Function):
    """Convolution through the sparse kernels; computes and saves only what is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        bias: Tensor | None,
        magnitude: Magnitude | None,
        call: Conv2dCall,
    ) -> Tensor:
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        saved, recipe, ctx.dish = keep(x) if needs_stored else (None, (), None)
        ctx.save_for_backward(saved, stored if needs_x else None, *recipe)
        dtype = x.dtype
        if dtype in SHORT:
            x, stored, bias = widened(x, stored, bias)
            magnitude = magnitude and magnitude.widened()
        ctx.magnitude, ctx.call = magnitude, call
        if magnitude is None:
            y = torch.ops.sparsefl.sparse_conv2d.default(x, stored, bias, *call.forward)
        else:
            y = torch.ops.sparsefl.sign_conv2d.default(x, stored, *magnitude, bias, *call.forward)
        return y.to(dtype) if dtype in SHORT else y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, *recipe = ctx.saved_tensors
        if recipe:
            x = ctx.dish.cook(Recipe(*recipe))
        dtype, call = grad.dtype, ctx.call
        if dtype in SHORT:
            grad, x, stored = widened(grad, x, stored)
        if stored is None:
            stored = grad.new_empty(call.nnz)  # its size is asked for, not its elements
        needs_x, needs_stored, needs_bias, *_ = ctx.needs_input_grad
        wanted = [call.wanted_x if needs_x else NOT_WANTED, int(needs_stored), int(needs_bias)]
        if ctx.magnitude is None:
            gradients = torch.ops.sparsefl.sparse_conv2d_backward.default(
                grad, x, stored, *call.backward, wanted
            )
        else:
            gradients = torch.ops.sparsefl.sign_conv2d_backward.default(
                grad, x, stored, *ctx.magnitude, *call.backward, wanted
            )
        if dtype in SHORT:
            gradients = rounded(gradients, dtype)
        return (*only_wanted(gradients, wanted), None, None)


def fake_forward(x: Tensor, geometry: list[int]) -> Tensor:
    """Return an output ``[N, O, P, Q]`` of the shape and strides that a forward operator gives."""
    return empty_batch_last(x, x.shape[0], geometry[0], geometry[5], geometry[6])


def input_size(grad: Tensor, geometry: list[int]) -> tuple[int, int, int, int]:
    """Return the size ``[N, C, H, W]`` of the input of an output's gradient."""
    _, inner, _, height, width, *_ = geometry
    return grad.shape[0], inner, height, width


def dense_conv2d(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
) -> Tensor:
    """Return the convolution through dense torch."""
    x, padding = evenly_padded(x, plan)
    if x.permute(1, 2, 3, 0).is_contiguous():
        x = row_major(x)  # torch would copy it itself, more slowly
    if plan.whole and magnitude is None:
        # As in dense_linear.
        weight = stored.view(plan.support.shape)
        return conv2d(x, weight, bias, plan.stride, padding, plan.dilation, plan.groups)
    return DenseConv2dFunction.apply(x, stored, bias, magnitude, plan, padding)


def evenly_padded(x: Tensor, plan: Conv2dPlan) -> tuple[Tensor, tuple[int, int]]:
    """Return an input and the padding that is left to do, equal on both sides of an axis.

    What an uneven ``"same"`` padding has more on one side is padded here.
    """
    (top, height), (left, width) = (axis.pad_total() for axis in plan.axes)
    if (width, height) != (2 * left, 2 * top):  # torch's pad copies where there is nothing to pad
        x = pad(x, (0, width - 2 * left, 0, height - 2 * top))
    return x, (top, left)


class DenseConv2dFunction(torch.autograd.Function):
    """The same through dense torch on a scratch weight."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        bias: Tensor | None,
        magnitude: Magnitude | None,
        plan: Conv2dPlan,
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.magnitude, ctx.plan, ctx.size = magnitude, plan, x.shape
        ctx.geometry = (plan.stride, padding, plan.dilation, plan.groups)
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if needs_stored else None, stored if needs_x else None)
        weight = _dense.fill_weight(stored, magnitude, plan)
        return conv2d(x, weight, bias, *ctx.geometry)

    @staticmethod
    @without_autocast
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored = ctx.saved_tensors
        shape = ctx.plan.support.shape
        if grad.permute(1, 2, 3, 0).is_contiguous():
            grad = row_major(grad)  # as the input was
        needs_x, needs_stored, needs_bias, *_ = ctx.needs_input_grad
        # What is not differentiated is only asked for its shape.
        nothing = grad.new_empty(1)
        if needs_x:
            weight = _dense.fill_weight(stored, ctx.magnitude, ctx.plan)
        else:
            weight = nothing.expand(shape)
        stride, padding, dilation, groups = ctx.geometry
        grad_x, dense, grad_bias = torch.ops.aten.convolution_backward.default(
            grad,
            x if needs_stored else nothing.expand(ctx.size),
            weight,
            [shape[0]],
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (needs_x, needs_stored, needs_bias),
        )
        grad_stored = None
        if needs_stored:
            grad_stored = _dense.kept_gradient(dense, ctx.magnitude, ctx.plan)
        return grad_x, grad_stored, grad_bias, None, None, None
