"""``sparse_conv2d``: a 2-d convolution whose pruned weights are never read or differentiated.

Source: direct sparse convolution after Park et al. 2017, "Faster CNNs with Direct Sparse
Convolutions and Guided Pruning", sec. 3, with register tiles of pixels and the batch in the lanes.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _checks
from sparsefl.ops._autograd import fake_backward
from sparsefl.ops._compact_layers import compact_conv2d
from sparsefl.ops._conv2d import (
    SparseConv2dFunction,
    dense_conv2d,
    fake_forward,
    input_size,
)
from sparsefl.ops._conv2d_call import Conv2dCall, call_of, known_call
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._linear import SparseLinearFunction
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import Conv2dPlan
from sparsefl.ops.batch_last import batch_last


def sparse_conv2d(x: Tensor, values: Tensor, bias: Tensor | None, plan: Conv2dPlan) -> Tensor:
    """Compute the convolution of ``x`` with the weight that holds ``values`` on the support.

    ``y[n, o, p, q] = bias[o] + sum_{c, i, j} W[o, c, i, j] * x[n, c, p s_h + i d_h - p_h, ...]``,
    torch's cross-correlation with stride s, dilation d and zero padding p. Backward gives ``dL/dx``
    and ``dL/dvalues`` on the support alone; each is skipped when it is not asked for.

    Args:
        x: Input, ``[N, C, H, W]``, float32, float64, bfloat16 or
            float16 (summed in float32, rounded once), any strides.
        values: Kept weights, ``[nnz]``, in the plan's order, dtype of ``x``.
        bias: ``[out_channels]``, dtype of ``x``, or None.
        plan: The support and geometry as the kernels walk them.

    Returns:
        ``[N, out_channels, P, Q]``, dtype of ``x``, with the batch innermost in memory
        (torch's layout where the support is so dense that dense torch computes it).

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit, or the kernel exceeds the padded input.
    """
    call = known_call(plan, x, values, bias)
    if call is not None:
        return _run(x, values, bias, None, plan, call)
    x = _checks.check_any_operand(x, values)
    values = _checks.check_stored("values", values, plan.support.nnz, x)
    return conv2d(x, values, bias, None, plan)


def conv2d(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
) -> Tensor:
    """Run the layout of the plan's support; ``magnitude=None``: ``stored`` are the weights."""
    call = call_of(plan, x)
    bias = _checks.check_bias(bias, plan.support.shape[0], x)
    return _run(x, stored, bias, magnitude, plan, call)


def _run(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
    call: Conv2dCall,
) -> Tensor:
    if call.layout == "dense":
        return dense_conv2d(x, stored, bias, magnitude, plan)
    if call.layout == "compact":
        return compact_conv2d(x, stored, bias, magnitude, plan)
    if plan.linear:
        return _pointwise(x, stored, bias, magnitude, plan)
    return SparseConv2dFunction.apply(x, stored, bias, magnitude, call)  # type: ignore[no-any-return]


def _pointwise(
    x: Tensor,
    stored: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
) -> Tensor:
    """Run a 1x1 convolution as a linear map of pixels and batch; all reshaping is by views."""
    pixels = batch_last(x).permute(2, 3, 0, 1)  # [H, W, N, C]
    views = (plan.forward, plan.transposed)
    flat = pixels.reshape(-1, x.shape[1])  # [H * W * N, C], batch-last
    y = SparseLinearFunction.apply(flat, stored, bias, magnitude, views)
    return y.view(*pixels.shape[:3], plan.support.shape[0]).permute(2, 3, 0, 1)


define(
    "sparse_conv2d(Tensor x, Tensor values, Tensor? bias, Tensor begin, Tensor index,"
    " Tensor? position, Tensor work, int block, int[] geometry) -> Tensor"
)
define(
    "sparse_conv2d_backward(Tensor grad, Tensor? x, Tensor values, Tensor begin, Tensor index,"
    " Tensor? position, Tensor work, int block, Tensor begin_t, Tensor index_t,"
    " Tensor? position_t, Tensor work_t, int block_t, int[] geometry, int[] wanted)"
    " -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::sparse_conv2d", lib=LIBRARY)
def _(x: Tensor, values: Tensor, bias: Tensor | None, *view_and_geometry: Any) -> Tensor:
    return fake_forward(x, view_and_geometry[-1])


@torch.library.register_fake("sparsefl::sparse_conv2d_backward", lib=LIBRARY)
def _(
    grad: Tensor, x: Tensor | None, values: Tensor, *views_geometry_wanted: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, geometry, wanted = views_geometry_wanted
    return fake_backward(grad, values, input_size(grad, geometry), wanted)
