"""``sign_conv2d``, ``sign_conv2d_dx``: a convolution whose kept weights are packed signs.

As :mod:`sparsefl.kernels.sign_linear`; the gradient of the scores is ``block_conv2d_dw`` with the
magnitude as its scale. Source: see there, and :mod:`sparsefl.kernels._block_conv2d` for how.
"""

from torch import Tensor

from sparsefl.kernels._block_conv2d import check_size, convolve, output_size
from sparsefl.kernels._launch import check_images, check_packed, check_plan, check_signs
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan


def sign_conv2d(
    x: Tensor,
    signs: Tensor,
    plan: BlockConv2dPlan,
    magnitude: Tensor | float,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute ``conv2d(x, W, bias)`` with ``W[o] = magnitude[o] * sign[o]`` on the kept blocks.

    Args:
        x: Input, ``[M, in, H, W]``, float32, float16 or bfloat16, copied unless it is
            channels_last; products are summed in float32.
        signs: ``[nnzb, kh * kw, BN, BK / 8]`` uint8, as
            :func:`~sparsefl.kernels.block_plan.pack_block_signs` gives.
        plan: Of ``W`` ``[out, in, kh, kw]``, on the same device.
        magnitude: One of the layer, or of each output channel, ``[out]``, any float dtype.
        bias: ``[out]``, any float dtype.

    Returns:
        ``[M, out, P, Q]``, of the dtype of ``x``, channels_last.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not, or the kernel exceeds the padded input.
    """
    x = check_images("x", x, plan.blocks.shape[1])
    if bias is not None:
        bias = check_packed("bias", bias, plan.blocks.shape[:1], x.device)
    signs, magnitude = _checked(signs, magnitude, plan, x)
    size = output_size(x, plan)
    return convolve(x, signs, plan, size, transposed=False, magnitude=magnitude, bias=bias)


def sign_conv2d_dx(
    dy: Tensor,
    signs: Tensor,
    plan: BlockConv2dPlan,
    size: tuple[int, int],
    magnitude: Tensor | float,
) -> Tensor:
    """Compute the input gradient of :func:`sign_conv2d`.

    Magnitudes of channels are rounded to the dtype of ``dy``, as those of a dense weight would be.

    Args:
        dy: Gradient of the output, ``[M, out, P, Q]``, copied unless it is channels_last.
        signs: As of ``sign_conv2d``.
        plan: As there.
        size: Height and width of the input.
        magnitude: As there.

    Returns:
        ``[M, in, H, W]``, of the dtype of ``dy``, channels_last.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy = check_images("dy", dy, plan.blocks.shape[0])
    signs, magnitude = _checked(signs, magnitude, plan, dy)
    check_size(dy, plan, size)
    return convolve(dy, signs, plan, size, transposed=True, magnitude=magnitude)


def _checked(
    signs: Tensor, magnitude: Tensor | float, plan: BlockConv2dPlan, like: Tensor
) -> tuple[Tensor, Tensor | float]:
    check_plan(plan, like.device)
    return check_signs(signs, magnitude, plan.packed_shape, plan.blocks.shape[0], like.device)
