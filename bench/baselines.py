"""Baselines that a user would have to write by hand: dense without autograd, and MKL's CSR."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .problem import Gradients, Problem, Step, autograd_step, direct_step

# From this size of a gradient on, glibc's fresh pages show in the time of a dense step.
LARGE_BUFFER_BYTES = 4 << 20


def direct_linear(*, preallocated: bool) -> Callable[[Problem], Step | None]:
    """Return what prepares three dense matrix products, called without autograd.

    Args:
        preallocated: Whether they write into buffers that are kept: no page faults. Large buffers
            that are allocated anew cost a dense weight gradient up to twice its time, so there this
            is the strictest baseline. For smaller weights it prepares nothing: autograd's own time,
            which a user of dense torch pays as well, would be all that it leaves out.
    """

    def prepare(problem: Problem) -> Step | None:
        x, weight, bias, grad = problem.x, problem.weight, problem.bias, problem.grad
        if preallocated and weight.numel() * weight.element_size() < LARGE_BUFFER_BYTES:
            return None
        out, out_x, out_weight, out_bias = (
            torch.empty_like(t) if preallocated else None for t in (grad, x, weight, bias)
        )

        def backward() -> Gradients:
            return Gradients(
                torch.mm(grad, weight, out=out_x),
                torch.mm(grad.t(), x, out=out_weight),
                torch.sum(grad, 0, out=out_bias) if problem.wants_bias else None,
            )

        return direct_step(
            lambda: torch.addmm(bias, x, weight.t(), out=out), backward, kept_of(problem)
        )

    return prepare


def direct_conv2d(memory_format: torch.memory_format) -> Callable[[Problem], Step]:
    """Return what prepares dense torch's convolution operators, called without autograd.

    Args:
        memory_format: Of all tensors.
    """
    aten = torch.ops.aten

    def prepare(problem: Problem) -> Step:
        assert problem.conv is not None
        moved = problem.to(memory_format)
        x, weight, bias, grad = moved.x, moved.weight, moved.bias, moved.grad
        # Stride, padding, dilation, whether transposed, output padding, groups.
        geometry = (*problem.conv, (1, 1), False, (0, 0), 1)
        sizes, wanted = [len(bias)], (True, True, problem.wants_bias)

        def backward() -> Gradients:
            return Gradients(
                *aten.convolution_backward.default(grad, x, weight, sizes, *geometry, wanted)
            )

        return direct_step(
            lambda: aten.convolution.default(x, weight, bias, *geometry), backward, kept_of(problem)
        )

    return prepare


def kept_of(problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what turns a dense weight's gradient into that of what the op stores, row-major."""
    mask = problem.support.to_mask()
    return lambda grad: grad[mask] * problem.score_scale


class CsrWeight:
    """MKL's compressed rows of a matrix, of its transpose, and of its pattern."""

    def __init__(self, weight: torch.Tensor, mask: torch.Tensor) -> None:
        """Build the three, 32-bit indices; ``weight`` and ``mask`` are ``[rows, columns]``."""
        self.forward = csr(weight, mask)
        self.transposed = csr(weight.t().contiguous(), mask.t().contiguous())
        self.pattern = csr(torch.zeros_like(weight), mask)

    def weight_gradient(self, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Compute ``grad @ x.T`` at the kept positions; ``[rows, n]`` and ``[columns, n]``."""
        product: torch.Tensor = torch.sparse.sampled_addmm(self.pattern, grad, x.t(), beta=0.0)
        return product.values()


def csr(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Build the CSR tensor of the kept positions, explicit zeros included."""
    rows = torch.zeros(mask.shape[0] + 1, dtype=torch.int32)
    rows[1:] = mask.sum(1).cumsum(0)
    columns = mask.nonzero()[:, 1].to(torch.int32)
    with warnings.catch_warnings():
        # Torch says once in a process that CSR tensors are in beta.
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(
            rows, columns, weight[mask], size=weight.shape, check_invariants=False
        )


class _CsrFunction(torch.autograd.Function):
    """``y = x W^T + b`` and the gradients of ``x``, the kept weights and ``b``."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, kept: torch.Tensor, bias: torch.Tensor, matrix: CsrWeight
    ) -> torch.Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(x, kept)
        return (matrix.forward @ x.t()).add_(bias[:, None]).t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        grad, matrix = grad.t(), ctx.matrix
        return (
            (matrix.transposed @ grad).t(),
            matrix.weight_gradient(grad, x.t()),
            grad.sum(1),
            None,
        )


def csr_linear(problem: Problem) -> Step:
    """Prepare MKL's CSR products with operands given feature-major, their favourable form.

    They run through autograd, as a model's training does. The transposes that row-major tensors
    would need are not timed, nor is bringing new values into both matrices.
    """
    matrix = CsrWeight(problem.weight, problem.support.to_mask())

    def call(x: torch.Tensor, kept: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _CsrFunction.apply(x, kept, bias, matrix)
        return out

    kept = matrix.forward.values().clone().requires_grad_()
    return autograd_step(call, problem.turned(), kept, lambda grad: grad * problem.score_scale)


def csr_conv2d(problem: Problem) -> Step:
    """Prepare a convolution as im2col and MKL's CSR products, as sparse federated peers do it."""
    assert problem.conv is not None
    conv, kernel = problem.conv, problem.weight.shape[2:]
    rows = problem.weight.shape[0]
    mask = problem.support.to_mask().reshape(rows, -1)
    matrix = CsrWeight(problem.weight.reshape(rows, -1), mask)
    batch, size = problem.x.shape[0], problem.x.shape[2:]
    grad = problem.grad.transpose(0, 1).reshape(rows, -1)  # [out, N * H * W]
    columns: list[torch.Tensor] = []

    def forward() -> torch.Tensor:
        unfolded = F.unfold(problem.x, kernel, stride=conv.stride, padding=conv.padding)
        columns[:] = [unfolded.transpose(0, 1).reshape(unfolded.shape[1], -1)]
        out = (matrix.forward @ columns[0]).add_(problem.bias[:, None])
        return out.view(rows, batch, *problem.grad.shape[2:]).transpose(0, 1)

    def backward() -> Gradients:
        unfolded = (matrix.transposed @ grad).view(columns[0].shape[0], batch, -1).transpose(0, 1)
        x = F.fold(unfolded, size, kernel, stride=conv.stride, padding=conv.padding)
        bias = grad.sum(1) if problem.wants_bias else None
        return Gradients(x, matrix.weight_gradient(grad, columns[0]), bias)

    return direct_step(forward, backward, lambda grad: grad * problem.score_scale)
