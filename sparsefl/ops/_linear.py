"""Autograd shared by ``sparse_linear`` and ``sign_linear``.

The latter has a constant or magnitudes. Functions work feature-major: ``x`` ``[in, N]``, result
``[out, N]``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsefl.ops import _dense
from sparsefl.ops._plan import View
from sparsefl.ops.batch_last import feature_major


def multiply(
    x: Tensor,
    stored: Tensor,
    magnitudes: Tensor | None,
    constant: float | None,
    bias: Tensor | None,
    view: View,
) -> Tensor:
    """Return ``W @ x + bias`` of a view's weight; ``constant=None``: ``stored`` are values."""
    begin, index, position, work, block = view
    if constant is None:
        return torch.ops.sparsefl.sparse_linear.default(
            x, stored, bias, begin, index, position, work, block
        )
    return torch.ops.sparsefl.sign_linear.default(
        x, stored, magnitudes, constant, bias, begin, index, position, work, block
    )


def sample(
    grad: Tensor, x: Tensor, magnitudes: Tensor | None, constant: float | None, view: View
) -> Tensor:
    """Return the gradient of the stored elements, ``sum_n grad[row, n] * x[column, n]``."""
    begin, index, _, work, block = view
    if constant is None:
        return torch.ops.sparsefl.sparse_linear_grad.default(grad, x, begin, index, work, block)
    return torch.ops.sparsefl.sign_linear_grad.default(
        grad, x, magnitudes, constant, begin, index, work, block
    )


class SparseLinearFunction(torch.autograd.Function):
    """``y = x W^T + b`` through the sparse kernels; computes and saves only what is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        magnitudes: Tensor | None,
        constant: float | None,
        bias: Tensor | None,
        views: tuple[View, View],
    ) -> Tensor:
        operand = feature_major(x)
        ctx.constant, ctx.views = constant, views
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            operand if needs_stored else None, stored if needs_x else None, magnitudes
        )
        return multiply(operand, stored, magnitudes, constant, bias, views[0]).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operand, stored, magnitudes = ctx.saved_tensors
        gradient = feature_major(grad)
        grad_x = grad_stored = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = multiply(gradient, stored, magnitudes, ctx.constant, None, ctx.views[1]).t()
        if ctx.needs_input_grad[1]:
            grad_stored = sample(gradient, operand, magnitudes, ctx.constant, ctx.views[0])
        if ctx.needs_input_grad[4]:
            grad_bias = gradient.sum(1)
        return grad_x, grad_stored, None, None, grad_bias, None


class DenseLinearFunction(torch.autograd.Function):
    """The same through dense torch on a scratch weight."""

    @staticmethod
    @_dense.without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        stored: Tensor,
        magnitudes: Tensor | None,
        constant: float | None,
        bias: Tensor | None,
        flat: Tensor,
        shape: tuple[int, int],
    ) -> Tensor:
        ctx.constant, ctx.shape = constant, torch.Size(shape)
        needs_x, needs_stored = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            x if needs_stored else None, stored if needs_x else None, magnitudes, flat
        )
        weight = _dense.fill_weight(stored, magnitudes, constant, flat, ctx.shape)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    @_dense.without_autocast
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stored, magnitudes, flat = ctx.saved_tensors
        grad_x = grad_stored = grad_bias = None
        if ctx.needs_input_grad[0]:
            weight = _dense.fill_weight(stored, magnitudes, ctx.constant, flat, ctx.shape)
            grad_x = grad @ weight
        if ctx.needs_input_grad[1]:
            dense = _dense.scratch(ctx.shape.numel(), grad).view(ctx.shape)
            torch.mm(grad.t(), x, out=dense)
            grad_stored = _dense.kept_gradient(dense, magnitudes, ctx.constant, flat)
        if ctx.needs_input_grad[4]:
            grad_bias = grad.sum(0)
        return grad_x, grad_stored, None, None, grad_bias, None, None
