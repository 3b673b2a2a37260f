"""``top_k``: the elements of largest magnitude, exact and the same on every device.

The same support and values as ``sparsefl.codec.top_k`` and ``top_k_of_all``. Kernels neither wait
nor, but for results and scratch memory of torch's allocator, allocate.

Source: Aji and Heafield 2017, "Sparse Communication for Distributed Gradient Descent"; one
threshold for all tensors as in Lin et al. 2018, "Deep Gradient Compression". The k-th largest is
found digit by digit by histograms: Alabi et al. 2012, "Fast k-selection algorithms for graphics
processing units", sec. 4 (radix select).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sparsefl._codec import top_k as codec_top_k
from sparsefl.ops import _dispatch
from sparsefl.ops._arena import (
    BLOCK_BYTES,
    Arena,
    arena_of,
    check_count,
    check_flat,
    found_nan_of,
    refuse_nan,
)
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops.bitmap import BitmapPlan, _plain_prefix
from sparsefl.reference import top_k as largest

define(
    "top_k(Tensor x, Tensor? arena, int blocks, int k, Tensor(a!) found_nan)"
    " -> (Tensor, Tensor, Tensor)"
)


class TopK(NamedTuple):
    """The elements of largest magnitude.

    Attributes:
        plan: Which they are.
        values: They, ``[k]`` float32, row-major, tensor by tensor.
    """

    plan: BitmapPlan
    values: Tensor


@torch.no_grad()
def top_k(x: Tensor, k: int, arena: Arena | None = None, found_nan: Tensor | None = None) -> TopK:
    """Find the ``k`` elements of largest ``|x|``, ties to the lowest index. Infinities come first.

    Args:
        x: Any shape, float32, read row-major; with an arena its elements, of which the largest of
            all tensors together are kept, of equal ones those of the earlier tensor.
        k: How many to keep, within [0, x.numel()].
        arena: Where ``x`` holds several tensors.
        found_nan: int32, one element, on the device of ``x``; set to 1 where an element is NaN, and
            the result is then of no use. Without it the call waits for the device and raises.

    Returns:
        What is kept, and the values, on the device of ``x``.

    Raises:
        TypeError: if ``x`` is no float32 tensor, or ``k`` no integer.
        ValueError: if ``k`` is out of range, an element is NaN and ``found_nan`` is not given, or
            that or ``x`` does not fit.
    """
    flat, own = check_flat("x", x, arena)
    k = check_count("k", k)
    if not 0 <= k <= own.numel:
        raise ValueError(f"k: expected 0 to {own.numel}, the number of elements, got {k}")
    flag = found_nan_of(x, found_nan)
    if _dispatch.verified("top_k", x.device):
        bits, prefix, values = torch.ops.sparsefl.top_k.default(
            flat, own.table(x.device), own.blocks, k, flag
        )
    else:
        flag |= flat.isnan().any()
        kept = largest(flat, k)
        bits = own.pack(kept)
        prefix, values = _plain_prefix(bits), flat[(~kept).argsort(stable=True)[:k]]
    refuse_nan("x", flag, found_nan, "place in an order")
    return TopK(BitmapPlan(own, bits, prefix, k), values)


@torch.library.register_fake("sparsefl::top_k", lib=LIBRARY)
def _(
    x: Tensor, arena: Tensor | None, blocks: int, k: int, found_nan: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(blocks * BLOCK_BYTES, dtype=torch.uint8),
        x.new_empty(blocks + 1, dtype=torch.int64),
        x.new_empty(k),
    )


@torch.library.impl("sparsefl::top_k", "CPU", lib=LIBRARY)
def _(
    x: Tensor, arena: Tensor | None, blocks: int, k: int, found_nan: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    bits = torch.zeros(blocks * BLOCK_BYTES, dtype=torch.uint8)
    parts = list(arena_of(arena, x.numel()).parts())
    found = codec_top_k([x[part.elements].numpy() for part in parts], k)
    if found is None:
        found_nan.fill_(1)
        return bits, torch.zeros(blocks + 1, dtype=torch.int64), torch.zeros(k)
    for part, (bitmap, _) in zip(parts, found[0], strict=True):
        bits[part.bits] = torch.from_numpy(bitmap)
    return bits, _plain_prefix(bits), torch.from_numpy(found[1])
