"""``masked_linear``: a linear layer of few rows with any kept positions, loaded sparse.

With few rows the weight's bytes are what a product costs, so bits and kept values alone are loaded:
a tile of the weight is put together in registers and multiplied dense, on tensor cores. With many
rows this is a dense product with a dearer weight.

Source: SpInfer (Fan et al. 2025, EuroSys, sec. 4: bitmaps in place of an index a value), after
Flash-LLM (Xia et al. 2023, VLDB 17(2), sec. 4.1: load as sparse, compute as dense).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._dw_tile import kept_bits, rank_in_word
from sparsefl.kernels._launch import (
    check_matrix,
    check_packed,
    check_plan,
    check_same,
    launch_options,
    on,
    precision,
    split_rows,
    upcasts,
)
from sparsefl.kernels.mask_plan import MaskPlan

_MOST_ROWS = 64
_LEAST_ROWS = 16


@triton.jit
def _masked_linear_kernel(
    x_ptr,
    values_ptr,
    words_ptr,
    offsets_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    WORDS,
    stride_xm,
    per_split,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # W is [N, K]. out[M, N] = x[M, K] @ W.T, or TRANSPOSED out[M, K] = x[M, N] @ W: `own` are the
    # columns of the output, `summed` those of x.
    length = N if TRANSPOSED else K
    width = K if TRANSPOSED else N
    m = (tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    own = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(2) * per_split
    last = tl.minimum(length, first + per_split)
    acc = tl.zeros((BLOCK_M, BLOCK), dtype=tl.float32)
    for start in range(first, last, STEP):
        summed = start + tl.arange(0, STEP)
        x_at = m * stride_xm + summed[None, :]
        x = tl.load(x_ptr + x_at, mask=(m < M) & (summed < last)[None, :], other=0.0)
        if TRANSPOSED:
            word_at, words, kept = kept_bits(words_ptr, summed, own, N, K, WORDS)
            rank = rank_in_word(words, own)
        else:
            word_at, words, kept = kept_bits(words_ptr, own, summed, N, K, WORDS)
            rank = rank_in_word(words, summed)
        at = tl.load(offsets_ptr + word_at, mask=kept != 0, other=0) + rank
        weight = tl.load(values_ptr + at, mask=kept != 0, other=0.0)
        if not TRANSPOSED:
            weight = tl.trans(weight)
        if UPCAST:
            x = x.to(tl.float32)
            weight = weight.to(tl.float32)
        acc = tl.dot(x, weight, acc, input_precision=PRECISION)
    if BIAS:
        acc += tl.load(bias_ptr + own, mask=own < width, other=0.0).to(tl.float32)[None, :]
    # A part of the sum has an output of its own; whoever launches adds them up, in order.
    part = out_ptr + tl.program_id(2).to(tl.int64) * M * width
    out_at = m * width + own[None, :]
    inside = (m < M) & (own < width)[None, :]
    tl.store(part + out_at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def masked_linear(
    x: Tensor, values: Tensor, plan: MaskPlan, bias: Tensor | None = None, splits: int | None = None
) -> Tensor:
    """Compute ``x @ W.T + bias`` where ``W`` ``[out, in]`` holds ``values`` at the kept positions.

    Products are summed in float32, parts of the columns in a fixed order: equal calls give equal
    bits.

    Args:
        x: Input, ``[M, in]``, float32, float16 or bfloat16.
        values: Row-major, ``[nnz]``, of the same dtype.
        plan: Of ``W``, on the same device.
        bias: ``[out]`` of any float dtype, or None.
        splits: Parts of the sum; None chooses.

    Returns:
        ``[M, out]``, of the dtype of ``x``.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    x = check_matrix("x", x, plan.shape[1])
    if bias is not None:
        bias = check_packed("bias", bias, plan.shape[:1], x.device)
    return _product(x, _checked(values, plan, x), plan, False, bias, splits)


def masked_linear_dx(
    dy: Tensor, values: Tensor, plan: MaskPlan, splits: int | None = None
) -> Tensor:
    """Compute ``dy @ W``, the input gradient ``[M, in]`` of :func:`masked_linear`.

    Args:
        dy: Gradient of the output, ``[M, out]``, float32, float16 or bfloat16.
        values: As in :func:`masked_linear`.
        plan: As in :func:`masked_linear`.
        splits: As in :func:`masked_linear`.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    dy = check_matrix("dy", dy, plan.shape[0])
    return _product(dy, _checked(values, plan, dy), plan, True, None, splits)


def masked_linear_options(rows: int, dtype: torch.dtype, transposed: bool) -> dict[str, Any]:
    """Return tile and launch options.

    Args:
        rows: Of the dense matrix.
        dtype: Of the dense matrix.
        transposed: Whether the product is with the matrix itself, not its transpose.
    """
    BLOCK_M = _LEAST_ROWS
    while min(rows, _MOST_ROWS) > BLOCK_M:
        BLOCK_M *= 2
    return {
        "BLOCK_M": BLOCK_M,
        "BLOCK": 64,
        "STEP": 32 if dtype == torch.float32 else 64,
        "TRANSPOSED": transposed,
        **launch_options(num_warps=8 if dtype == torch.float32 else 4, num_stages=3),
    }


def _checked(values: Tensor, plan: MaskPlan, x: Tensor) -> Tensor:
    check_plan(plan, x.device)
    check_same("values", values, x.dtype, x.device)
    return check_packed("values", values, (plan.nnz,), x.device)


def _product(
    x: Tensor,
    values: Tensor,
    plan: MaskPlan,
    transposed: bool,
    bias: Tensor | None,
    splits: int | None,
) -> Tensor:
    length, width = plan.shape if transposed else plan.shape[::-1]
    M = x.shape[0]
    if M * width == 0 or length == 0:
        filling = 0.0 if bias is None else bias.to(x.dtype)
        return x.new_zeros((M, width)) + filling
    options = masked_linear_options(M, x.dtype, transposed)
    tiles = (-(-M // options["BLOCK_M"]), -(-width // options["BLOCK"]))
    per_split = split_rows(length, tiles[0] * tiles[1], options["STEP"], x.device, splits)
    parts = -(-length // per_split)
    fused = bias is not None and parts == 1
    out = x.new_empty((parts, M, width), dtype=x.dtype if parts == 1 else torch.float32)
    with on(x.device):
        _masked_linear_kernel[(*tiles, parts)](
            x,
            values,
            plan.words,
            plan.offsets,
            bias if fused else x,
            out,
            M,
            *plan.shape,
            plan.words.shape[1],
            x.stride(0),
            per_split,
            BIAS=fused,
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    if parts == 1:
        return out[0]
    total = out.sum(0)
    return (total if bias is None else total.add_(bias)).to(x.dtype)
