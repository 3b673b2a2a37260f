"""The information bound that a message's length is compared with."""

from __future__ import annotations

import math

from sparsefl.codec.plan import Base, ValueFormat, plan
from sparsefl.codec.schema import Schema
from sparsefl.codec.update import Update

_SEED_BITS = 64
_SCALE_BITS = 32


def bound_bytes(
    update: Update, schema: Schema, value_format: ValueFormat = "fp32", base: Base | None = None
) -> int:
    """Compute the bytes that ``update`` holds, supports coded ideally and nothing framing it.

    The sum over tensors of ``log2 C(numel, nnz)`` bits for a support (none where ``base`` holds an
    equal one), 1 bit a sign and 32 a scale, the raw bits of each value in its format, 64 bits a
    seed; rounded up to a byte once. Values count raw: their entropy is not modelled.

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
    bits = 0.0
    for item in plan(update, schema, value_format, base).items:
        numel = item.spec.numel
        if item.sends_support and item.support is not None:
            bits += log2_choose(numel, item.support.nnz)
        bits += item.value_bits * item.count
        bits += _SCALE_BITS * item.has_scale + _SEED_BITS * item.is_seed
    return math.ceil(bits / 8)


def log2_choose(n: int, k: int) -> float:
    """Returns log2 of the number of ways to keep ``k`` of ``n`` positions, in bits."""
    if k in (0, n):
        return 0.0
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
