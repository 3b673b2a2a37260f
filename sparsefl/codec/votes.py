"""Sums over the packed signs of many clients, without unpacking them.

Every result is the same, bit for bit, for any order of the clients and on any machine: votes are
counted, and weights are added as integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.arguments import Bitmap, Bits, as_bitmap, as_count, as_output

Ties = Literal["positive", "abstain"]

# What the sum of all integer weights stays below.
_SUM_BITS = 31


@overload
def majority_vote(packed: Sequence[Bits], n: int, ties: Literal["positive"] = ...) -> Bitmap: ...
@overload
def majority_vote(
    packed: Sequence[Bits], n: int, ties: Literal["abstain"]
) -> tuple[Bitmap, Bitmap]: ...


def majority_vote(
    packed: Sequence[Bits], n: int, ties: Ties = "positive"
) -> Bitmap | tuple[Bitmap, Bitmap]:
    """Returns ``sign(sum_c s_c)`` of the clients' signs ``s_c``.

    Args:
        packed: For each client a bitmap of ``n`` positions, ``[ceil(n / 8)]``, uint8, a bit set for
            -1, as of ``pack_signs``; numpy arrays or torch tensors.
        n: Number of positions.
        ties: What an even number of clients decides where its votes are equal: ``"positive"``, +1
            as the sign of zero is here, or ``"abstain"``, nothing.

    Returns:
        Bitmap ``[ceil(n / 8)]``, uint8, a bit set for -1. With ``ties="abstain"`` a second one, a
        bit set where the votes decide; where they do not, the first one's is clear.

    Raises:
        TypeError: if a bitmap is not uint8, or ``n`` no integer.
        ValueError: if there is no client, a bitmap is not one of ``n`` positions, or ``ties`` is
            neither.

    Source: Bernstein et al. 2019, "signSGD with Majority Vote is Communication Efficient and Fault
    Tolerant", algorithm 1. Counted by carry-save adders: Harley and Seal's population count (Warren
    2013, "Hacker's Delight", section 5-2).
    """
    clients, n = _clients(packed, n)
    if ties not in ("positive", "abstain"):
        raise ValueError(f"ties must be 'positive' or 'abstain', got {ties!r}")
    negative = np.empty((n + 7) // 8, np.uint8)
    least = len(clients) // 2 + 1
    if ties == "positive":
        _codec.vote(clients, n, least, negative, None)
        return negative
    tied = np.zeros_like(negative)
    if len(clients) % 2 == 0:
        _codec.vote(clients, n, least, negative, tied)
    else:
        _codec.vote(clients, n, least, negative, None)
    decided = ~tied
    if n % 8:
        decided[-1] &= (1 << n % 8) - 1
    return negative, decided


def weighted_mean(
    packed: Sequence[Bits],
    weights: npt.ArrayLike,
    n: int,
    scales: npt.ArrayLike | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Returns ``sum_c weights[c] * scales[c] * s_c / sum_c weights[c]`` of the clients' signs.

    The products ``weights * scales`` are rounded to multiples of one power of two, so small that
    their sum takes 31 bits, and added as integers: exact where they are integers (numbers of
    examples, say) whose sum is below 2**31 minus their number; else off by no more than
    ``len(packed) * 2**-30`` of their sum, by 100 times less than adding in float32. The order of
    the clients does not matter.

    Args:
        packed: For each client a bitmap of ``n`` positions, ``[ceil(n / 8)]``, uint8, a bit set for
            -1, as of ``pack_signs``; numpy arrays or torch tensors.
        weights: Of each client, ``[clients]``, not negative, some positive.
        n: Number of positions.
        scales: Magnitude of each client's signs, ``[clients]``, not negative; 1 by default.
        out: Where to write, ``[n]``, float32; fresh memory by default.

    Returns:
        ``[n]``, float32; ``out`` where that is given.

    Raises:
        TypeError: if a bitmap is not uint8, ``n`` no integer or ``out`` not float32.
        ValueError: if there is no client, a bitmap is not one of ``n`` positions, weights or scales
            are not as said, or ``out`` has another shape, is not contiguous or not writeable.

    Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", algorithm 1, of signs.
    """
    clients, n = _clients(packed, n)
    weight = _factors(weights, len(clients), "weights")
    total = math.fsum(weight)
    if not total > 0 or math.isinf(total):
        raise ValueError(f"weights must have a positive, finite sum, got {total}")
    scale = np.ones(len(clients)) if scales is None else _factors(scales, len(clients), "scales")
    counts, unit = _as_integers(weight * scale)
    to = np.empty(n, np.float32) if out is None else as_output(out, (n,), np.float32)
    _codec.mean(clients, counts, unit / total, to)
    return to


def _clients(packed: Sequence[Bits], n: int) -> tuple[list[Bitmap], int]:
    n = as_count(n)
    if len(packed) == 0:
        raise ValueError("packed must hold one client's bitmap at least, got none")
    return [as_bitmap(bits, n, f"packed[{c}]") for c, bits in enumerate(packed)], n


def _factors(value: npt.ArrayLike, clients: int, what: str) -> npt.NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if array.shape != (clients,):
        raise ValueError(f"{what} must be [{clients}], one a client, got shape {array.shape}")
    if not bool(np.all(np.isfinite(array) & (array >= 0))):
        raise ValueError(f"{what} must be finite and not negative")
    return array


def _as_integers(factors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int32], float]:
    """Returns integers and the power of two that they are multiples of."""
    total = math.fsum(factors)
    if total == 0:
        return np.zeros(len(factors), np.int32), 1.0
    # total < 2**exponent, and rounding adds half a unit a client at most.
    exponent = math.frexp(total)[1]
    shift = _SUM_BITS - exponent
    while math.ldexp(total, shift) + len(factors) / 2 > 2**_SUM_BITS - 1:
        shift -= 1
    return np.rint(np.ldexp(factors, shift)).astype(np.int32), math.ldexp(1.0, -shift)
