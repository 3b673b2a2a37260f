"""``block_dw``: the weight gradient of a linear layer on kept blocks only.

Source: the SDD product of MegaBlocks (Gale et al. 2022, arXiv 2211.15841, sec. 5.1); the gate is
the straight-through gradient of a sign layer's scores, ``dL/dweight * magnitude``.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._dw_tile import dw_tile
from sparsefl.kernels._launch import (
    check_pair,
    check_plan,
    checked_gate,
    launch_options,
    on,
    precision,
    split_rows,
    upcasts,
)
from sparsefl.kernels.block_plan import BlockPlan


@triton.jit
def _block_dw_kernel(
    dy_ptr,
    x_ptr,
    row_ptr,
    col_ptr,
    gate_ptr,
    out_ptr,
    M,
    N,
    K,
    stride_dm,
    stride_xm,
    rows_per_split,
    scale,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GATE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    n = tl.load(row_ptr + block) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.load(col_ptr + block) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = split * rows_per_split
    last = tl.minimum(M, first + rows_per_split)
    acc = dw_tile(
        dy_ptr, x_ptr, n, k, N, K, first, last, stride_dm, stride_xm,
        BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
    )  # fmt: skip
    inner = tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    acc *= scale
    if GATE == "rows":
        gate = tl.load(gate_ptr + n, mask=n < N, other=0.0)
        acc *= gate.to(tl.float32)[:, None]
    if GATE == "elements":
        acc *= tl.load(gate_ptr + block * (BLOCK_N * BLOCK_K) + inner).to(tl.float32)
    # A part of the batch has blocks of its own; whoever launches adds them up, in order.
    at = (split.to(tl.int64) * tl.num_programs(0) + block) * (BLOCK_N * BLOCK_K) + inner
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty))


def block_dw_options(block: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Return the tile and the launch options for a block and the operands' dtype.

    For 128x128 blocks in bfloat16 these compile for sm_90 to 97 registers with asynchronous
    products from shared memory; four warps take 168 and more.
    """
    area = block[0] * block[1]
    wide = dtype == torch.float32
    large = area >= 128 * 64
    warps = 8 if large else 4 if area >= 32 * 32 else 2
    return {
        "BLOCK_M": 32 if wide else 64,
        **launch_options(warps, num_stages=4 if large and not wide else 3),
    }


def block_dw(
    dy: Tensor,
    x: Tensor,
    plan: BlockPlan,
    gate: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    splits: int | None = None,
) -> Tensor:
    """Compute ``dW[b] = (dy.T @ x)[block b] * gate * scale`` for the kept blocks.

    Products are summed in float32. Few blocks on a large device are summed by several programs over
    parts of the batch, whose sums are added in a fixed order: equal calls give equal bits.

    Args:
        dy: Gradient of the output, ``[M, out]``, float32, float16 or bfloat16.
        x: Input, ``[M, in]``, of the same dtype.
        plan: Of the weight ``[out, in]``, on the same device.
        gate: None; per row ``[out]``; or per element, packed ``[nnzb, BN, BK]``. Any float dtype.
        scale: One factor of all.
        dtype: Of the result; None for that of ``x``.
        splits: Parts of the batch; None chooses.

    Returns:
        The gradient, packed ``[nnzb, BN, BK]``; zero beyond the edge of the weight.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy, x = check_pair(dy, x, plan.shape)
    check_plan(plan, x.device)
    kind, gate = checked_gate(gate, plan.shape[0], plan.packed_shape, x)
    dtype = dtype or x.dtype
    if plan.nnzb == 0 or x.shape[0] == 0:
        return x.new_zeros(plan.packed_shape, dtype=dtype)
    options = block_dw_options(plan.block, x.dtype)
    rows = split_rows(x.shape[0], plan.nnzb, options["BLOCK_M"], x.device, splits)
    parts = -(-x.shape[0] // rows)
    out = x.new_empty((parts, *plan.packed_shape), dtype=dtype if parts == 1 else torch.float32)
    with on(x.device):
        _block_dw_kernel[(plan.nnzb, parts)](
            dy,
            x,
            plan.row,
            plan.rows.index,
            gate,
            out,
            x.shape[0],
            *plan.shape,
            dy.stride(0),
            x.stride(0),
            rows,
            float(scale),
            BLOCK_N=plan.block[0],
            BLOCK_K=plan.block[1],
            GATE=kind,
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    return out[0] if parts == 1 else out.sum(0).to(dtype)
