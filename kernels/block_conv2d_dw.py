"""``block_conv2d_dw``: the weight gradient of a convolution on kept blocks of channels only.

Source: as :mod:`sparsefl.kernels.block_dw`, its second operand gathered as
:mod:`sparsefl.kernels._block_conv2d` does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._block_conv2d import check_size
from sparsefl.kernels._conv2d_dw_tile import conv2d_dw_tile
from sparsefl.kernels._launch import (
    check_images,
    check_plan,
    check_same,
    on,
    precision,
    split_rows,
    upcasts,
)
from sparsefl.kernels.block_dw import block_dw_options
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan


@triton.jit
def _block_conv2d_dw_kernel(
    dy_ptr,
    x_ptr,
    row_ptr,
    col_ptr,
    taps_ptr,
    out_ptr,
    M,
    N,
    K,
    TAPS,
    height,
    width,
    out_height,
    out_width,
    step_y,
    step_x,
    rows_per_split,
    scale,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # One tap of one block: dy[pixel, N].T @ x[pixel of the tap, K] over some of the M pixels of
    # the output, both images channels_last.
    tile = tl.program_id(0)
    split = tl.program_id(1)
    block = tile // TAPS
    tap = taps_ptr + tile % TAPS * 3
    down = tl.load(tap + 1)
    right = tl.load(tap + 2)
    n = tl.load(row_ptr + block) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.load(col_ptr + block) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = split * rows_per_split
    last = tl.minimum(M, first + rows_per_split)
    acc = conv2d_dw_tile(
        dy_ptr, x_ptr, n, k, N, K, first, last, N, down, right,
        height, width, out_height, out_width, step_y, step_x,
        BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
    )  # fmt: skip
    inner = tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    # A part of the batch has blocks of its own; whoever launches adds them up, in order.
    number = split.to(tl.int64) * tl.num_programs(0) + tile
    at = number * (BLOCK_N * BLOCK_K) + inner
    tl.store(out_ptr + at, (acc * scale).to(out_ptr.dtype.element_ty))


def block_conv2d_dw(
    dy: Tensor,
    x: Tensor,
    plan: BlockConv2dPlan,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    splits: int | None = None,
) -> Tensor:
    """Compute the gradient of the kept blocks of a weight, ``dW * scale``.

    Products are summed in float32. Few blocks on a large device are summed by several programs over
    parts of the batch, whose sums are added in a fixed order: equal calls give equal bits.

    Args:
        dy: Gradient of the output, ``[M, out, P, Q]``, float32, float16 or bfloat16, copied unless
            it is channels_last.
        x: Input, ``[M, in, H, W]``, of the same dtype, likewise.
        plan: Of the weight ``[out, in, kh, kw]``, on the same device.
        scale: One factor of all.
        dtype: Of the result; None for that of ``x``.
        splits: Parts of the pixels; None chooses.

    Returns:
        The gradient, packed ``[nnzb, kh * kw, BN, BK]``; zero beyond the edge of the weight.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    blocks, geometry = plan.blocks, plan.geometry
    dy, x = check_images("dy", dy, blocks.shape[0]), check_images("x", x, blocks.shape[1])
    check_same("x", x, dy.dtype, dy.device)
    check_plan(plan, x.device)
    if dy.shape[0] != x.shape[0]:
        raise ValueError(f"dy and x must have as many images, got {dy.shape[0]} and {x.shape[0]}")
    check_size(dy, plan, (x.shape[2], x.shape[3]))
    dtype = dtype or x.dtype
    tiles = blocks.nnzb * geometry.taps
    M = dy.shape[0] * dy.shape[2] * dy.shape[3]
    if tiles == 0 or M == 0:
        return x.new_zeros(plan.packed_shape, dtype=dtype)
    options = block_dw_options(blocks.block, x.dtype)
    rows = split_rows(M, tiles, options["BLOCK_M"], x.device, splits)
    parts = -(-M // rows)
    out = x.new_empty((parts, *plan.packed_shape), dtype=dtype if parts == 1 else torch.float32)
    with on(x.device):
        _block_conv2d_dw_kernel[(tiles, parts)](
            dy,
            x,
            blocks.row,
            blocks.rows.index,
            plan.forward.taps,
            out,
            M,
            *blocks.shape,
            geometry.taps,
            *x.shape[2:],
            *dy.shape[2:],
            *geometry.stride,
            rows,
            float(scale),
            BLOCK_N=blocks.block[0],
            BLOCK_K=blocks.block[1],
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    return out[0] if parts == 1 else out.sum(0).to(dtype)
