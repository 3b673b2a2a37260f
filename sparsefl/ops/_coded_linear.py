"""``sign_linear`` with one magnitude through codes of columns and signs, in eager mode."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import (
    BATCH_LAST,
    NOT_WANTED,
    ROW_MAJOR,
    SHORT,
    fake_backward,
    first_order,
    only_wanted,
    rounded,
    widened,
)
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._linear import empty_output
from sparsefl.ops._plan import LinearPlan
from sparsefl.ops._sign_codes import SignCodes


class CodedLinearFunction(torch.autograd.Function):
    """``y = x W^T + b`` with ``W = constant * sgn(scores)`` on the support; see ``sign_linear``.

    It is given acquired codes, and releases them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scores: Tensor,
        bias: Tensor | None,
        constant: float,
        plan: LinearPlan,
        codes: SignCodes,
        row_major: bool,
    ) -> Tensor:
        needs_x, needs_scores = ctx.needs_input_grad[:2]
        wanted_x = ROW_MAJOR if x.is_contiguous() else BATCH_LAST
        ctx.wanted_x = wanted_x if needs_x else NOT_WANTED
        # The scores are for a backward that comes after a forward with others.
        ctx.save_for_backward(x if needs_scores else None, scores if needs_x else None)
        ctx.constant, ctx.plan, ctx.codes = constant, plan, codes
        dtype = x.dtype
        if dtype in SHORT:
            x, scores, bias = widened(x, scores, bias)
        view = plan.forward
        y: Tensor
        y, changed = torch.ops.sparsefl.coded_linear.default(
            *(x, scores, constant, bias, *codes.tensors),
            *(view.begin, view.work, view.block, row_major),
        )
        if changed:
            codes.generation += 1
        ctx.generation = codes.generation
        return y.to(dtype) if dtype in SHORT else y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scores = ctx.saved_tensors
        dtype = grad.dtype
        if dtype in SHORT:
            grad, x, scores = widened(grad, x, scores)
        _, needs_scores, needs_bias, *_ = ctx.needs_input_grad
        wanted = [ctx.wanted_x, int(needs_scores), int(needs_bias)]
        found: tuple[Tensor, ...] = _gradients(ctx, grad, x, scores, wanted)
        if dtype in SHORT:
            found = rounded(found, dtype)
        return (*only_wanted(found, wanted), None, None, None, None)


def _gradients(
    ctx: Any, grad: Tensor, x: Tensor | None, scores: Tensor | None, wanted: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by codes; where another call has them, by the scores."""
    view, codes = ctx.plan.transposed, ctx.codes
    backward = torch.ops.sparsefl.coded_linear_backward.default
    sizes = (view.begin, view.work, view.block, wanted)
    gradients: tuple[Tensor, Tensor, Tensor]
    if scores is None:
        # Without the input's gradient no sign is read.
        gradients = backward(grad, x, ctx.constant, view.columns, *sizes)
        return gradients
    if not codes.acquire(ctx.plan):
        gradients = torch.ops.sparsefl.sign_linear_backward.default(
            grad, x, scores, None, ctx.constant, *view, wanted
        )
        return gradients
    try:
        if codes.generation != ctx.generation:
            codes.update(scores)
        gradients = backward(grad, x, ctx.constant, codes.tensors[1], *sizes)
    finally:
        codes.release()
    return gradients


define(
    "coded_linear(Tensor x, Tensor scores, float constant, Tensor? bias, Tensor(a!) negative,"
    " Tensor(b!) stored, Tensor(c!) codes, Tensor place, Tensor begin, Tensor work, int block,"
    " bool row_major=False) -> (Tensor, int)"
)
define(
    "coded_linear_backward(Tensor grad, Tensor? x, float constant, Tensor codes, Tensor begin,"
    " Tensor work, int block, int[] wanted) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::coded_linear", lib=LIBRARY)
def _(x: Tensor, *others: Any) -> tuple[Tensor, int]:
    *_, work, _, row_major = others
    return empty_output(x, work.shape[0] - 1, row_major), 0


@torch.library.register_fake("sparsefl::coded_linear_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor | None, constant: float, codes: Tensor, *view_and_wanted: Any
) -> tuple[Tensor, Tensor, Tensor]:
    _, work, _, wanted = view_and_wanted
    stored = grad.new_empty(codes.shape)
    return fake_backward(grad, stored, (grad.shape[0], work.shape[0] - 1), wanted)
