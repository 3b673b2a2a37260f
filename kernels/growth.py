"""``linear_growth``: the largest weight gradients of a linear layer among pruned positions.

Source: see :mod:`sparsefl.kernels._growth_search`.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._dw_tile import dw_tile, kept_bits
from sparsefl.kernels._growth_search import Filtering, Growth, find_growth
from sparsefl.kernels._launch import check_pair, check_plan, on, precision, upcasts
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.kernels.masked_dw import dw_tile_options, dw_tiles


@triton.jit
def list_hits(
    acc, kept, inside, threshold, total_ptr, index_ptr, value_ptr, row_index, column, room
):
    """Append what exceeds a threshold where nothing is kept to a list, and count it.

    A flat position is below 2**31: that of its row, ``row_index``, and a ``column``.
    """
    # Written so that a NaN is found, not passed over.
    hit = inside & (kept == 0) & ((tl.abs(acc) <= threshold) == 0)
    at = tl.atomic_add(total_ptr + kept * 0, 1, mask=hit)
    listed = hit & (at < room)
    index = row_index[:, None] + column[None, :]
    tl.store(index_ptr + at, index, mask=listed)
    tl.store(value_ptr + at, acc, mask=listed)


@triton.jit
def _growth_kernel(
    dy_ptr,
    x_ptr,
    words_ptr,
    total_ptr,
    index_ptr,
    value_ptr,
    M,
    N,
    K,
    WORDS,
    room,
    first_index,
    stride_dm,
    stride_xm,
    threshold,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    tiles = tl.cdiv(K, BLOCK_K)
    n = tl.program_id(0) // tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    acc = dw_tile(
        dy_ptr, x_ptr, n, k, N, K, 0, M, stride_dm, stride_xm,
        BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
    )  # fmt: skip
    _, _, kept = kept_bits(words_ptr, n, k, N, K, WORDS)
    inside = (n < N)[:, None] & (k < K)[None, :]
    row_index = first_index + n * K
    list_hits(acc, kept, inside, threshold, total_ptr, index_ptr, value_ptr, row_index, k, room)


def linear_growth(dy: Tensor, x: Tensor, plan: MaskPlan, count: int) -> Growth:
    """Find the ``count`` largest ``|g|`` off the mask, ``g = dy.T @ x`` summed in float32.

    Equal magnitudes go to the lowest index; equal calls give equal results. Waits for the device.
    Memory is 24 bytes a candidate, of which there are at most ``max(2 * count, count + 4096,
    in)``. A layer that is used several times in a step has its rows concatenated.

    Args:
        dy: Gradient of the output, ``[M, out]``, float32, float16 or bfloat16.
        x: Input, ``[M, in]``, of the same dtype.
        plan: Of the weight ``[out, in]``, on the same device.
        count: How many, at most the pruned positions.

    Returns:
        Positions and gradients.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not, ``count`` is out of range, or a gradient is not
            a number.
    """
    dy, x = check_pair(dy, x, plan.shape)
    check_plan(plan, x.device)
    return find_growth(_LinearGradient(dy, x, plan), count)


@dataclass(frozen=True)
class _LinearGradient:
    """``dy.T @ x``."""

    dy: Tensor
    x: Tensor
    plan: MaskPlan

    def sample(self, rows: Tensor) -> Tensor:
        return (self.dy[:, rows].t() @ self.x).float()

    def filter(self, threshold: float, found: Filtering, start: int, stop: int) -> None:
        dy, x, plan = self.dy[:, start:stop], self.x, self.plan
        shape = (stop - start, plan.shape[1])
        options = dw_tile_options(plan.shape, x.dtype)
        with on(x.device):
            _growth_kernel[(dw_tiles(shape, options),)](
                dy,
                x,
                plan.words[start:],
                *found,
                x.shape[0],
                *shape,
                plan.words.shape[1],
                found.indices.numel(),
                start * plan.shape[1],
                dy.stride(0),
                x.stride(0),
                float(threshold),
                PRECISION=precision(x.dtype),
                UPCAST=upcasts(x.dtype),
                **options,
            )
