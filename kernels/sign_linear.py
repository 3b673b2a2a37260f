"""``sign_linear``, ``sign_linear_dx``: a linear layer whose kept weights are packed signs.

The effective weight of a sign layer is ``magnitude * sgn(scores)`` on its support; here a weight
takes one bit. The gradient of the scores is ``block_dw`` with the magnitude as its gate.

Source: HideNseek (sign supermasks; see sparsefl.fl.methods.hidenseek) for what is computed, see
:mod:`sparsefl.kernels._block_matmul` for how.
"""

from torch import Tensor

from sparsefl.kernels._block_matmul import block_matmul
from sparsefl.kernels._launch import check_matrix, check_packed, check_plan, check_signs
from sparsefl.kernels.block_plan import BlockPlan


def sign_linear(
    x: Tensor,
    signs: Tensor,
    plan: BlockPlan,
    magnitude: Tensor | float,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute ``x @ W.T + bias`` with ``W[o, i] = magnitude[o] * sign[o, i]`` on the kept blocks.

    A support without blocks is ``BlockPlan.full``: every weight kept.

    Args:
        x: Input, ``[M, in]``, float32, float16 or bfloat16; products are summed in float32.
        signs: ``[nnzb, BN, BK / 8]`` uint8, as
            :func:`~sparsefl.kernels.block_plan.pack_block_signs` gives.
        plan: Of ``W`` ``[out, in]``, on the same device.
        magnitude: One of the layer, or of each output, ``[out]``, any float dtype.
        bias: ``[out]``, any float dtype.

    Returns:
        ``[M, out]``, of the dtype of ``x``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    x = check_matrix("x", x, plan.shape[1])
    if bias is not None:
        bias = check_packed("bias", bias, plan.shape[:1], x.device)
    signs, magnitude = _checked(signs, magnitude, plan, x)
    return block_matmul(x, signs, plan, transposed=False, magnitude=magnitude, bias=bias)


def sign_linear_dx(dy: Tensor, signs: Tensor, plan: BlockPlan, magnitude: Tensor | float) -> Tensor:
    """Compute the input gradient ``dy @ W`` of :func:`sign_linear`.

    Magnitudes of rows are rounded to the dtype of ``dy``, as those of a dense weight would be.

    Args:
        dy: Gradient of the output, ``[M, out]``.
        signs: As of ``sign_linear``.
        plan: As there.
        magnitude: As there.

    Returns:
        ``[M, in]``, of the dtype of ``dy``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy = check_matrix("dy", dy, plan.shape[0])
    signs, magnitude = _checked(signs, magnitude, plan, dy)
    return block_matmul(dy, signs, plan, transposed=True, magnitude=magnitude)


def _checked(
    signs: Tensor, magnitude: Tensor | float, plan: BlockPlan, like: Tensor
) -> tuple[Tensor, Tensor | float]:
    check_plan(plan, like.device)
    return check_signs(signs, magnitude, plan.packed_shape, plan.shape[0], like.device)
