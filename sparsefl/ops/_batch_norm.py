"""Autograd of ``batch_norm``."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import first_order, only_wanted
from sparsefl.ops.batch_last import batch_last


class BatchNormFunction(torch.autograd.Function):
    """The kernels; saves the input and, for a residual's ReLU, the output or the residual."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        eps: float,
        relu: bool,
        again: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.batch_statistics, ctx.relu = mean is None, relu
        y, mean, var, invstd = torch.ops.sparsefl.batch_norm.default(
            x, weight, bias, residual, mean, var, eps, relu
        )
        gated = relu and residual is not None
        added, shown = residual if gated and again else None, y if gated and not again else None
        ctx.save_for_backward(x, weight, bias, added, shown, mean, invstd)
        ctx.mark_non_differentiable(mean, var, invstd)
        ctx.set_materialize_grads(False)
        return y, mean, var, invstd

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 9
        x, weight, bias, residual, y, mean, invstd = ctx.saved_tensors
        wanted = [int(needed) for needed in ctx.needs_input_grad[:4]]
        gradients = torch.ops.sparsefl.batch_norm_backward.default(
            batch_last(grad),
            x,
            weight,
            bias,
            residual,
            y,
            mean,
            invstd,
            ctx.batch_statistics,
            ctx.relu,
            [*wanted[:3], int(wanted[3] and ctx.relu)],
        )
        *others, grad_residual = only_wanted(gradients, wanted)
        if wanted[3] and not ctx.relu:
            grad_residual = grad
        return (*others, grad_residual, None, None, None, None, None)
