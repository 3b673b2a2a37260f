"""``sign_conv2d``: a 2-d convolution with the weights ``magnitude * sgn(scores)`` on a support.

Source: sign supermasks of HideNseek (Vallapuram et al. 2022, arXiv 2206.04385); the
straight-through estimator of Bengio et al. 2013, arXiv 1308.3432.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _checks
from sparsefl.ops._autograd import fake_backward
from sparsefl.ops._conv2d import fake_forward, input_size
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._plan import Conv2dPlan
from sparsefl.ops.sparse_conv2d import conv2d


def sign_conv2d(
    x: Tensor, scores: Tensor, magnitude: float | Tensor, bias: Tensor | None, plan: Conv2dPlan
) -> Tensor:
    """Compute ``sparse_conv2d`` with the weights ``magnitude * sgn(scores)`` on the support.

    ``sgn(0) = +1``. The gradient of a score is straight-through: ``dL/dW * magnitude``, on the
    support alone. The kernels read the scores; no weight is stored.

    Args:
        x: Input, ``[N, C, H, W]``, float32, float64, bfloat16 or
            float16 (summed in float32, rounded once), any strides.
        scores: Latent scores, ``[nnz]``, in the plan's order, dtype of ``x``.
        magnitude: One number of at least 0, or ``[nnz]`` in the plan's order, dtype of ``x``.
        bias: ``[out_channels]``, dtype of ``x``, or None.
        plan: The support and geometry as the kernels walk them.

    Returns:
        ``[N, out_channels, P, Q]``, dtype of ``x``, with the batch innermost in memory
        (torch's layout where the support is so dense that dense torch computes it).

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, device or magnitude does not fit.
    """
    x = _checks.check_any_operand(x, scores)
    scores = _checks.check_stored("scores", scores, plan.support.nnz, x)
    checked = _checks.check_magnitude(magnitude, plan.support.nnz, x)
    return conv2d(x, scores, bias, checked, plan)


define(
    "sign_conv2d(Tensor x, Tensor scores, Tensor? magnitudes, float constant, Tensor? bias,"
    " Tensor begin, Tensor index, Tensor? position, Tensor work, int block, int[] geometry)"
    " -> Tensor"
)
define(
    "sign_conv2d_backward(Tensor grad, Tensor? x, Tensor scores, Tensor? magnitudes,"
    " float constant, Tensor begin, Tensor index, Tensor? position, Tensor work, int block,"
    " Tensor begin_t, Tensor index_t, Tensor? position_t, Tensor work_t, int block_t,"
    " int[] geometry, int[] wanted) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::sign_conv2d", lib=LIBRARY)
def _(x: Tensor, scores: Tensor, *magnitude_to_geometry: Any) -> Tensor:
    return fake_forward(x, magnitude_to_geometry[-1])


@torch.library.register_fake("sparsefl::sign_conv2d_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor | None, scores: Tensor, *magnitude_to_wanted: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, geometry, wanted = magnitude_to_wanted
    return fake_backward(grad, scores, input_size(grad, geometry), wanted)
