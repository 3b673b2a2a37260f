"""Arrays, tensors and shapes as a caller hands them in, checked. Needs numpy alone."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt


def checked_shape(shape: Iterable[int]) -> tuple[tuple[int, ...], int]:
    """Returns the shape as a tuple of ints, and its number of elements."""
    dims = tuple(operator.index(d) for d in shape)
    if any(d < 0 for d in dims):
        raise ValueError(f"shape must not have negative sizes, got {dims}")
    return dims, math.prod(dims)


def as_numpy(value: object, what: str) -> npt.NDArray[Any]:
    """Returns an array or a tensor of any device as a numpy array."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        return cast("npt.NDArray[Any]", value.detach().cpu().numpy())
    raise TypeError(f"{what} must be a numpy array or a torch tensor, got {type(value).__name__}")


def as_bool(value: object, what: str) -> npt.NDArray[np.bool_]:
    """Returns a bool array or tensor as a numpy array."""
    array = as_numpy(value, what)
    if array.dtype != np.bool_:
        raise TypeError(f"{what} must be bool, got {array.dtype}")
    return array


def increases(flat: npt.NDArray[Any], numel: int) -> bool:
    """Tells whether flat positions increase strictly within ``[0, numel)``."""
    if not flat.size:
        return True
    return bool(flat[0] >= 0 and flat[-1] < numel and np.all(flat[:-1] < flat[1:]))
