"""``block_conv2d``, ``block_conv2d_dx``: a convolution whose weight is made of blocks of channels.

Source: see :mod:`sparsefl.kernels._block_conv2d`.
"""

from torch import Tensor

from sparsefl.kernels._block_conv2d import check_size, convolve, output_size
from sparsefl.kernels._launch import check_images, check_packed, check_plan, check_same
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan


def block_conv2d(
    x: Tensor, values: Tensor, plan: BlockConv2dPlan, bias: Tensor | None = None
) -> Tensor:
    """Compute torch's ``conv2d(x, W, bias)`` of one group, padded alike on both sides.

    Channels of the output without a kept block are the bias, or zeros.

    Args:
        x: Input, ``[M, in, H, W]``, float32, float16 or bfloat16, copied unless it is
            channels_last; products are summed in float32.
        values: Kept blocks of ``W`` ``[out, in, kh, kw]``, packed ``[nnzb, kh * kw, BN, BK]``, of
            the same dtype.
        plan: Of ``W``, on the same device.
        bias: ``[out]``, any float dtype.

    Returns:
        ``[M, out, P, Q]``, of the dtype of ``x``, channels_last.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not, or the kernel exceeds the padded input.
    """
    x = check_images("x", x, plan.blocks.shape[1])
    values = _checked_values(values, plan, x)
    if bias is not None:
        bias = check_packed("bias", bias, plan.blocks.shape[:1], x.device)
    return convolve(x, values, plan, output_size(x, plan), transposed=False, bias=bias)


def block_conv2d_dx(
    dy: Tensor, values: Tensor, plan: BlockConv2dPlan, size: tuple[int, int]
) -> Tensor:
    """Compute the input gradient of :func:`block_conv2d`.

    Args:
        dy: Gradient of the output, ``[M, out, P, Q]``, copied unless it is channels_last.
        values: As of ``block_conv2d``.
        plan: As there.
        size: Height and width of the input.

    Returns:
        ``[M, in, H, W]``, of the dtype of ``dy``, channels_last.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy = check_images("dy", dy, plan.blocks.shape[0])
    values = _checked_values(values, plan, dy)
    check_size(dy, plan, size)
    return convolve(dy, values, plan, size, transposed=True)


def _checked_values(values: Tensor, plan: BlockConv2dPlan, like: Tensor) -> Tensor:
    check_plan(plan, like.device)
    check_same("values", values, like.dtype, like.device)
    return check_packed("values", values, plan.packed_shape, like.device)
