"""``seeded_normal``: the normals of a seed's stream, the bits that the CPU draws.

A program computes blocks of Philox4x32-10, whose four words lie 16 apart in the stream, and turns
each into a normal in integers (csrc/codec/philox.h, csrc/codec/normal.h).

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; what it serves is FedPT
(Sidahmed et al. 2021, arXiv 2110.03450), whose frozen parameters are a seed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._launch import launch_options, on

# Blocks of four words that a program computes.
_BLOCKS = 512
_GROUP_BLOCKS = 16
_FRACTION_BITS = 21


@triton.jit
def _scaled(bits, table_ptr, scale, DEGREE: tl.constexpr, OCTAVES: tl.constexpr):
    """Return the normals of words, uint32, in units of ``scale``."""
    upper = (bits >> 31) != 0
    odd = 2 * tl.where(upper, ~bits, bits) + 1
    # Leading zeros; odd is not zero.
    octave = tl.zeros_like(bits).to(tl.int32)
    rest = odd
    for step in tl.static_range(5):
        low = (rest >> (32 - (16 >> step))) == 0
        octave += tl.where(low, 16 >> step, 0)
        rest = tl.where(low, rest << (16 >> step), rest)
    # Position in the octave from -1 to 1, in units of 2**-31: the leading one goes.
    s = (
        ((rest << 1) ^ tl.full(rest.shape, 0x80000000, tl.uint32))
        .to(tl.int32, bitcast=True)
        .to(tl.int64)
    )
    z = tl.load(table_ptr + DEGREE * OCTAVES + octave)
    for k in tl.static_range(1, DEGREE + 1):
        z = tl.load(table_ptr + (DEGREE - k) * OCTAVES + octave) + ((z * s) >> 32).to(tl.int32)
    z = (z + 64) >> 7
    return tl.where(upper, z, -z).to(tl.float32) * scale


@triton.jit(do_not_specialize=["n", "key0", "key1", "stream0", "stream1"])
def _seeded_normal_kernel(
    out_ptr,
    table_ptr,
    n,
    key0,
    key1,
    stream0,
    stream1,
    scale,
    BLOCKS: tl.constexpr,
    DEGREE: tl.constexpr,
    OCTAVES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    c0 = block.to(tl.uint32)
    c1 = (block >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + stream0.to(tl.uint32)
    c3 = tl.zeros_like(c0) + stream1.to(tl.uint32)
    k0 = tl.zeros_like(c0) + key0.to(tl.uint32)
    k1 = tl.zeros_like(c0) + key1.to(tl.uint32)
    m0 = tl.full(c0.shape, 0xD2511F53, tl.uint32)
    m1 = tl.full(c0.shape, 0xCD9E8D57, tl.uint32)
    bump0 = tl.full(c0.shape, 0x9E3779B9, tl.uint32)
    bump1 = tl.full(c0.shape, 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(m0, c0), m0 * c0
        high1, low1 = tl.umulhi(m1, c2), m1 * c2
        c0, c1 = high1 ^ c1 ^ k0, low1
        c2, c3 = high0 ^ c3 ^ k1, low0
        k0 += bump0
        k1 += bump1
    first = block // 16 * 64 + block % 16
    for w in tl.static_range(4):
        word = c0 if w == 0 else (c1 if w == 1 else (c2 if w == 2 else c3))
        at = first + 16 * w
        tl.store(out_ptr + at, _scaled(word, table_ptr, scale, DEGREE, OCTAVES), mask=at < n)


def seeded_normal(seed: int, stream: int, n: int, std: float, table: Tensor) -> Tensor:
    """Return ``std`` times the first normals of a stream: :func:`sparsefl.random.normal`'s bits.

    Args:
        seed: Seed, ``0 <= seed < 2**64``.
        stream: Number of the stream (:func:`sparsefl.random.stream`).
        n: How many.
        std: Standard deviation, a float32; 0 or between ``2**-100`` and ``2**100``.
        table: Coefficients of the polynomials, int32 ``[degree + 1, octaves]``, on the device.

    Returns:
        Normals, ``[n]``, float32, on the device of ``table``.
    """
    out = table.new_empty(n, dtype=torch.float32)
    blocks = -(-n // (4 * _GROUP_BLOCKS)) * _GROUP_BLOCKS
    if n == 0:
        return out
    words = (part >> shift & 0xFFFFFFFF for part in (seed, stream) for shift in (0, 32))
    with on(table.device):
        _seeded_normal_kernel[(triton.cdiv(blocks, _BLOCKS),)](
            out, table, n, *words, std * 2.0**-_FRACTION_BITS, **normal_options(table.shape)
        )
    return out


def normal_options(shape: tuple[int, ...]) -> dict[str, int]:
    """Return the options of a launch with a table of that shape."""
    sizes = {"BLOCKS": _BLOCKS, "DEGREE": shape[0] - 1, "OCTAVES": shape[1]}
    return {**sizes, **launch_options(num_warps=4, num_stages=1)}
