"""Normals of a seed's stream on devices other than the CPU: a kernel where verified, else torch.

Either gives the bits of :func:`sparsefl.random.normal`: everything but the last conversion and
multiplication is done in integers. No weight crosses to the device, and nothing waits for it.
"""

import torch
from torch import Tensor

from sparsefl import _codec, random
from sparsefl.ops import _dispatch
from sparsefl.ops._kernel_weight import launcher

_WORD = (1 << 32) - 1
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_BUMPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# A stream is groups of 64 words: word w of 16 blocks, for each of the four (csrc/codec/philox.h).
_GROUP_BLOCKS = 16
_GROUP_WORDS = 4 * _GROUP_BLOCKS
_FRACTION_BITS, _ROUNDING_BITS = 21, 7
# Groups that torch computes at a time: some 100 MB of int64.
_GROUPS = 1 << 15

_TABLES: dict[torch.device, Tensor] = {}


def normal(
    seed: int, name: str, shape: tuple[int, ...], std: float, device: torch.device
) -> Tensor:
    """Return ``std`` times the first normals of a stream, ``shape``, float32, on ``device``.

    Arguments and errors are those of :func:`sparsefl.random.normal`.
    """
    # Refuses what it would refuse, and rounds.
    random.normal(seed, name, 0, std)
    n, rounded = torch.Size(shape).numel(), torch.tensor(std, dtype=torch.float32).item()
    stream, table = random.stream(name), _table(device)
    if _dispatch.verified("seeded_normal", device):
        drawn: Tensor = launcher("seeded_normal")(seed, stream, n, rounded, table)
    else:
        drawn = plain_normal(seed, stream, n, rounded, table)
    return drawn.view(shape)


def plain_normal(seed: int, stream: int, n: int, std: float, table: Tensor) -> Tensor:
    """Return what the kernel ``seeded_normal`` does (kernels/normal.py), by torch."""
    groups = -(-n // _GROUP_WORDS)
    parts = [
        _scaled(_words(seed, stream, first, min(_GROUPS, groups - first), table.device), table, std)
        for first in range(0, groups, _GROUPS)
    ]
    return torch.cat(parts).narrow(0, 0, n) if parts else table.new_empty(0, dtype=torch.float32)


def _table(device: torch.device) -> Tensor:
    """Return the polynomials' coefficients on a device, int32 ``[degree + 1, octaves]``."""
    table = _TABLES.get(device)
    if table is None:
        table = torch.from_numpy(_codec.normal_table()).to(device)
        if type(table) is Tensor:  # not one that a tracer made
            _TABLES[device] = table
    return table


def _words(seed: int, stream: int, first: int, groups: int, device: torch.device) -> Tensor:
    """Return words of whole groups of a stream, int64, flat: Philox4x32-10."""
    block = torch.arange(groups * _GROUP_BLOCKS, device=device) + first * _GROUP_BLOCKS
    keys = [seed & _WORD, seed >> 32]
    # Products below 2**64 wrap to the same bits.
    c = [block & _WORD, block >> 32, *(torch.full_like(block, p) for p in _halves(stream))]
    for _ in range(_ROUNDS):
        products = [multiplier * c[2 * i] for i, multiplier in enumerate(_MULTIPLIERS)]
        (high0, high1), (low0, low1) = (
            [(p >> shift) & _WORD for p in products] for shift in (32, 0)
        )
        c = [high1 ^ c[1] ^ keys[0], low1, high0 ^ c[3] ^ keys[1], low0]
        keys = [(key + bump) & _WORD for key, bump in zip(keys, _BUMPS, strict=True)]
    return torch.stack([word.view(groups, _GROUP_BLOCKS) for word in c], dim=1).view(-1)


def _scaled(words: Tensor, table: Tensor, std: float) -> Tensor:
    """Return normals of words, float32 (normal_fixed and normal_scaled of csrc/codec/normal.h)."""
    upper = words >> 31 == 1
    odd = 2 * torch.where(upper, words ^ _WORD, words) + 1
    octave = 32 - torch.frexp(odd.double()).exponent.long()
    s = ((odd << octave << 1) & _WORD) - (1 << 31)
    *lower, highest = table.long().unbind()
    z = highest.index_select(0, octave)
    for row in reversed(lower):
        z = row.index_select(0, octave) + (z * s >> 32)
    z = (z + (1 << _ROUNDING_BITS - 1)) >> _ROUNDING_BITS
    return torch.where(upper, z, -z).float() * (std * 2.0**-_FRACTION_BITS)


def _halves(number: int) -> tuple[int, int]:
    return number & _WORD, number >> 32
