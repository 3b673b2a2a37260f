"""One benchmarked computation: its tensors, its reference, and the step that a provider runs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from sparsefl import ops, reference
from sparsefl.support import Support

from .tolerance import allowed_error, max_error

Shape = dict[str, int]


class Conv(NamedTuple):
    """Stride and zero padding, of rows and columns."""

    stride: tuple[int, int]
    padding: tuple[int, int]


class Gradients(NamedTuple):
    """Gradients of the input, of the kept weights (``[nnz]``, row-major) and of the bias.

    That of the bias is None where the problem does not ask for it.
    """

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None


class Step(NamedTuple):
    """A training step's forward and backward pass, cut so that each can be timed.

    Attributes:
        reset: Forgets the last step's gradients; not timed.
        forward: Computes the output.
        backward: Computes all gradients that are asked for from the output's gradient.
        gradients: Returns them as row-major tensors; not timed.
        notes: Returns what a row should say of it.
    """

    reset: Callable[[], None]
    forward: Callable[[], torch.Tensor]
    backward: Callable[[torch.Tensor], None]
    gradients: Callable[[], Gradients]
    notes: Callable[[], dict[str, str]] = dict


@dataclasses.dataclass(frozen=True)
class Problem:
    """The tensors of one point.

    Attributes:
        op: Its name, of ``sparsefl.ops`` and ``sparsefl.reference``.
        x: Input, ``[batch, in]`` or ``[N, C, H, W]``, float32.
        weight: Dense weight, zero outside the support.
        bias: ``[out]``.
        grad: Gradient of the output.
        support: Kept positions of the weight.
        magnitudes: That of every kept weight for the sign ops, nothing for the others.
        conv: Stride and padding; None for linear layers.
        batch_last: Whether our input and the output's gradient are wanted batch-last.
        wants_bias: Whether the gradient of the bias is asked for.
    """

    op: str
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    grad: torch.Tensor
    support: Support
    magnitudes: tuple[float, ...]
    conv: Conv | None
    batch_last: bool = False
    wants_bias: bool = True

    @property
    def score_scale(self) -> float:
        """What turns a weight's gradient into that of what the op stores."""
        return math.prod(self.magnitudes)

    def to(self, target: torch.memory_format | torch.dtype) -> Problem:
        """Return the problem with its tensors in a dtype, or the 4-d ones in a memory format."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if isinstance(target, torch.dtype):
                return tensor.to(target)
            return tensor.contiguous(memory_format=target) if tensor.dim() == 4 else tensor

        x, weight, bias, grad = map(move, (self.x, self.weight, self.bias, self.grad))
        return dataclasses.replace(self, x=x, weight=weight, bias=bias, grad=grad)

    def turned(self) -> Problem:
        """Return the problem with its input and the output's gradient batch-last in memory."""
        x, grad = ops.batch_last(self.x), ops.batch_last(self.grad)
        return dataclasses.replace(self, x=x, grad=grad)

    def reference(self) -> tuple[torch.Tensor, Gradients]:
        """Compute the output and the gradients by ``sparsefl.reference`` in the problem's dtype."""
        mask = self.support.to_mask()
        x, bias = (t.detach().requires_grad_() for t in (self.x, self.bias))
        kept = self.weight[mask].requires_grad_()
        op = getattr(reference, self.op)
        out = op(x, kept, *self.magnitudes, mask, bias, *(self.conv or ()))
        gradients = Gradients(*torch.autograd.grad(out, (x, kept, bias), self.grad))
        return out.detach(), gradients if self.wants_bias else gradients._replace(bias=None)

    def flops(self, density: float) -> int:
        """Count the FLOPs of a forward pass, ``2 * density * weights * output positions``."""
        positions = self.grad.numel() // self.grad.shape[1]
        return round(2 * density * self.weight.numel()) * positions


def autograd_step(
    call: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    problem: Problem,
    weight: torch.Tensor,
    kept: Callable[[torch.Tensor], torch.Tensor],
) -> Step:
    """Prepare a step that runs through autograd, as a training loop does.

    Args:
        call: The layer, of input, weight and bias.
        problem: Gives the input, the bias and the output's gradient.
        weight: The leaf that holds the weights, in the provider's own form.
        kept: Turns its gradient into that of the kept weights, row-major.
    """
    x, bias = problem.x.clone().requires_grad_(), problem.bias.clone()
    bias.requires_grad_(problem.wants_bias)
    leaves = (x, weight, bias)

    def reset() -> None:
        for leaf in leaves:
            leaf.grad = None

    def gradients() -> Gradients:
        assert x.grad is not None
        assert weight.grad is not None
        return Gradients(x.grad, kept(weight.grad), bias.grad)

    @functools.cache
    def grad(dtype: torch.dtype) -> torch.Tensor:
        return problem.grad.to(dtype)

    def backward(out: torch.Tensor) -> None:
        torch.autograd.backward(out, grad(out.dtype))

    return Step(reset, lambda: call(*leaves), backward, gradients)


def direct_step(
    forward: Callable[[], torch.Tensor],
    backward: Callable[[], Gradients],
    kept: Callable[[torch.Tensor], torch.Tensor],
) -> Step:
    """Prepare a step of operators called directly, without autograd.

    Args:
        forward: Computes the output.
        backward: Computes the gradients, that of the weights in the provider's own form.
        kept: Turns that into the gradient of the kept weights, row-major.
    """
    held: list[Gradients] = []

    def run(_: torch.Tensor) -> None:
        held[:] = [backward()]

    return Step(held.clear, forward, run, lambda: held[0]._replace(weight=kept(held[0].weight)))


def given(out: torch.Tensor, gradients: Gradients) -> list[torch.Tensor]:
    """List what a step computes."""
    return [out, *(gradient for gradient in gradients if gradient is not None)]


# A peer that adds in another order may err more than dense torch, and is no less a baseline for it.
# In bfloat16, of 8 bits, operands are rounded to 2**-9 of themselves, and a result once more.
TOLERANCES = {"sparsefl": 0.0, "torch_bf16": 2.0**-6}
PEER_TOLERANCE = 1e-4


class Checker:
    """Compares steps with the float64 reference: ours by the tolerance rule, peers more loosely."""

    def __init__(self, problem: Problem) -> None:
        """Compute the reference and the allowed errors, once for all providers of a point."""
        exact, exact_gradients = problem.to(torch.float64).reference()
        single, single_gradients = problem.reference()
        self.exact = given(exact, exact_gradients)
        singles = given(single, single_gradients)
        self.allowed = [allowed_error(e, s) for e, s in zip(self.exact, singles, strict=True)]
        self.largest = [e.abs().max().item() for e in self.exact]

    def correct(self, step: Step, provider: str = "sparsefl") -> bool:
        """Say whether the output and exactly the gradients that are asked for are there and right.

        Args:
            step: What is checked; it is run once.
            provider: Whose it is. Ours obeys the tolerance rule; of the others, errors up to a
                share of the largest element are accepted.
        """
        step.reset()
        out = step.forward()
        step.backward(out)
        actual = given(out.detach(), step.gradients())
        share = TOLERANCES.get(provider, PEER_TOLERANCE)
        bounds = [share * largest for largest in self.largest] if share else self.allowed
        return len(actual) == len(bounds) and all(
            a.shape == e.shape and max_error(a, e) <= bound
            for a, e, bound in zip(actual, self.exact, bounds, strict=True)
        )
