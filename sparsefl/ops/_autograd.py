"""What the autograd functions share: they are differentiated once, and say so where twice."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sparsefl.ops.batch_last import empty_batch_last

Gradients: TypeAlias = tuple[Tensor | None, ...]

# How the backward operators are asked for an input's gradient (csrc/bindings/arguments.h).
NOT_WANTED, BATCH_LAST, ROW_MAJOR = 0, 1, 2


# Dtypes that the kernels neither read nor write: operands are widened to float32, sums are taken in
# it, and results are rounded once.
SHORT = (torch.bfloat16, torch.float16)


def widened(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Return tensors in float32; None stays."""
    return tuple(t if t is None else t.float() for t in tensors)


def rounded(gradients: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return tensors in ``dtype``."""
    return tuple(g.to(dtype) for g in gradients)


def only_wanted(gradients: tuple[Tensor, ...], wanted: list[int]) -> Gradients:
    """Return a backward operator's gradients, None in place of those that it was not asked for."""
    if 0 not in wanted:
        return gradients
    return tuple(g if asked else None for g, asked in zip(gradients, wanted, strict=True))


def fake_backward(
    grad: Tensor, stored: Tensor, size: tuple[int, ...], wanted: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of the shapes and strides that a backward operator gives.

    Args:
        grad: Of the output, ``[N, out, ...]``.
        stored: The stored elements, ``[nnz]``.
        size: Of the input.
        wanted: What the operator is asked for.
    """
    grad_x = grad.new_empty(0)
    if wanted[0] == BATCH_LAST:
        grad_x = empty_batch_last(grad, *size)
    elif wanted[0] == ROW_MAJOR:
        grad_x = grad.new_empty(size)
    return (
        grad_x,
        grad.new_empty(stored.shape[0] if wanted[1] else 0),
        grad.new_empty(grad.shape[1] if wanted[2] else 0),
    )


def fake_norm_backward(x: Tensor, wanted: list[int]) -> tuple[Tensor, ...]:
    """Return gradients of the shapes and strides that a norm's backward operator gives.

    Args:
        x: The norm's input.
        wanted: What the operator is asked for: of x, weight, bias and residual.
    """
    wants_x, wants_weight, wants_bias, wants_residual = wanted
    return (
        empty_batch_last(x, *x.shape) if wants_x else x.new_empty(0),
        x.new_empty(x.shape[1] if wants_weight else 0),
        x.new_empty(x.shape[1] if wants_bias else 0),
        empty_batch_last(x, *x.shape) if wants_residual else x.new_empty(0),
    )


class _NoSecondDerivative(torch.autograd.Function):
    """Passes a gradient on; raises where it is differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *reached_by: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Gradients:
        raise RuntimeError(
            "the sparse kernels give first derivatives only: run the second derivative (a gradient "
            "penalty, a Hessian) on sparsefl.densify(model)"
        )


def first_order(backward: Callable[[Any, Any], Gradients]) -> Callable[..., Gradients]:
    """Return a backward whose gradients raise where they are differentiated again.

    torch's ``once_differentiable`` cuts the gradients off their inputs instead, so that
    ``torch.autograd.functional.hessian`` gets zeros. Only the first output is differentiable.
    """

    @functools.wraps(backward)
    def run(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> Gradients:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or grad is None:
            return backward(ctx, grad)
        saved = (t for t in ctx.saved_tensors if t is not None)
        reached_by = [t for t in (grad, *saved) if t.requires_grad]
        with torch.no_grad():
            gradients = backward(ctx, grad)
        return tuple(
            g if g is None or not reached_by else _NoSecondDerivative.apply(g, *reached_by)
            for g in gradients
        )

    return run


def without_autocast(function: Callable[..., Any]) -> Any:
    """Return an autograd method that computes in the dtype of its tensors under autocast too."""

    @functools.wraps(function)
    def run(ctx: Any, x: Tensor | None, *arguments: Any) -> Any:
        # Autocast knows no meta device. Entering a context costs as much as a small layer's pass.
        if x is None or x.is_meta or not torch.is_autocast_enabled(x.device.type):
            return function(ctx, x, *arguments)
        with torch.autocast(x.device.type, enabled=False):
            return function(ctx, x, *arguments)

    return run
