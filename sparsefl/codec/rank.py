"""Rank space: the positions that a bitmap has set (or clear), numbered in order.

A change of a support is small there: the positions that leave it, numbered among those that were
in it, and those that join it, numbered among those that were not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.arguments import (
    Bitmap,
    Bits,
    Floats,
    as_bitmap,
    as_count,
    as_float32,
    as_output,
)
from sparsefl.codec.update import as_array


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


def gather(x: Floats, bits: Bits) -> npt.NDArray[np.float32]:
    """Returns ``x[bits]``, the values at the positions of a bitmap.

    Args:
        x: Any shape, float32, read row-major; numpy array or torch tensor.
        bits: Bitmap of ``x.size`` positions, ``[ceil(x.size / 8)]``, uint8: ``Support.packed``.

    Returns:
        ``[number of bits set]``, float32.

    Raises:
        TypeError: if ``x`` is not float32 or ``bits`` not uint8.
        ValueError: if ``bits`` is no bitmap of ``x.size`` positions.
    """
    x = as_float32(x, "x").reshape(-1)
    return _codec.gather(x, as_bitmap(bits, x.size, "bits"))


def add_at(model: Floats, bits: Bits, values: Floats, weight: float = 1.0) -> None:
    """Adds in place: ``model[i_j] += weight * values[j]``, ``i_j`` being the ``j``-th bit set.

    Product and sum are rounded once. Elements of other positions are left as they are.

    Args:
        model: Any shape, float32, contiguous; numpy array, or torch tensor on the CPU.
        bits: Bitmap of ``model.size`` positions, ``[ceil(model.size / 8)]``, uint8.
        values: ``[number of bits set]``, float32.
        weight: Factor of all values, rounded to float32.

    Raises:
        TypeError: if ``model`` or ``values`` is not float32, or ``bits`` not uint8.
        ValueError: if ``model`` is not contiguous or not writeable, ``bits`` is no bitmap of
            ``model.size`` positions, or ``values`` are not as many as it has set.
    """
    target = as_array(model, "model")
    if target.dtype != np.float32:
        raise TypeError(f"model must be float32, got {target.dtype}")
    target = as_output(target, target.shape, np.float32, "model").reshape(-1)
    bits = as_bitmap(bits, target.size, "bits")
    values = as_float32(values, "values")
    if values.shape != (_codec.popcount(bits),):
        raise ValueError(
            f"values must be [{_codec.popcount(bits)}], one a bit set, got {values.shape}"
        )
    _codec.add_at(target, bits, values, weight)
