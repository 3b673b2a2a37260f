"""The information bound that a message's length is compared with."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.base import Base
from sparsefl.codec.plan import Item, ValueFormat, ValueMode, plan
from sparsefl.codec.schema import DTYPE_CODES, Schema
from sparsefl.codec.update import Update

_SEED_BITS = 64
_SCALE_BITS = 32
_BLOCK_LOG2 = {
    mode: _codec.block_size(mode).bit_length() - 1
    for mode in (ValueMode.INT8, ValueMode.INT4, ValueMode.TERNARY)
}


def bound_bytes(
    update: Update, schema: Schema, value_format: ValueFormat = "fp32", base: Base | None = None
) -> int:
    """Compute the bytes that ``update`` holds, ideally coded and nothing framing it.

    A bound of order 0: of positions, signs and values in random order.

    The sum over tensors, rounded up to a byte once, of

    - for a support ``log2 C(numel, nnz)`` bits, none where ``base`` holds an equal one, and at most
      ``log2 C(k, drops) + log2 C(numel - k, adds)`` where it holds another, of ``k`` positions;
    - for signs ``log2 C(nnz, f)``, ``f`` of them -1, or where ``base`` holds some at the same
      positions, different from those, and 32 for their scale;
    - for values the empirical entropy of each plane of bytes: of a float the exponent, then the
      mantissa and the sign; of a block the bytes of its integers, and of its scale two;
    - 64 bits a seed.

    A message may take less than this. Codes of bit strings know runs, rows and blocks; values whose
    frequencies differ from place to place are coded by classes of blocks (format 1.1), which the
    entropy of a whole plane does not see.

    Args:
        update: What is to be sent.
        schema: What sender and receiver agreed on.
        value_format: As of ``encode``.
        base: As of ``encode``.

    Returns:
        Bytes.

    Raises:
        TypeError, ValueError: as ``encode``.

    Source: Shannon 1948, "A mathematical theory of communication", of empirical frequencies.
    """
    bits = sum(_item_bits(item) for item in plan(update, schema, value_format, base))
    return math.ceil(bits / 8)


def _item_bits(item: Item) -> float:
    if item.is_seed:
        return _SEED_BITS
    return _support_bits(item) + _value_bits(item)


def _support_bits(item: Item) -> float:
    if not item.sends_support or item.support is None:
        return 0.0
    numel, nnz = item.spec.numel, item.support.nnz
    whole = log2_choose(numel, nnz)
    if item.base_support is None:
        return whole
    base = item.base_support.nnz
    same = int(np.count_nonzero(np.unpackbits(item.support.packed & item.base_support.packed)))
    return min(whole, log2_choose(base, base - same) + log2_choose(numel - base, nnz - same))


def _value_bits(item: Item) -> float:
    count, mode = item.count, item.value_mode
    if mode is ValueMode.SIGN:
        signs, base = item.values, item.base_signs
        if signs is None:
            return _SCALE_BITS
        if base is None:
            return _SCALE_BITS + log2_choose(count, int(np.count_nonzero(signs < 0)))
        return _SCALE_BITS + log2_choose(count, int(np.count_nonzero(signs != base)))
    if mode is ValueMode.MODULAR:
        return _SCALE_BITS + 32 * count
    return 0.0 if mode is ValueMode.NONE else _entropy_of_values(item)


def _entropy_of_values(item: Item) -> float:
    """Returns the entropy of each plane of bytes that the format makes of the values, in bits."""
    mode, log2 = item.value_mode, _BLOCK_LOG2.get(item.value_mode, 0)
    values = np.ascontiguousarray(item.values).reshape(-1).view(np.uint8)
    dtype = DTYPE_CODES[item.spec.dtype]
    counts = _codec.value_counts(int(mode), dtype, log2, values)
    if counts is None:
        raise ValueError(f"tensor {item.name!r}: a value has no place in {mode.name.lower()}")
    return sum(_entropy(plane) for plane in counts)


def _entropy(counts: npt.NDArray[np.uint64]) -> float:
    """Returns the empirical entropy of bytes that occur so often, all together, in bits."""
    found = counts[counts > 0].astype(np.float64)
    return float(np.sum(found * -np.log2(found / found.sum())))


def log2_choose(n: int, k: int) -> float:
    """Returns log2 of the number of ways to keep ``k`` of ``n`` positions, in bits."""
    if k in (0, n):
        return 0.0
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
