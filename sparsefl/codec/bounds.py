"""The information bound that a message's length is compared with."""

from __future__ import annotations

import math

import numpy as np

from sparsefl import _codec
from sparsefl.codec.base import Base
from sparsefl.codec.plan import Item, ValueFormat, ValueMode, plan
from sparsefl.codec.schema import Schema
from sparsefl.codec.update import Update

_SEED_BITS = 64
_SCALE_BITS = 32
_BLOCK_SCALE_BITS = 16
_BITS = {
    ValueMode.NONE: 0,
    ValueMode.FP32: 32,
    ValueMode.BF16: 16,
    ValueMode.INT8: 8,
    ValueMode.INT4: 4,
}
_BLOCKS = {mode: _codec.block_size(mode) for mode in (ValueMode.INT8, ValueMode.INT4)}


def bound_bytes(
    update: Update, schema: Schema, value_format: ValueFormat = "fp32", base: Base | None = None
) -> int:
    """Compute the bytes that ``update`` holds, ideally coded and nothing framing it.

    The sum over tensors, rounded up to a byte once, of

    - for a support ``log2 C(numel, nnz)`` bits, none where ``base`` holds an equal one, and at most
      ``log2 C(k, drops) + log2 C(numel - k, adds)`` where it holds another, of ``k`` positions;
    - for signs 1 bit each, or where ``base`` holds some at the same positions, ``f`` of them
      different, ``log2 C(nnz, f)``, and 32 for their scale;
    - for a value the raw bits of its format and of its blocks' scales: its entropy is not modelled;
    - 64 bits a seed.

    The supports and flips of a message are coded for what they are, so one that is not random (runs
    of kept positions) may take less than this.

    Args:
        update: What is to be sent.
        schema: What sender and receiver agreed on.
        value_format: As of ``encode``.
        base: As of ``encode``.

    Returns:
        Bytes.

    Raises:
        TypeError, ValueError: as ``encode``, but for values that the format cannot hold.
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
        if signs is None or base is None:
            return _SCALE_BITS + count
        return _SCALE_BITS + log2_choose(count, int(np.count_nonzero(signs != base)))
    if mode in _BLOCKS:
        return _BITS[mode] * count + _BLOCK_SCALE_BITS * math.ceil(count / _BLOCKS[mode])
    if mode is ValueMode.MODULAR:
        return _SCALE_BITS + 32 * count
    if mode is ValueMode.RAW:
        return 8 * np.dtype(item.spec.dtype).itemsize * count
    return _BITS[mode] * count


def log2_choose(n: int, k: int) -> float:
    """Returns log2 of the number of ways to keep ``k`` of ``n`` positions, in bits."""
    if k in (0, n):
        return 0.0
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
