"""``sparse_linear``: a linear map whose pruned weights are neither read nor differentiated.

Source: the batch-in-lanes blocked product follows the register-tiled row products of Gale et al.
2020, "Sparse GPU Kernels for Deep Learning", sec. 5, with the batch in the lanes of a CPU.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _checks, _dispatch
from sparsefl.ops._autograd import fake_backward
from sparsefl.ops._coded_linear import CodedLinearFunction
from sparsefl.ops._compact_layers import compact_linear
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._linear import SparseLinearFunction, dense_linear, empty_output
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import LinearPlan
from sparsefl.ops._sign_codes import SignCodes


def sparse_linear(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    plan: LinearPlan,
    *,
    row_major: bool = False,
) -> Tensor:
    """Compute ``y = x @ W.T + bias`` where ``W`` holds ``values`` on the plan's support.

    Backward gives ``dL/dx = dL/dy @ W`` and ``dL/dvalues`` on the support alone; each is skipped
    when it is not asked for.

    Args:
        x: Input, ``[..., in_features]``, float32, float64, bfloat16 or
            float16 (summed in float32, rounded once), any strides.
        values: Kept weights, ``[nnz]``, in the plan's order, dtype of ``x``.
        bias: ``[out_features]``, dtype of ``x``, or None.
        plan: The support ``[out_features, in_features]`` as the kernels walk it.
        row_major: Whether the output is wanted contiguous, for a dense layer of torch that follows.
            The kernels then turn what they have in their caches, which costs less than
            :func:`sparsefl.ops.row_major` afterwards.

    Returns:
        ``[..., out_features]``, dtype of ``x``, with the batch innermost in memory
        (torch's layout where it is asked for, or where dense torch is expected to be faster). Under
        autocast float32, but autocast's dtype where every weight is kept.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit.
    """
    x = _checks.check_any_operand(x, values)
    values = _checks.check_stored("values", values, plan.support.nnz, x)
    return linear(x, values, bias, None, plan, row_major)


def linear(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: LinearPlan,
    row_major: bool,
    codes: SignCodes | None = None,
) -> Tensor:
    """Run the layout of the plan's support.

    ``magnitude=None``: ``stored`` are the weights; ``codes`` serve where all have one magnitude.
    """
    out_features, in_features = plan.support.shape
    if x.dim() == 0 or x.shape[-1] != in_features:
        raise ValueError(f"x: expected [..., {in_features}] (in_features), got {list(x.shape)}")
    bias = _checks.check_bias(bias, out_features, x)
    # A reshape of two dimensions to the same two would be a node of autograd.
    flat = x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), in_features)  # [N, in_features]
    layout = _dispatch.chosen(plan, "linear", flat, flat.shape[0], 1)
    if layout == "dense":
        y = dense_linear(flat, stored, bias, magnitude, plan)
    elif layout == "compact":
        y = compact_linear(flat, stored, bias, magnitude, plan)
    elif codes and magnitude and codes.serve(plan, flat, magnitude) and codes.acquire(plan):
        try:
            y = CodedLinearFunction.apply(
                flat, stored, bias, magnitude.constant, plan, codes, row_major
            )
        finally:
            codes.release()
    else:
        views = (plan.forward, plan.transposed)
        y = SparseLinearFunction.apply(flat, stored, bias, magnitude, views, row_major)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], out_features)


define(
    "sparse_linear(Tensor x, Tensor values, Tensor? bias, Tensor begin, Tensor index,"
    " Tensor? position, Tensor work, int block, bool row_major=False,"
    " int out_features=0) -> Tensor"
)
define(
    "sparse_linear_backward(Tensor grad, Tensor? x, Tensor values, Tensor begin, Tensor index,"
    " Tensor? position, Tensor work, int block, int[] wanted) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::sparse_linear", lib=LIBRARY)
def _(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    begin: Tensor,
    index: Tensor,
    position: Tensor | None,
    work: Tensor,
    block: int,
    row_major: bool = False,
    out_features: int = 0,
) -> Tensor:
    return empty_output(x, out_features or work.shape[0] - 1, row_major or out_features > 0)


@torch.library.register_fake("sparsefl::sparse_linear_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor | None, values: Tensor, *view_and_wanted: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, work, _, wanted = view_and_wanted
    return fake_backward(grad, values, (grad.shape[0], work.shape[0] - 1), wanted)
