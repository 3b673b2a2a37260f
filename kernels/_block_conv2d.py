"""A convolution whose weight is made of kept blocks of channels, of values or of packed signs.

One kernel for a layer's output and its input gradient: what differs is in which order the blocks
are walked, which side of a block is summed over, and where a tap finds its operand.

Source: the blocks of MegaBlocks (Gale et al. 2022, arXiv 2211.15841, sec. 5.1) as the second
operand of an implicit GEMM (Chetlur et al. 2014, arXiv 1410.0759, sec. 3.2).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._block_matmul import MOST_ROWS, block_matmul_options, finished, weight_tile
from sparsefl.kernels._launch import MOST_PIXELS, on, precision, upcasts
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan


@triton.jit
def _block_conv2d_kernel(
    x_ptr,
    weight_ptr,
    indptr_ptr,
    index_ptr,
    block_ptr,
    begin_ptr,
    taps_ptr,
    magnitude_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    TAPS,
    height,
    width,
    out_height,
    out_width,
    grid_height,
    grid_width,
    step_y,
    step_x,
    phases_y,
    phases_x,
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
    # out[pixel, N] = sum over taps of x[pixel of the tap, K] @ weight[tap], both images
    # channels_last. M counts the pixels of one phase: a grid of every phases-th of out.
    STEPS: tl.constexpr = BLOCK_K // STEP
    group = tl.program_id(1)
    phase = tl.program_id(2)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = group * BLOCK_N + tl.arange(0, BLOCK_N)
    row = m // grid_width % grid_height
    column = m % grid_width
    image = (m // (grid_height * grid_width)).to(tl.int64)
    out_y = row * phases_y + phase // phases_x
    out_x = column * phases_x + phase % phases_x
    there = (m < M) & (out_y < out_height) & (out_x < out_width)
    row *= step_y
    column *= step_x
    pixel = ((image * height + row) * width + column) * K
    first = tl.load(indptr_ptr + group)
    entries = tl.load(indptr_ptr + group + 1) - first
    first_tap = tl.load(begin_ptr + phase)
    taps = tl.load(begin_ptr + phase + 1) - first_tap
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(0, entries * taps * STEPS):
        start = (step % STEPS) * STEP
        entry = first + step // STEPS // taps
        at = taps_ptr + (first_tap + step // STEPS % taps) * 3
        k = tl.load(index_ptr + entry) * BLOCK_K + start + tl.arange(0, STEP)
        block = tl.load(block_ptr + entry).to(tl.int64) * TAPS + tl.load(at)
        down = tl.load(at + 1)
        right = tl.load(at + 2)
        y = row + down
        x = column + right
        inside = there & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        x_at = pixel[:, None] + ((down * width + right) * K + k)[None, :]
        operand = tl.load(x_ptr + x_at, mask=inside[:, None] & (k < K)[None, :], other=0.0)
        weight = weight_tile(
            weight_ptr, x_ptr, magnitude_ptr, block * (BLOCK_N * BLOCK_K), start, k, K,
            BLOCK_N, BLOCK_K, STEP, TRANSPOSED, SIGNS, MAGNITUDES,
        )  # fmt: skip
        if UPCAST:
            operand = operand.to(tl.float32)
            weight = weight.to(tl.float32)
        acc = tl.dot(operand, weight, acc, input_precision=PRECISION)

    acc = finished(acc, magnitude_ptr, bias_ptr, n, N, scale, TRANSPOSED, MAGNITUDES, BIAS)
    out_at = ((image * out_height + out_y) * out_width + out_x)[:, None] * N + n[None, :]
    inside = there[:, None] & (n < N)[None, :]
    tl.store(out_ptr + out_at, acc.to(out_ptr.dtype.element_ty), mask=inside)


def block_conv2d_options(
    pixels: int, block: tuple[int, int], dtype: torch.dtype, transposed: bool = False
) -> dict[str, Any]:
    """Return the tile and the launch options, as ``block_matmul_options`` does for rows.

    Where a tile's rows lie takes registers of its own: with four warps 254 a thread and spills.
    """
    options = block_matmul_options(pixels, block, dtype, transposed)
    return {**options, "num_warps": 8} if options["BLOCK_M"] == MOST_ROWS else options


def convolve(
    x: Tensor,
    weight: Tensor,
    plan: BlockConv2dPlan,
    size: tuple[int, int],
    transposed: bool,
    magnitude: Tensor | float = 1.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute a convolution, or the input's gradient where ``transposed``, of checked operands.

    Args:
        x: ``[M, in, H, W]`` or, transposed, ``[M, out, P, Q]``, channels_last.
        weight: Packed ``[nnzb, taps, BN, BK]`` of the dtype of ``x``; signs ``[..., BK / 8]``
            uint8.
        plan: Of the weight.
        size: Height and width of the result.
        transposed: Which of both.
        magnitude: Factor of all, or of each output channel, ``[out]``.
        bias: ``[out]``, of the convolution alone.
    """
    blocks, geometry = plan.blocks, plan.geometry
    lists, taps = (blocks.columns, plan.backward) if transposed else (blocks.rows, plan.forward)
    K, N = blocks.shape if transposed else blocks.shape[::-1]
    out = x.new_empty((x.shape[0], *size, N)).permute(0, 3, 1, 2)
    if out.numel() == 0:
        return out
    steps, phases = ((1, 1), geometry.stride) if transposed else (geometry.stride, (1, 1))
    grid = [-(-length // count) for length, count in zip(size, phases, strict=True)]
    M = x.shape[0] * grid[0] * grid[1]
    options = block_conv2d_options(M, blocks.block, x.dtype, transposed)
    by_row = isinstance(magnitude, Tensor)
    programs = (-(-M // options["BLOCK_M"]), lists.indptr.shape[0] - 1, phases[0] * phases[1])
    with on(x.device):
        _block_conv2d_kernel[programs](
            x,
            weight,
            *lists,
            *taps,
            magnitude if by_row else x,
            x if bias is None else bias,
            out,
            M,
            N,
            K,
            geometry.taps,
            *x.shape[2:],
            *size,
            *grid,
            *steps,
            *phases,
            1.0 if by_row else float(magnitude),
            SIGNS=weight.dtype == torch.uint8,
            MAGNITUDES=by_row,
            BIAS=bias is not None,
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    return out


def output_size(x: Tensor, plan: BlockConv2dPlan) -> tuple[int, int]:
    """Return the size of a convolution's output.

    Raises:
        ValueError: if the kernel exceeds the padded input, or padding makes 2**31 pixels of it.
    """
    size = plan.geometry.output_size(x.shape[2], x.shape[3])
    if min(size) < 1 or x.shape[0] * math.prod(size) >= MOST_PIXELS:
        raise ValueError(
            f"x must give 1 to 2**31 - 1 pixels by {plan.geometry}, got {list(x.shape)}"
        )
    return size


def check_size(dy: Tensor, plan: BlockConv2dPlan, size: tuple[int, int]) -> None:
    """Refuse a gradient that is not of the output of an input of a size.

    Raises:
        ValueError: if so.
    """
    expected = plan.geometry.output_size(*size)
    if tuple(dy.shape[2:]) != expected:
        raise ValueError(
            f"dy must be of {expected} pixels for inputs of {tuple(size)}, got {list(dy.shape)}"
        )
