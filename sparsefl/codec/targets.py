"""Memory that messages are added to: sums, models, residuals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl.codec.schema import Schema
from sparsefl.support import Support

if TYPE_CHECKING:
    import torch

Floating: TypeAlias = "npt.NDArray[Any] | torch.Tensor"


def checked_supports(supports: Mapping[str, Support] | None, schema: Schema) -> dict[str, Support]:
    """Return the supports of some tensors, checked against the schema.

    Raises:
        TypeError: if one is no Support.
        ValueError: if a name or shape is not the schema's.
    """
    checked = {} if supports is None else dict(supports)
    for name, support in checked.items():
        if not isinstance(support, Support):
            raise TypeError(f"supports[{name!r}] must be a Support, got {type(support).__name__}")
        if name not in schema:
            raise ValueError(f"supports has {name!r}, which the schema does not")
        if support.shape != schema[name].shape:
            raise ValueError(
                f"supports[{name!r}] covers {support.shape}, the schema has {schema[name].shape}"
            )
    return checked


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return zeros, in huge pages where the machine has them: numpy asks for these in empty."""
    array = np.empty(shape, dtype)
    array.fill(0)
    return array


def memory_of(value: Floating, name: str) -> npt.NDArray[Any]:
    """Return the memory of an array or tensor as a numpy array, to be written to.

    Raises:
        TypeError: if it is no float32 or float64 array or tensor.
        ValueError: if it is not contiguous, not writeable, or on another device.
    """
    if not isinstance(value, np.ndarray):
        if not hasattr(value, "detach"):
            raise TypeError(f"tensor {name!r}: expected an array, got {type(value).__name__}")
        if value.device.type != "cpu" or not value.is_contiguous():
            raise ValueError(f"tensor {name!r} must be contiguous and on the CPU")
        if str(value.dtype) not in ("torch.float32", "torch.float64"):
            raise TypeError(f"tensor {name!r} must be float32 or float64, got {value.dtype}")
        return value.detach().numpy()
    if value.dtype not in (np.float32, np.float64):
        raise TypeError(f"tensor {name!r} must be float32 or float64, got {value.dtype}")
    if not (value.flags.c_contiguous and value.flags.writeable):
        raise ValueError(f"tensor {name!r} must be contiguous and writeable")
    return value


def check_apart(targets: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse tensors in one memory, as tied weights are: it would be added to once for each name.

    Args:
        targets: Contiguous arrays by name.

    Raises:
        ValueError: if two of them overlap.
    """
    names = list(targets)
    spans = sorted(
        (array.__array_interface__["data"][0], array.nbytes, where)
        for where, array in enumerate(targets.values())
        if array.nbytes
    )
    for (begin, size, where), (following, _, other) in itertools.pairwise(spans):
        if following < begin + size:
            first, second = (names[position] for position in sorted((where, other)))
            raise ValueError(
                f"tensors {first!r} and {second!r} share memory, which would be added to twice: "
                "leave one of them out"
            )
