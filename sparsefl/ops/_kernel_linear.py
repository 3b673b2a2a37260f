"""The passes of a linear layer through kernels of GPUs, on stored elements in and out."""

import torch
from torch import Tensor

from sparsefl.kernels.block_plan import pack_block_signs
from sparsefl.ops._kernel_plan import KernelPlan
from sparsefl.ops._magnitude import Magnitude, kept_weights
from sparsefl.ops._plan import LinearPlan


def packed_weight(
    kernel: str, stored: Tensor, magnitude: Magnitude | None, plan: LinearPlan
) -> Tensor:
    """Return the kept blocks as a kernel reads them: weights, or a bit for each sign.

    Args:
        kernel: Its name.
        stored: Values or scores, ``[nnz]``.
        magnitude: That of a sign operator, or None.
        plan: Where they lie.

    Returns:
        ``[nnzb, BN, BK]`` of the dtype of ``stored``, or ``[nnzb, BN, BK / 8]`` uint8.
    """
    blocks = held(plan).blocks
    assert blocks is not None
    if kernel.startswith("sign"):
        return pack_block_signs(blocks.pack(stored))
    return blocks.pack(kept_weights(stored, magnitude))


def product(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: LinearPlan,
) -> Tensor:
    """Return the output, or by a kernel of the input's gradient that, of a packed weight."""
    blocks = held(plan).blocks
    assert blocks is not None
    found: Tensor = torch.ops.sparsefl.block_product.default(
        kernel, x, weight, _constant(magnitude), bias, blocks.lists, blocks.sizes
    )
    return found


def stored_gradient(
    kernel: str, grad: Tensor, x: Tensor, magnitude: Magnitude | None, plan: LinearPlan
) -> Tensor:
    """Return the stored elements' gradient, ``[nnz]``: nothing of dense size is written.

    Args:
        kernel: ``"block_dw"`` or ``"masked_dw"``.
        grad: Gradient of the output, ``[N, out]``.
        x: Input, ``[N, in]``.
        magnitude: That of a sign operator, or None.
        plan: Where the elements lie.
    """
    scale, (blocks, mask) = _constant(magnitude), (held(plan).blocks, held(plan).mask)
    if kernel == "block_dw":
        assert blocks is not None
        found: Tensor = blocks.unpack(
            torch.ops.sparsefl.block_dw.default(grad, x, scale, blocks.lists, blocks.sizes)
        )
    else:
        assert mask is not None
        sizes = [*mask.shape, mask.nnz]
        found = torch.ops.sparsefl.masked_dw.default(
            grad, x, scale, mask.words, mask.offsets, sizes
        ).index_select(0, plan.order)
    return found if magnitude is None or magnitude.each is None else found * magnitude.each


def held(plan: LinearPlan) -> KernelPlan:
    """Return what a plan has for kernels."""
    assert plan.kernels is not None
    return plan.kernels


def _constant(magnitude: Magnitude | None) -> float:
    one = magnitude is not None and magnitude.each is None
    return magnitude.constant if magnitude is not None and one else 1.0
