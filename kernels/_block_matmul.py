"""The product of a dense matrix with a block-sparse one, of values or of packed signs.

One kernel for a layer's output and its input gradient: what differs is in which order the blocks
are walked, and which side of a block is summed over.

Source: the DSD and DDS products of MegaBlocks (Gale et al. 2022, arXiv 2211.15841, sec. 5.1).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._launch import launch_options, on, precision, upcasts
from sparsefl.kernels.block_plan import BlockPlan

MOST_ROWS = 128
_LEAST_ROWS = 16


@triton.jit
def _sign_tile(signs_ptr, row, first_column, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """Return ``[rows, COLUMNS]`` of +1 and -1 from row-major bits, 1 for -1, of ``WIDTH`` a row."""
    column = first_column // 8 + tl.arange(0, COLUMNS // 8)
    packed = tl.load(signs_ptr + row[:, None] * (WIDTH // 8) + column[None, :]).to(tl.int32)
    bits = (packed[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.where(tl.reshape(bits, (row.shape[0], COLUMNS)) != 0, -1.0, 1.0)


@triton.jit
def weight_tile(
    weight_ptr,
    operand_ptr,
    magnitude_ptr,
    block,
    start,
    k,
    K,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SIGNS: tl.constexpr,
    MAGNITUDES: tl.constexpr,
):
    """Return ``[STEP, BLOCK_N]`` of a stored block, as a product's second operand.

    Stored are ``[BLOCK_N, BLOCK_K]``, or TRANSPOSED ``[BLOCK_K, BLOCK_N]``: the block's first
    element is ``block``, the tile's first row ``start``; ``k`` are its rows of ``K``.
    """
    k_inner = start + tl.arange(0, STEP)
    n_inner = tl.arange(0, BLOCK_N)
    if SIGNS:
        if TRANSPOSED:
            weight = _sign_tile(weight_ptr + block // 8, k_inner, 0, BLOCK_N, BLOCK_N)
        else:
            weight = tl.trans(_sign_tile(weight_ptr + block // 8, n_inner, start, BLOCK_K, STEP))
        if TRANSPOSED and MAGNITUDES:
            magnitude = tl.load(magnitude_ptr + k, mask=k < K, other=0.0)
            weight *= magnitude.to(tl.float32)[:, None]
        weight = weight.to(operand_ptr.dtype.element_ty)
    else:
        if TRANSPOSED:
            weight_at = k_inner[:, None] * BLOCK_N + n_inner[None, :]
        else:
            weight_at = k_inner[:, None] + n_inner[None, :] * BLOCK_K
        weight = tl.load(weight_ptr + block + weight_at, mask=(k < K)[:, None], other=0.0)
    return weight


@triton.jit
def finished(
    acc,
    magnitude_ptr,
    bias_ptr,
    n,
    N,
    scale,
    TRANSPOSED: tl.constexpr,
    MAGNITUDES: tl.constexpr,
    BIAS: tl.constexpr,
):
    """Return sums ``[BLOCK_M, BLOCK_N]`` of the columns ``n`` times magnitudes, plus the bias."""
    acc *= scale
    if MAGNITUDES and not TRANSPOSED:
        acc *= tl.load(magnitude_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        acc += tl.load(bias_ptr + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    return acc


@triton.jit
def _block_matmul_kernel(
    x_ptr,
    weight_ptr,
    indptr_ptr,
    index_ptr,
    block_ptr,
    magnitude_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_xm,
    stride_om,
    scale,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SIGNS: tl.constexpr,
    MAGNITUDES: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # out[M, N] = x[M, K] @ weight; a group of blocks gives BLOCK_N columns, a block is walked in
    # steps along K. Stored blocks are [BLOCK_N, BLOCK_K], or TRANSPOSED [BLOCK_K, BLOCK_N].
    STEPS: tl.constexpr = BLOCK_K // STEP
    group = tl.program_id(1)
    m = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    n = group * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(indptr_ptr + group) * STEPS
    last = tl.load(indptr_ptr + group + 1) * STEPS
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        entry = step // STEPS
        start = (step % STEPS) * STEP
        k = tl.load(index_ptr + entry) * BLOCK_K + start + tl.arange(0, STEP)
        block = tl.load(block_ptr + entry).to(tl.int64) * (BLOCK_N * BLOCK_K)
        x_at = m * stride_xm + k[None, :]
        x = tl.load(x_ptr + x_at, mask=(m < M) & (k < K)[None, :], other=0.0)  # [BLOCK_M, STEP]
        weight = weight_tile(
            weight_ptr, x_ptr, magnitude_ptr, block, start, k, K,
            BLOCK_N, BLOCK_K, STEP, TRANSPOSED, SIGNS, MAGNITUDES,
        )  # fmt: skip
        if UPCAST:
            x = x.to(tl.float32)
            weight = weight.to(tl.float32)
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)

    acc = finished(acc, magnitude_ptr, bias_ptr, n, N, scale, TRANSPOSED, MAGNITUDES, BIAS)
    out_at = m * stride_om + n[None, :]
    tl.store(out_ptr + out_at, acc.to(out_ptr.dtype.element_ty), mask=(m < M) & (n < N)[None, :])


def block_matmul_options(
    rows: int, block: tuple[int, int], dtype: torch.dtype, transposed: bool = False
) -> dict[str, Any]:
    """Return the tile and the launch options.

    Args:
        rows: Of the dense matrix.
        block: Sides of a stored block.
        dtype: Of the dense matrix.
        transposed: Whether the product is with the stored matrix itself, not its transpose.
    """
    BLOCK_N, BLOCK_K = block[::-1] if transposed else block
    BLOCK_M = _LEAST_ROWS
    while min(rows, MOST_ROWS) > BLOCK_M:
        BLOCK_M *= 2
    area = BLOCK_M * BLOCK_N
    warps = 8 if area >= 128 * 128 else 4 if area >= 32 * 32 else 2
    return {
        "BLOCK_M": BLOCK_M,
        "BLOCK_N": BLOCK_N,
        "BLOCK_K": BLOCK_K,
        "STEP": min(BLOCK_K, 32 if dtype == torch.float32 else 64),
        "TRANSPOSED": transposed,
        **launch_options(warps, num_stages=3),
    }


def block_matmul(
    x: Tensor,
    weight: Tensor,
    plan: BlockPlan,
    transposed: bool,
    magnitude: Tensor | float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute ``x @ W.T + bias``, or ``x @ W`` where ``transposed``, of checked operands.

    Args:
        x: ``[M, in]`` or, transposed, ``[M, out]``, with contiguous rows.
        weight: Packed ``[nnzb, BN, BK]`` of the dtype of ``x``; signs ``[nnzb, BN, BK / 8]`` uint8.
        plan: Of ``W`` ``[out, in]``.
        transposed: Which product.
        magnitude: Factor of all, or of each row of ``W``, ``[out]``.
        bias: ``[out]``, of the first product alone.
    """
    lists = plan.columns if transposed else plan.rows
    K, N = plan.shape if transposed else plan.shape[::-1]
    M = x.shape[0]
    out = x.new_empty((M, N))
    if out.numel() == 0:
        return out
    options = block_matmul_options(M, plan.block, x.dtype, transposed)
    by_row = isinstance(magnitude, Tensor)
    with on(x.device):
        _block_matmul_kernel[(-(-M // options["BLOCK_M"]), lists.indptr.shape[0] - 1)](
            x,
            weight,
            *lists,
            magnitude if by_row else x,
            x if bias is None else bias,
            out,
            M,
            N,
            K,
            x.stride(0),
            out.stride(0),
            1.0 if by_row else float(magnitude),
            SIGNS=weight.dtype == torch.uint8,
            MAGNITUDES=by_row,
            BIAS=bias is not None,
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    return out
