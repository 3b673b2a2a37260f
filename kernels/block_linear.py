"""``block_linear``, ``block_linear_dx``: a linear layer whose weight is made of kept blocks."""

from torch import Tensor

from sparsefl.kernels._block_matmul import block_matmul
from sparsefl.kernels._launch import check_matrix, check_packed, check_plan, check_same
from sparsefl.kernels.block_plan import BlockPlan


def block_linear(x: Tensor, values: Tensor, plan: BlockPlan, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ W.T + bias``; rows of ``W`` without a kept block give the bias, or zeros.

    Args:
        x: Input, ``[M, in]``, float32, float16 or bfloat16; products are summed in float32.
        values: Kept blocks of ``W`` ``[out, in]``, packed ``[nnzb, BN, BK]``, of the same dtype.
        plan: Of ``W``, on the same device.
        bias: ``[out]``, any float dtype.

    Returns:
        ``[M, out]``, of the dtype of ``x``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.

    Source: see :mod:`sparsefl.kernels._block_matmul`.
    """
    x = check_matrix("x", x, plan.shape[1])
    values = _checked_values(values, plan, x)
    if bias is not None:
        bias = check_packed("bias", bias, plan.shape[:1], x.device)
    return block_matmul(x, values, plan, transposed=False, bias=bias)


def block_linear_dx(dy: Tensor, values: Tensor, plan: BlockPlan) -> Tensor:
    """Compute the input gradient ``dy @ W``.

    Args:
        dy: Gradient of the output, ``[M, out]``.
        values: As of ``block_linear``.
        plan: As there.

    Returns:
        ``[M, in]``, of the dtype of ``dy``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy = check_matrix("dy", dy, plan.shape[0])
    return block_matmul(dy, _checked_values(values, plan, dy), plan, transposed=True)


def _checked_values(values: Tensor, plan: BlockPlan, like: Tensor) -> Tensor:
    check_plan(plan, like.device)
    check_same("values", values, like.dtype, like.device)
    return check_packed("values", values, plan.packed_shape, like.device)
