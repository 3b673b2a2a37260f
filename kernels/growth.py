"""``linear_growth``: the largest weight gradients among pruned positions, in memory O(count).

Tiles of the dense gradient are computed and filtered on the device: what exceeds a threshold where
nothing is kept is appended to a short list, and the gradient is never written. The counter goes on
past the end of the list, so the caller knows whether the list holds all that exceeded, and at least
as many as wanted; then the largest of the list are the largest of all. Where a threshold does not
prove that, strips of rows are filtered, each against what has been found before.

Source: progressive pruning of FedTiny (Huang et al. 2022, arXiv 2212.01977), whose clients upload
the top gradients of inactive weights and must not hold them all.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._dw_tile import dw_tile, kept_bits
from sparsefl.kernels._launch import check_pair, check_plan, on, precision, upcasts
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.kernels.masked_dw import dw_tile_options, dw_tiles

# Room in the list beyond the wanted: as much again, and never less than this.
_LEAST_ROOM = 1 << 12
# What a threshold aims at, of the wanted: the middle between too few and too many.
_AIM = 1.5
# Thresholds that are tried on the whole gradient before strips.
_TRIES = 3
_EVERYTHING = -1.0


class Growth(NamedTuple):
    """The largest gradients among the pruned positions of a weight.

    Attributes:
        indices: Their flat row-major positions, ``[count]`` int64, increasing.
        values: The gradients there, ``[count]`` float32, with their signs.
    """

    indices: Tensor
    values: Tensor


class _Filtered(NamedTuple):
    """What exceeded a threshold: a list, in no order, and how many there were in all."""

    indices: Tensor
    values: Tensor
    total: int


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
    # Written so that a NaN is found, not passed over.
    hit = inside & (kept == 0) & ((tl.abs(acc) <= threshold) == 0)
    at = tl.atomic_add(total_ptr + kept * 0, 1, mask=hit)
    listed = hit & (at < room)
    # A plan has fewer than 2**31 positions.
    index = first_index + n[:, None] * K + k[None, :]
    tl.store(index_ptr + at, index, mask=listed)
    tl.store(value_ptr + at, acc, mask=listed)


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
    pruned = plan.shape[0] * plan.shape[1] - plan.nnz
    if not 0 <= count <= pruned:
        raise ValueError(f"count must be within the {pruned} pruned positions, got {count}")
    room = min(max(2 * count, count + _LEAST_ROOM, plan.shape[1]), pruned)
    if count == 0:
        return Growth(x.new_empty(0, dtype=torch.int64), x.new_empty(0, dtype=torch.float32))
    threshold = _EVERYTHING if room == pruned else _sampled_threshold(dy, x, plan, count, room)
    for _ in range(_TRIES):
        found = _filter(dy, x, plan, threshold, room)
        if count <= found.total <= room:
            return _largest(found.indices, found.values, count)
        if found.total < count:
            break
        threshold = _quantile(found.values, _AIM * count / found.total)
    return _by_strips(dy, x, plan, count, room)


def _filter(
    dy: Tensor, x: Tensor, plan: MaskPlan, threshold: float, room: int, start: int = 0
) -> _Filtered:
    """List what exceeds the threshold, where ``dy`` is of the rows of the weight from ``start``."""
    total = x.new_zeros((), dtype=torch.int32)
    indices = x.new_empty(room, dtype=torch.int64)
    values = x.new_empty(room, dtype=torch.float32)
    shape = (dy.shape[1], plan.shape[1])
    options = dw_tile_options(plan.shape, x.dtype)
    with on(x.device):
        _growth_kernel[(dw_tiles(shape, options),)](
            dy,
            x,
            plan.words[start:],
            total,
            indices,
            values,
            x.shape[0],
            *shape,
            plan.words.shape[1],
            room,
            start * plan.shape[1],
            dy.stride(0),
            x.stride(0),
            float(threshold),
            PRECISION=precision(x.dtype),
            UPCAST=upcasts(x.dtype),
            **options,
        )
    number = int(total)
    listed = slice(0, min(number, room))
    return _Filtered(indices[listed], values[listed], number)


def _sampled_threshold(dy: Tensor, x: Tensor, plan: MaskPlan, count: int, room: int) -> float:
    """Return a threshold that about the wanted number exceeds, by rows from all over the weight."""
    rows = max(1, min(plan.shape[0], room // plan.shape[1]))
    chosen = torch.arange(rows, device=x.device) * plan.shape[0] // rows
    sample = (dy[:, chosen].t() @ x).float()
    bit = torch.arange(plan.shape[1], device=x.device)
    pruned = (plan.words[chosen][:, bit // 32] >> (bit % 32)) & 1 == 0
    magnitudes = sample[pruned]
    left = plan.shape[0] * plan.shape[1] - plan.nnz
    return _quantile(magnitudes, _AIM * count / left) if magnitudes.numel() else 0.0


def _quantile(values: Tensor, fraction: float) -> float:
    """Return the magnitude that a fraction of the values exceeds, about."""
    rank = min(max(1, round(fraction * values.numel())), values.numel())
    return float(values.abs().nan_to_num(0.0).topk(rank).values[-1])


def _by_strips(dy: Tensor, x: Tensor, plan: MaskPlan, count: int, room: int) -> Growth:
    """Filter strips of rows in order, each against the least of the largest before it.

    A strip of one row always has room; one that exceeds it is filtered again, half as high.
    """
    best = Growth(x.new_empty(0, dtype=torch.int64), x.new_empty(0, dtype=torch.float32))
    start, height = 0, max(1, room // plan.shape[1])
    while start < plan.shape[0]:
        threshold = float(best.values.abs().min()) if best.values.numel() == count else _EVERYTHING
        strip = dy[:, start : start + height]
        found = _filter(strip, x, plan, threshold, room, start)
        if found.total > room:
            height = max(1, height // 2)
            continue
        indices = torch.cat([best.indices, found.indices])
        best = _largest(indices, torch.cat([best.values, found.values]), count)
        start, height = start + strip.shape[1], 2 * height
    return best


def _largest(indices: Tensor, values: Tensor, count: int) -> Growth:
    """Return the ``count`` largest magnitudes, ties to the lowest index, by increasing index."""
    if bool(values.isnan().any()):
        raise ValueError("a gradient is not a number")
    indices, order = indices.sort()
    values = values[order]
    chosen = values.abs().sort(descending=True, stable=True).indices[:count].sort().values
    return Growth(indices[chosen], values[chosen])
