"""Arguments of the functions beside messages: bitmaps and flat arrays, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl.codec.scalars import as_integer
from sparsefl.codec.update import as_array

if TYPE_CHECKING:
    import torch

Bits: TypeAlias = "npt.NDArray[np.uint8] | torch.Tensor"
Floats: TypeAlias = "npt.NDArray[np.float32] | torch.Tensor"
Bitmap: TypeAlias = "npt.NDArray[np.uint8]"


def as_count(n: int, what: str = "n") -> int:
    """Returns a number of positions.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is negative.
    """
    count = as_integer(n, what)
    if count < 0:
        raise ValueError(f"{what} must not be negative, got {count}")
    return count


def as_bitmap(value: object, n: int, what: str) -> Bitmap:
    """Returns a bitmap of ``n`` positions, contiguous, sharing memory where it can.

    Raises:
        TypeError: if it is no uint8 array or tensor.
        ValueError: if it is not ``[ceil(n / 8)]``, or a bit past the last position is set.
    """
    array = as_array(value, what)
    if array.dtype != np.uint8:
        raise TypeError(f"{what} must be uint8, got {array.dtype}")
    if array.shape != ((n + 7) // 8,):
        raise ValueError(f"{what} must be [{(n + 7) // 8}] for {n} positions, got {array.shape}")
    if n % 8 and int(array[-1]) >> (n % 8):
        raise ValueError(f"{what} has bits set past the last of its {n} positions")
    return np.ascontiguousarray(array)


def as_float32(value: object, what: str) -> npt.NDArray[Any]:
    """Returns an array of float32, contiguous, sharing memory where it can.

    Raises:
        TypeError: if it is no float32 array or tensor.
    """
    array = as_array(value, what)
    if array.dtype != np.float32:
        raise TypeError(f"{what} must be float32, got {array.dtype}")
    return array if array.flags.c_contiguous else np.array(array, order="C")


def as_output(
    value: npt.NDArray[Any], shape: Sequence[int], dtype: npt.DTypeLike, what: str = "out"
) -> npt.NDArray[Any]:
    """Returns an array that a result can be written to.

    Raises:
        TypeError: if it is no array of that dtype.
        ValueError: if it has another shape, is not contiguous or not writeable.
    """
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{what} must be an array of {np.dtype(dtype)}, got {got}")
    if value.shape != tuple(shape):
        raise ValueError(f"{what} must be {list(shape)}, got {list(value.shape)}")
    if not (value.flags.c_contiguous and value.flags.writeable):
        raise ValueError(f"{what} must be contiguous and writeable")
    return value
