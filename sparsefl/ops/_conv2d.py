"""Autograd shared by ``sparse_conv2d`` and ``sign_conv2d``.

The latter has a magnitude. Operands are feature-major, ``[C, H, W, N]``. A pointwise convolution is
a linear map with pixels and batch in the lanes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sparsefl.ops import _dense
from sparsefl.ops._autograd import first_order
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import Conv2dPlan
from sparsefl.ops.batch_last import feature_major, sample_major


def convolve(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
) -> Tensor:
    """Return the cross-correlation of ``x`` ``[C, H, W, N]`` with the plan's weight, batch-last."""
    geometry = plan.geometry(x.shape[1], x.shape[2], transposed=False)
    begin, index = plan.forward[:2]
    if magnitude is None:
        return torch.ops.sparsefl.sparse_conv2d.default(x, stored, bias, begin, index, geometry)
    return torch.ops.sparsefl.sign_conv2d.default(
        x, stored, *magnitude, bias, begin, index, geometry
    )


def input_gradient(
    grad: Tensor,
    stored: Tensor,
    magnitude: Magnitude | None,
    size: tuple[int, int],
    plan: Conv2dPlan,
) -> Tensor:
    """Return the gradient of an input of ``size`` (height, width), ``[C, H, W, N]``."""
    geometry = plan.geometry(*size, transposed=True)
    begin, index, position = plan.transposed[:3]
    if magnitude is None:
        return torch.ops.sparsefl.sparse_conv2d_input_grad.default(
            grad, stored, begin, index, position, geometry
        )
    return torch.ops.sparsefl.sign_conv2d_input_grad.default(
        grad, stored, *magnitude, begin, index, position, geometry
    )


def sample(grad: Tensor, x: Tensor, magnitude: Magnitude | None, plan: Conv2dPlan) -> Tensor:
    """Return the gradient of the stored elements, ``[nnz]``."""
    geometry = plan.geometry(x.shape[1], x.shape[2], transposed=False)
    begin, index = plan.forward[:2]
    if magnitude is None:
        return torch.ops.sparsefl.sparse_conv2d_grad.default(grad, x, begin, index, geometry)
    return torch.ops.sparsefl.sign_conv2d_grad.default(grad, x, *magnitude, begin, index, geometry)


class SparseConv2dFunction(torch.autograd.Function):
    """Convolution through the sparse kernels; computes and saves only what is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        bias: Tensor | None,
        magnitude: Magnitude | None,
        plan: Conv2dPlan,
    ) -> Tensor:
        operand = feature_major(x)  # [C, H, W, N]
        ctx.magnitude, ctx.plan, ctx.size = magnitude, plan, (x.shape[2], x.shape[3])
        ctx.batch_last = x.movedim(0, -1).is_contiguous()
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        ctx.save_for_backward(operand if needs_stored else None, stored if needs_x else None)
        return convolve(operand, stored, bias, magnitude, plan)  # [N, O, P, Q]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operand, stored = ctx.saved_tensors
        gradient = feature_major(grad)  # [O, P, Q, N]
        grad_x = grad_stored = grad_bias = None
        if ctx.needs_input_grad[0]:
            flat = input_gradient(gradient, stored, ctx.magnitude, ctx.size, ctx.plan)
            grad_x = flat.movedim(-1, 0) if ctx.batch_last else sample_major(flat)
        if ctx.needs_input_grad[1]:
            grad_stored = sample(gradient, operand, ctx.magnitude, ctx.plan)
        if ctx.needs_input_grad[2]:
            grad_bias = gradient.flatten(1).sum(1)
        return grad_x, grad_stored, grad_bias, None, None


def dense_conv2d(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
) -> Tensor:
    """Return the convolution through dense torch; an uneven ``"same"`` padding is padded here."""
    (top, height), (left, width) = (axis.pad_total() for axis in plan.axes)
    x = pad(x, (0, width - 2 * left, 0, height - 2 * top))
    return DenseConv2dFunction.apply(x, stored, bias, magnitude, plan, (top, left))


class DenseConv2dFunction(torch.autograd.Function):
    """The same through dense torch on a scratch weight."""

    @staticmethod
    @_dense.without_autocast
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
        weight = _dense.fill_weight(stored, magnitude, plan.flat, _shape(plan))
        return conv2d(x, weight, bias, *ctx.geometry)

    @staticmethod
    @_dense.without_autocast
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored = ctx.saved_tensors
        flat, shape = ctx.plan.flat, _shape(ctx.plan)
        needs_x, needs_stored, needs_bias, *_ = ctx.needs_input_grad
        # What is not differentiated is only asked for its shape.
        nothing = grad.new_empty(1)
        if needs_x:
            weight = _dense.fill_weight(stored, ctx.magnitude, flat, shape)
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
            grad_stored = _dense.kept_gradient(dense, ctx.magnitude, flat)
        return grad_x, grad_stored, grad_bias, None, None, None


def _shape(plan: Conv2dPlan) -> torch.Size:
    return torch.Size(plan.support.shape)
