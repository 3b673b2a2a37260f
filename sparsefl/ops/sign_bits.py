"""``sign_pack``, ``sign_unpack``: signs of float32 tensors as bitmaps, on the tensors' device.

The same bits as ``sparsefl.codec.pack_signs`` and ``unpack_signs``, so that only these cross to the
host. Kernels neither wait nor, but for their results, allocate: a CUDA graph can capture them.

Source: Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex Problems", algorithm
1.
"""

import math

import torch
from torch import Tensor

from sparsefl._codec import pack_signs, unpack_signs
from sparsefl.ops import _dispatch
from sparsefl.ops._arena import (
    BLOCK_BYTES,
    Arena,
    arena_of,
    check_bits,
    check_count,
    check_flat,
    found_nan_of,
    refuse_nan,
)
from sparsefl.ops._library import LIBRARY, define

define("sign_pack(Tensor x, Tensor? arena, int blocks, Tensor(a!) found_nan) -> Tensor")
define("sign_unpack(Tensor bits, Tensor? arena, int n, float scale) -> Tensor")


def sign_pack(x: Tensor, arena: Arena | None = None, found_nan: Tensor | None = None) -> Tensor:
    """Return the signs of ``x``: bit ``i`` is set where ``x[i] < 0``.

    Zeros of either sign count as +1, denormals by their sign.

    Args:
        x: Any shape, float32, read row-major; with an arena its elements.
        arena: Where ``x`` holds several tensors.
        found_nan: int32, one element, on the device of ``x``; set to 1 where an element is NaN, and
            the bits are then of no use. Without it the call waits for the device and raises.

    Returns:
        Bitmap, least significant bit first, zeros past the last: ``[ceil(x.numel() / 8)]`` uint8;
        with an arena ``[128 * blocks]``, which :meth:`Arena.split` cuts into the tensors'.

    Raises:
        TypeError: if ``x`` is no float32 tensor.
        ValueError: if an element is NaN and ``found_nan`` is not given, or that or ``x`` does not
            fit.
    """
    flat, own = check_flat("x", x, arena)
    flag = found_nan_of(x, found_nan)
    if _dispatch.verified("sign_pack", x.device):
        bits = torch.ops.sparsefl.sign_pack.default(flat, own.table(x.device), own.blocks, flag)
    else:
        flag |= flat.isnan().any()
        bits = own.pack(flat < 0)
    refuse_nan("x", flag, found_nan, "sign")
    return bits if arena is not None else bits[: math.ceil(x.numel() / 8)]


def sign_unpack(bits: Tensor, size: int | Arena, scale: float = 1.0) -> Tensor:
    """Return ``-scale`` where a bit is set and ``scale`` where it is not.

    Args:
        bits: As of :func:`sign_pack`. What lies past the last position is zero, which only the CPU
            checks: another device would have to be waited for.
        size: Number of positions, or the arena.
        scale: Finite in float32.

    Returns:
        ``[n]``, float32, on the device of ``bits``; the elements of the arena.

    Raises:
        TypeError: if ``bits`` is no uint8 tensor, or ``size`` neither integer nor arena.
        ValueError: if ``bits`` is no bitmap of that size, or ``scale`` not finite.
    """
    arena = size if isinstance(size, Arena) else Arena((check_count("size", size),))
    bits = check_bits("bits", bits, arena)
    if not math.isfinite(scale) or abs(scale) > torch.finfo(torch.float32).max:
        raise ValueError(f"scale: expected a number that is finite in float32, got {scale}")
    if _dispatch.verified("sign_unpack", bits.device):
        table = arena.table(bits.device)
        return torch.ops.sparsefl.sign_unpack.default(bits, table, arena.numel, scale)
    positive = torch.tensor(scale, dtype=torch.float32, device=bits.device)
    return torch.where(arena.unpack(bits), -positive, positive)


@torch.library.register_fake("sparsefl::sign_pack", lib=LIBRARY)
def _(x: Tensor, arena: Tensor | None, blocks: int, found_nan: Tensor) -> Tensor:
    return x.new_empty(blocks * BLOCK_BYTES, dtype=torch.uint8)


@torch.library.register_fake("sparsefl::sign_unpack", lib=LIBRARY)
def _(bits: Tensor, arena: Tensor | None, n: int, scale: float) -> Tensor:
    return bits.new_empty(n, dtype=torch.float32)


@torch.library.impl("sparsefl::sign_pack", "CPU", lib=LIBRARY)
def _(x: Tensor, arena: Tensor | None, blocks: int, found_nan: Tensor) -> Tensor:
    bits = torch.zeros(blocks * BLOCK_BYTES, dtype=torch.uint8)
    for part in arena_of(arena, x.numel()).parts():
        if not pack_signs(x[part.elements].numpy(), bits[part.bits].numpy()):
            found_nan.fill_(1)
    return bits


@torch.library.impl("sparsefl::sign_unpack", "CPU", lib=LIBRARY)
def _(bits: Tensor, arena: Tensor | None, n: int, scale: float) -> Tensor:
    out = torch.empty(n)
    try:
        for part in arena_of(arena, n).parts():
            unpack_signs(bits[part.bits].numpy(), scale, out[part.elements].numpy())
    except ValueError:
        raise ValueError("bits: expected zeros past the last position") from None
    return out
