"""Autograd of ``max_pool2d``."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import first_order
from sparsefl.ops.batch_last import batch_last


class MaxPool2dFunction(torch.autograd.Function):
    """The kernels; saves where in its window each element of the output comes from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out_height: int, out_width: int, window: list[int]) -> Tensor:
        y, taps = torch.ops.sparsefl.max_pool2d.default(x, out_height, out_width, window)
        ctx.save_for_backward(taps)
        ctx.size, ctx.window = (x.shape[2], x.shape[3]), window
        return y  # type: ignore[no-any-return]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        grad_x = torch.ops.sparsefl.max_pool2d_backward.default(
            batch_last(grad), taps, *ctx.size, ctx.window
        )
        return grad_x, None, None, None
