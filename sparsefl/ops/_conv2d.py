"""Autograd shared by ``sparse_conv2d`` and ``sign_conv2d``.

The latter has a magnitude. A pointwise convolution is a linear map with pixels and batch in the
lanes.
"""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sparsefl.ops import _dense, _kernel_conv2d, _passes
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
from sparsefl.ops._kernel_weight import packed_weight
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
    """Return the convolution through dense torch.

    On a GPU each pass goes through a kernel of :mod:`sparsefl.kernels` where one is chosen.
    """
    pixels = math.prod(plan.output_size(x.shape[2], x.shape[3]))
    x, padding = evenly_padded(x, plan)
    if x.permute(1, 2, 3, 0).is_contiguous():
        x = row_major(x)  # torch would copy it itself, more slowly
    if plan.whole and magnitude is None:
        # As in dense_linear.
        weight = stored.view(plan.support.shape)
        return conv2d(x, weight, bias, plan.stride, padding, plan.dilation, plan.groups)
    one = magnitude is not None and magnitude.each is None
    passes = _passes.passes_of(plan, x, x.shape[0] * pixels, one)
    return DenseConv2dFunction.apply(x, stored, bias, magnitude, plan, padding, passes)


def evenly_padded(x: Tensor, plan: Conv2dPlan) -> tuple[Tensor, tuple[int, int]]:
    """Return an input and the padding that is left to do, equal on both sides of an axis.

    What an uneven ``"same"`` padding has more on one side is padded here.
    """
    (top, height), (left, width) = (axis.pad_total() for axis in plan.axes)
    if (width, height) != (2 * left, 2 * top):  # torch's pad copies where there is nothing to pad
        x = pad(x, (0, width - 2 * left, 0, height - 2 * top))
    return x, (top, left)


class DenseConv2dFunction(torch.autograd.Function):
    """The same through dense torch on a scratch weight, but for passes that a kernel computes."""

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
        passes: _passes.Passes = _passes.DENSE_PASSES,
    ) -> Tensor:
        ctx.magnitude, ctx.plan, ctx.size, ctx.passes = magnitude, plan, x.shape, passes
        ctx.geometry = (plan.stride, padding, plan.dilation, plan.groups)
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        packed = None
        if passes.forward is None:
            weight = _dense.fill_weight(stored, magnitude, plan)
            y = conv2d(x, weight, bias, *ctx.geometry)
        else:
            packed = packed_weight(passes.forward, stored, magnitude, plan)
            x = x.contiguous(memory_format=torch.channels_last)
            y = _kernel_conv2d.product(passes.forward, x, packed, bias, magnitude, plan, x.shape)
        # As in DenseLinearFunction.
        signs = packed if needs_x and passes.share_signs else None
        ctx.save_for_backward(x if needs_stored else None, stored if needs_x else None, signs)
        return y

    @staticmethod
    @without_autocast
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, packed = ctx.saved_tensors
        magnitude, plan, passes = ctx.magnitude, ctx.plan, ctx.passes
        if grad.permute(1, 2, 3, 0).is_contiguous():
            grad = row_major(grad)  # as the input was
        needs_x, needs_stored, needs_bias, *_ = ctx.needs_input_grad
        dense_x, dense_dw = needs_x and passes.dx is None, needs_stored and passes.dw is None
        wanted = (dense_x, dense_dw, needs_bias)
        grad_x, dense, grad_bias = dense_gradients(
            grad,
            x if dense_dw else ctx.size,
            _dense.fill_weight(stored, magnitude, plan) if dense_x else None,
            ctx.geometry,
            wanted,
            plan,
        )
        if needs_x and passes.dx is not None:
            if packed is None:
                packed = packed_weight(passes.dx, stored, magnitude, plan)
            given = grad, packed, None, magnitude, plan, ctx.size
            grad_x = _kernel_conv2d.product(passes.dx, *given)
        grad_stored = None
        if dense_dw:
            assert dense is not None
            grad_stored = _dense.kept_gradient(dense, magnitude, plan)
        elif needs_stored:
            grad_stored = _kernel_conv2d.stored_gradient(passes.dw, grad, x, magnitude, plan)
        return grad_x, grad_stored, grad_bias, None, None, None, None


# Stride, padding, dilation and groups, as torch takes them.
TorchGeometry: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


def dense_gradients(
    grad: Tensor,
    x: Tensor | torch.Size,
    weight: Tensor | None,
    geometry: TorchGeometry,
    wanted: tuple[bool, bool, bool],
    plan: Conv2dPlan,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the wanted gradients of a convolution's input, dense weight and bias by torch.

    Args:
        grad: Of the output.
        x: The input, or its size where the weight's gradient is not wanted.
        weight: The dense weight, or None where the input's gradient is not wanted.
        geometry: How torch lays it over images.
        wanted: Which of the three.
        plan: Of the layer.
    """
    if not any(wanted[:2]):
        return None, None, grad.sum((0, 2, 3)) if wanted[2] else None
    shape = plan.support.shape
    # What is not differentiated is only asked for its shape.
    nothing = grad.new_empty(1)
    stride, padding, dilation, groups = geometry
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward.default(
        grad,
        x if isinstance(x, Tensor) else nothing.expand(x),
        nothing.expand(shape) if weight is None else weight,
        [shape[0]],
        stride,
        padding,
        dilation,
        False,
        (0, 0),
        groups,
        wanted,
    )
    return found
