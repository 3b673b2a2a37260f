"""What the autograd functions share: they are differentiated once, and say so where twice."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Gradients: TypeAlias = tuple[Tensor | None, ...]


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


def first_order(backward: Callable[[Any, Tensor], Gradients]) -> Callable[[Any, Tensor], Gradients]:
    """Return a backward whose gradients raise where they are differentiated again.

    torch's ``once_differentiable`` cuts the gradients off their inputs instead, so that
    ``torch.autograd.functional.hessian`` gets zeros.
    """

    @functools.wraps(backward)
    def run(ctx: Any, grad: Tensor) -> Gradients:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
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
