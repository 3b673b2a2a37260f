"""``sign_linear``: a linear map with the weights ``magnitude * sgn(scores)`` on a support.

Source: sign supermasks of HideNseek (Vallapuram et al. 2022, arXiv 2206.04385); the
straight-through estimator of Bengio et al. 2013, arXiv 1308.3432.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _checks
from sparsefl.ops._autograd import fake_backward
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._linear import empty_output
from sparsefl.ops._plan import LinearPlan
from sparsefl.ops._sign_codes import SignCodes
from sparsefl.ops.sparse_linear import linear


def sign_linear(
    x: Tensor,
    scores: Tensor,
    magnitude: float | Tensor,
    bias: Tensor | None,
    plan: LinearPlan,
    *,
    row_major: bool = False,
    codes: SignCodes | None = None,
) -> Tensor:
    """Compute ``y = x @ W.T + bias`` with ``W = magnitude * sgn(scores)`` on the support.

    ``sgn(0) = +1``. The gradient of a score is straight-through: ``dL/dW * magnitude``, on the
    support alone. The kernels read the scores, or with ``codes`` and one magnitude two bytes a kept
    weight, its column and its sign; no weight is stored.

    Args:
        x: Input, ``[..., in_features]``, float32, float64, bfloat16 or
            float16 (summed in float32, rounded once), any strides.
        scores: Latent scores, ``[nnz]``, in the plan's order, dtype of ``x``.
        magnitude: One number of at least 0, or ``[nnz]`` in the plan's order, dtype of ``x``.
        bias: ``[out_features]``, dtype of ``x``, or None.
        plan: The support ``[out_features, in_features]`` as the kernels walk it.
        row_major: Whether the output is wanted contiguous, as in :func:`sparse_linear`.
        codes: What the layer keeps between calls, eight bytes a kept weight; None: nothing.

    Returns:
        ``[..., out_features]``, dtype of ``x``, with the batch innermost in memory
        (torch's layout where it is asked for, or where the support is so dense that dense torch
        computes it).

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, device or magnitude does not fit.
    """
    x = _checks.check_any_operand(x, scores)
    scores = _checks.check_stored("scores", scores, plan.support.nnz, x)
    checked = _checks.check_magnitude(magnitude, plan.support.nnz, x)
    return linear(x, scores, bias, checked, plan, row_major, codes)


define(
    "sign_linear(Tensor x, Tensor scores, Tensor? magnitudes, float constant, Tensor? bias,"
    " Tensor begin, Tensor index, Tensor? position, Tensor work, int block,"
    " bool row_major=False,"
    " int out_features=0) -> Tensor"
)
define(
    "sign_linear_backward(Tensor grad, Tensor? x, Tensor scores, Tensor? magnitudes,"
    " float constant, Tensor begin, Tensor index, Tensor? position, Tensor work, int block,"
    " int[] wanted) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::sign_linear", lib=LIBRARY)
def _(
    x: Tensor,
    scores: Tensor,
    magnitudes: Tensor | None,
    constant: float,
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


@torch.library.register_fake("sparsefl::sign_linear_backward", lib=LIBRARY)
def _(
    grad: Tensor,
    x: Tensor | None,
    scores: Tensor,
    magnitudes: Tensor | None,
    constant: float,
    *view_and_wanted: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *_, work, _, wanted = view_and_wanted
    return fake_backward(grad, scores, (grad.shape[0], work.shape[0] - 1), wanted)
