"""``masked_dw``: the weight gradient of a linear layer at any kept positions, and nothing else.

Computed dense, tile by tile, on tensor cores; only kept elements are written, in row-major order,
so that the optimizer's work is O(nnz). It saves no FLOPs: what it saves is the dense gradient.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._dw_tile import dw_tile, kept_bits, rank_in_word
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
from sparsefl.kernels.mask_plan import MaskPlan


@triton.jit
def _masked_dw_kernel(
    dy_ptr,
    x_ptr,
    words_ptr,
    offsets_ptr,
    gate_ptr,
    out_ptr,
    M,
    N,
    K,
    WORDS,
    nnz,
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
    tiles = tl.cdiv(K, BLOCK_K)
    n = tl.program_id(0) // tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    first = tl.program_id(1) * rows_per_split
    last = tl.minimum(M, first + rows_per_split)
    acc = dw_tile(
        dy_ptr, x_ptr, n, k, N, K, first, last, stride_dm, stride_xm,
        BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
    )  # fmt: skip
    acc *= scale
    if GATE == "rows":
        acc *= tl.load(gate_ptr + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    word_at, words, kept = kept_bits(words_ptr, n, k, N, K, WORDS)
    at = tl.load(offsets_ptr + word_at, mask=kept != 0, other=0) + rank_in_word(words, k)
    if GATE == "elements":
        acc *= tl.load(gate_ptr + at, mask=kept != 0, other=0.0).to(tl.float32)
    # A part of the batch has values of its own; whoever launches adds them up, in order.
    part = out_ptr + tl.program_id(1).to(tl.int64) * nnz
    tl.store(part + at, acc.to(out_ptr.dtype.element_ty), mask=kept != 0)


def dw_tile_options(shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Return tile and launch options of a gradient ``[out, in]`` that is computed dense."""
    wide = dtype == torch.float32
    columns = 128 if shape[1] >= 128 and not wide else 64
    # 128 rows of 128 columns spill: their epilogue holds a word and a place for each element.
    return {
        "BLOCK_M": 32 if wide else 64,
        "BLOCK_N": 64,
        "BLOCK_K": columns,
        **launch_options(num_warps=8 if columns == 128 else 4, num_stages=3),
    }


def masked_dw(
    dy: Tensor,
    x: Tensor,
    plan: MaskPlan,
    gate: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    splits: int | None = None,
) -> Tensor:
    """Compute ``(dy.T @ x * scale)[mask] * gate``, in row-major order of the kept positions.

    Products are summed in float32, parts of the batch in a fixed order: equal calls give equal
    bits.

    Args:
        dy: Gradient of the output, ``[M, out]``, float32, float16 or bfloat16.
        x: Input, ``[M, in]``, of the same dtype.
        plan: Of the weight ``[out, in]``, on the same device.
        gate: None; per row ``[out]``; or per kept position, packed ``[nnz, 1]``. Any float dtype.
        scale: One factor of all.
        dtype: Of the result; None for that of ``x``.
        splits: Parts of the batch; None chooses.

    Returns:
        The gradient, ``[nnz]``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy, x = check_pair(dy, x, plan.shape)
    check_plan(plan, x.device)
    kind, gate = checked_gate(gate, plan.shape[0], (plan.nnz, 1), x)
    dtype = dtype or x.dtype
    if plan.nnz == 0 or x.shape[0] == 0:
        return x.new_zeros(plan.nnz, dtype=dtype)
    options = dw_tile_options(plan.shape, x.dtype)
    tiles = dw_tiles(plan.shape, options)
    rows = split_rows(x.shape[0], tiles, options["BLOCK_M"], x.device, splits)
    parts = -(-x.shape[0] // rows)
    out = x.new_empty((parts, plan.nnz), dtype=dtype if parts == 1 else torch.float32)
    with on(x.device):
        _masked_dw_kernel[(tiles, parts)](
            dy,
            x,
            plan.words,
            plan.offsets,
            gate,
            out,
            x.shape[0],
            *plan.shape,
            plan.words.shape[1],
            plan.nnz,
            dy.stride(0),
            x.stride(0),
            rows,
            float(scale),
            GATE=kind,
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    return out[0] if parts == 1 else out.sum(0).to(dtype)


def dw_tiles(shape: tuple[int, int], options: dict[str, Any]) -> int:
    """Return how many tiles cover a gradient ``[out, in]``."""
    return -(-shape[0] // options["BLOCK_N"]) * -(-shape[1] // options["BLOCK_K"])
