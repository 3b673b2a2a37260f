"""Empirical entropies: what integers, floats and blocks of rounded values hold."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefl.codec import Dense

Floats = npt.NDArray[np.float32]

# Values a block that the encoder takes, and the largest integer of it: FORMAT.md.
BLOCKS: Mapping[str, tuple[int, int]] = {"int8": (1024, 127), "int4": (64, 7), "ternary": (1024, 1)}
# Bits that follow the exponent of a float, sign and mantissa, and of a block's scale.
_REST = {"fp32": 24, "bf16": 8}
_SCALE_REST = 8
_MANTISSA_PAST_8 = 0x7FFF
# Where a message of one tensor states the positions of its chunks: FORMAT.md, "Descriptor".
_SPAN_AT = 64 + 8


def binary_entropy(share: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Compute ``-p log2 p - (1 - p) log2 (1 - p)``, bits."""
    p = np.asarray(share, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return np.where((p > 0) & (p < 1), bits, 0.0)


def entropy_bits(symbols: npt.ArrayLike) -> float:
    """Compute the empirical entropy of order 0 of integers, bits of all of them together."""
    counts = np.unique(np.asarray(symbols), return_counts=True)[1]
    total = counts.sum()
    return float(total * np.log2(total) - (counts * np.log2(counts)).sum())


def value_bits(decoded: Floats, chosen: str, counts: Sequence[int]) -> float:
    """Compute what values hold in a format, bits.

    The empirical entropy of the integers and of the scales' exponents, mantissas as they are; of
    floats the entropy of the exponents, sign and mantissa as they are.

    Args:
        decoded: The values as the format rounds them, ``[count]``.
        chosen: ``"fp32"``, ``"bf16"``, ``"int8"``, ``"int4"`` or ``"ternary"``.
        counts: Of values in each chunk of the message: blocks begin anew there.
    """
    if chosen in _REST:
        exponents = (decoded.view(np.uint32) >> 23) & 0xFF
        return entropy_bits(exponents) + _REST[chosen] * decoded.size
    integers, scales = quantised(decoded, chosen, counts)
    exponents = scales.view(np.uint32) >> 23
    return entropy_bits(integers) + entropy_bits(exponents) + _SCALE_REST * scales.size


def chunk_counts(data: bytes, entry: Any) -> list[int]:
    """Return how many values each chunk has of a message of one tensor, Sparse or Dense."""
    (span,) = struct.unpack_from("<I", data, _SPAN_AT)
    if isinstance(entry, Dense):
        bounds = [*range(0, entry.values.size, span), entry.values.size]
    else:
        ends = range(span, entry.support.numel + span, span)
        bounds = [0, *np.searchsorted(entry.support.indices, ends)]
    return [int(end - begin) for begin, end in itertools.pairwise(bounds)]


def quantised(
    decoded: Floats, chosen: str, counts: Sequence[int]
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return the integers, ``[count]``, and their blocks' scales that decoded values stand for.

    A block's scale is the largest magnitude over the greatest integer that makes all its values
    integers times a scale of 8 bits of mantissa.

    Args:
        decoded: ``[count]``.
        chosen: A format with blocks.
        counts: As of :func:`value_bits`.

    Raises:
        ValueError: if a block has no such scale.
    """
    block, most = BLOCKS[chosen]
    padded = [np.pad(part, (0, -part.size % block)) for part in _parts(decoded, counts)]
    by_block = np.concatenate(padded).astype(np.float64).reshape(-1, block)
    scales = _scales(by_block, most)
    divisors = np.where(scales == 0, 1, scales).astype(np.float64)
    integers = np.rint(by_block / divisors[:, None]).astype(np.int8).reshape(-1)
    taken = _parts(integers, [part.size for part in padded])
    kept = [part[:count] for part, count in zip(taken, counts, strict=True)]
    return np.concatenate(kept), scales


def _parts(array: npt.NDArray[Any], counts: Sequence[int]) -> list[npt.NDArray[Any]]:
    return np.split(array, np.cumsum(counts)[:-1])


def _scales(by_block: npt.NDArray[np.float64], most: int) -> Floats:
    peak = np.abs(by_block).max(axis=1)
    scales = np.zeros(len(peak), np.float32)
    left = np.flatnonzero(peak)
    for integer in range(most, 0, -1):
        tried = (peak[left] / integer).astype(np.float32)
        exact = tried.astype(np.float64) * integer == peak[left]
        short = tried.view(np.uint32) & _MANTISSA_PAST_8 == 0
        found, scale = left[exact & short], tried[exact & short]
        over = by_block[found] / scale[:, None]
        whole = (over == np.rint(over)).all(axis=1)
        scales[found[whole]] = scale[whole]
        left = np.setdiff1d(left, found[whole], assume_unique=True)
    if left.size:
        raise ValueError(f"{left.size} blocks have no scale that makes integers of them")
    return scales
