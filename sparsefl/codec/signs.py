"""Signs of float32 tensors as bitmaps: one bit instead of 32."""

from __future__ import annotations

import math

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


def pack_signs(x: Floats, out: Bitmap | None = None) -> Bitmap:
    """Returns the signs of ``x``: bit ``i`` is set where ``x[i] < 0``.

    Zeros of either sign count as +1, denormals by their sign.

    Args:
        x: Any shape, float32, read row-major; numpy array or torch tensor.
        out: Where to write, ``[ceil(x.size / 8)]``, uint8; fresh memory by default.

    Returns:
        Bitmap, ``[ceil(x.size / 8)]``, uint8, least significant bit first, zeros past the last;
        ``out`` where that is given.

    Raises:
        TypeError: if ``x`` is not float32, or ``out`` not uint8.
        ValueError: if an element is NaN, or ``out`` has another shape, is not contiguous or not
            writeable.

    Source: Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex Problems",
    algorithm 1.
    """
    x = as_float32(x, "x")
    shape = ((x.size + 7) // 8,)
    bits = np.empty(shape, np.uint8) if out is None else as_output(out, shape, np.uint8)
    if not _codec.pack_signs(x.reshape(-1), bits):
        raise ValueError("x has a NaN, which has no sign")
    return bits


def unpack_signs(
    bits: Bits, n: int, scale: float = 1.0, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Returns ``-scale`` where a bit is set and ``scale`` where it is not.

    Args:
        bits: Bitmap of ``n`` positions, ``[ceil(n / 8)]``, uint8, as of :func:`pack_signs`; numpy
            array or torch tensor.
        n: Number of positions.
        scale: Finite in float32.
        out: Where to write, ``[n]``, float32; fresh memory by default, whose pages take longer to
            get than signs to unpack.

    Returns:
        ``[n]``, float32; ``out`` where that is given.

    Raises:
        TypeError: if ``bits`` is not uint8, ``n`` no integer or ``out`` not float32.
        ValueError: if ``bits`` is no bitmap of ``n`` positions, ``scale`` not finite, or ``out``
            has another shape, is not contiguous or not writeable.

    Source: Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex Problems",
    algorithm 1.
    """
    n = as_count(n)
    bits = as_bitmap(bits, n, "bits")
    if not math.isfinite(scale) or abs(scale) > float(np.finfo(np.float32).max):
        raise ValueError(f"scale must be finite in float32, got {scale}")
    to = np.empty(n, np.float32) if out is None else as_output(out, (n,), np.float32)
    _codec.unpack_signs(bits, scale, to)
    return to
