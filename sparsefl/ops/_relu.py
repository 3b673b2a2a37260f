"""Autograd of ``relu``."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import Gradients, first_order


class ReluFunction(torch.autograd.Function):
    """The kernels, on memory as it lies; saves the bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, passed = torch.ops.sparsefl.relu.default(x)
        ctx.save_for_backward(passed)
        ctx.size, ctx.stride = y.shape, y.stride()
        return y  # type: ignore[no-any-return]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        (passed,) = ctx.saved_tensors
        if grad.stride() != ctx.stride:
            grad = grad.new_empty_strided(ctx.size, ctx.stride).copy_(grad)
        return (torch.ops.sparsefl.relu_backward.default(grad, passed),)
