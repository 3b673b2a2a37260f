"""Rank space: the positions that a bitmap has set (or clear), numbered in order.

A change of a support is small there: the positions that leave it, numbered among those that were
in it, and those that join it, numbered among those that were not.
"""

from __future__ import annotations

from sparsefl import _codec
from sparsefl.codec.arguments import Bitmap, Bits, as_bitmap, as_count


def compress_bits(bits: Bits, mask: Bits, n: int, *, complement: bool = False) -> Bitmap:
    """Returns ``bits[mask]``: bit ``j`` is that of the ``j``-th position of ``mask``.

    Args:
        bits: Bitmap of ``n`` positions, ``[ceil(n / 8)]``, uint8, least significant bit first, the
            bits past the last position zero; numpy array or torch tensor.
        mask: The positions that count, a bitmap of the same form.
        n: Number of positions.
        complement: Whether the positions that count are those that ``mask`` lacks.

    Returns:
        Bitmap of as many positions as count, ``[ceil(count / 8)]``, uint8.

    Raises:
        TypeError: if a bitmap is not uint8, or ``n`` no integer.
        ValueError: if ``n`` is negative, or a bitmap is not one of ``n`` positions.

    Source: "parallel extract" (pext) of Hilewitz and Lee 2006, "Fast bit compression and expansion
    with parallel extract and parallel deposit instructions".
    """
    n = as_count(n)
    return _codec.compress_bits(
        as_bitmap(bits, n, "bits"), as_bitmap(mask, n, "mask"), n, complement
    )


def expand_bits(ranks: Bits, mask: Bits, n: int, *, complement: bool = False) -> Bitmap:
    """Returns the bitmap with ``bits[mask] = ranks``, zero elsewhere: undoes :func:`compress_bits`.

    Args:
        ranks: Bitmap of as many positions as ``mask`` has set, uint8, least significant bit first,
            the bits past the last position zero; numpy array or torch tensor.
        mask: The positions that count, a bitmap of ``n`` positions.
        n: Number of positions.
        complement: Whether the positions that count are those that ``mask`` lacks.

    Returns:
        Bitmap of ``n`` positions, ``[ceil(n / 8)]``, uint8.

    Raises:
        TypeError: if a bitmap is not uint8, or ``n`` no integer.
        ValueError: if ``n`` is negative, or a bitmap has the wrong length.

    Source: "parallel deposit" (pdep), as for :func:`compress_bits`.
    """
    n = as_count(n)
    mask = as_bitmap(mask, n, "mask")
    count = _codec.popcount(mask)
    count = n - count if complement else count
    return _codec.expand_bits(as_bitmap(ranks, count, "ranks"), mask, n, complement)
