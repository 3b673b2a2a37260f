"""Autograd of ``group_norm``."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import first_order, only_wanted
from sparsefl.ops.batch_last import batch_last


class GroupNormFunction(torch.autograd.Function):
    """The kernels; saves the input and, for a residual's ReLU, the output or the residual."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        relu: bool,
        again: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.relu = relu
        y, mean, invstd = torch.ops.sparsefl.group_norm.default(
            x, groups, weight, bias, residual, eps, relu
        )
        gated = relu and residual is not None
        added, shown = residual if gated and again else None, y if gated and not again else None
        ctx.save_for_backward(x, weight, bias, added, shown, mean, invstd)
        ctx.mark_non_differentiable(mean, invstd)
        ctx.set_materialize_grads(False)
        return y, mean, invstd

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        needs_x, _, *needs = (int(needed) for needed in ctx.needs_input_grad[:5])
        wanted = [needs_x, *needs]
        gradients = torch.ops.sparsefl.group_norm_backward.default(
            batch_last(grad),
            *ctx.saved_tensors,
            ctx.relu,
            [*wanted[:3], int(wanted[3] and ctx.relu)],
        )
        grad_x, *others, grad_residual = only_wanted(gradients, wanted)
        if wanted[3] and not ctx.relu:
            grad_residual = grad
        return (grad_x, None, *others, grad_residual, None, None, None)
