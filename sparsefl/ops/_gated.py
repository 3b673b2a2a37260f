"""Autograd of ``gated_conv2d``."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from sparsefl.ops._autograd import Gradients, first_order, without_autocast
from sparsefl.ops._gated_types import GatedGeometry, GatedOptions


class GatedConv2dFunction(torch.autograd.Function):
    """The gated convolution; saves the input, the convolution's result and small tensors."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gate_weight: Tensor,
        gate_bias: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        geometry: GatedGeometry,
        options: GatedOptions,
        running: tuple[Tensor, Tensor] | None,
        handed: Tensor | None,
        dense: bool,
    ) -> tuple[Tensor, ...]:
        ops = torch.ops.sparsefl
        pooled, nonzero = ops.gated_pool.default(x)
        seen = pooled.sigmoid() if options.sigmoid else pooled  # [N, in]
        logits = torch.addmm(gate_bias, seen, gate_weight.t())
        gates, opened = ops.gated_keep.default(logits, options.kept)
        everything = options.all_samples and running is None
        computed = torch.ones_like(opened) if everything else opened
        sizes = geometry.sizes(x.shape[2], x.shape[3])
        # The batch's mean would take the bias out again, and rounding with it would be lost.
        added = None if running is None else bias
        if dense:
            z = conv2d(x, weight, added, geometry.stride, geometry.padding, geometry.dilation)
        else:
            z = ops.gated_conv2d.default(x, weight, added, nonzero, computed, sizes)
        batch: tuple[Tensor, ...] = ()
        if running is None:
            batch = ops.gated_moments.default(z, computed)
        mean, variance = running or batch[:2]
        if batch and bias is not None:
            batch = (mean + bias, *batch[1:])
        norm = (norm_weight, norm_bias, options.eps, options.relu)
        y = ops.gated_norm.default(z, gates, computed, mean, variance, *norm)
        ctx.geometry, ctx.options, ctx.dense, ctx.sizes = geometry, options, dense, sizes
        ctx.has_bias = bias is not None
        ctx.save_for_backward(
            *(
                x if ctx.needs_input_grad[1] else None,
                z,
                weight,
                gate_weight,
                norm_weight,
                norm_bias,
                seen,
                gates,
                nonzero,
            ),
            _wanted(nonzero, handed) if ctx.needs_input_grad[0] else None,
            *(computed, mean, variance, None if running else batch[2]),
        )
        ctx.mark_non_differentiable(opened, *batch)
        ctx.set_materialize_grads(False)  # of those: zeros nobody reads
        return (y, opened, *batch)

    @staticmethod
    @without_autocast
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        if grad is None:
            return (None,) * 12
        x, z, weight, gate_weight, norm_weight, norm_bias, seen, gates, *rest = ctx.saved_tensors
        nonzero, wanted, computed, mean, variance, planes = rest
        options, needs = ctx.options, ctx.needs_input_grad
        grad_z, grad_gates, grad_norm_weight, grad_norm_bias = (
            torch.ops.sparsefl.gated_norm_backward.default(
                *(grad.contiguous(), z, gates, computed, mean, variance, planes),
                *(norm_weight, norm_bias, options.eps, options.relu),
            )
        )
        start = None
        if needs[0]:
            grad_seen = grad_gates @ gate_weight  # [N, in]
            if options.sigmoid:
                grad_seen *= seen * (1 - seen)
            start = grad_seen.div_(ctx.sizes[0] * ctx.sizes[6])
        asked = [int(needs[0]), int(needs[1])]
        if not any(asked):
            grad_x = grad_weight = None
        elif ctx.dense:
            if x is None:  # only its shape is asked for
                size = (grad_z.shape[0], weight.shape[1], ctx.sizes[0], ctx.sizes[6])
                x = grad_z.new_empty(1).expand(size)
            grad_x, grad_weight = _dense_gradients(grad_z, x, weight, start, ctx.geometry, asked)
        else:
            grad_x, grad_weight = torch.ops.sparsefl.gated_conv2d_backward.default(
                *(grad_z, x, weight, start, nonzero, wanted, computed, ctx.sizes, asked)
            )
        return (
            grad_x if needs[0] else None,
            grad_weight if needs[1] else None,
            grad_z.sum((0, 2, 3)) if ctx.has_bias and needs[2] else None,
            grad_gates.t() @ seen if needs[3] else None,
            grad_gates.sum(0) if needs[4] else None,
            grad_norm_weight if norm_weight is not None and needs[5] else None,
            grad_norm_bias if norm_bias is not None and needs[6] else None,
            *5 * (None,),
        )


def _wanted(nonzero: Tensor, handed: Tensor | None) -> Tensor:
    """Return the pairs whose input gradient is asked for, ``[N, in]`` bool."""
    if handed is None or bool((nonzero & ~handed).any()):
        return torch.ones_like(nonzero)
    return handed


def _dense_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    start: Tensor | None,
    geometry: GatedGeometry,
    asked: list[int],
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward.default(
        *(grad, x, weight, None, geometry.stride, geometry.padding, geometry.dilation),
        *(False, (0, 0), 1, (bool(asked[0]), bool(asked[1]), False)),
    )
    if start is not None:
        grad_x += start[:, :, None, None]
    return grad_x, grad_weight
