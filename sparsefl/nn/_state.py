"""How a support is written into a state_dict: its bitmap and its shape."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsefl.support import Support

BITMAP = "support"
SHAPE = "support_shape"


def support_entries(support: Support) -> dict[str, Tensor]:
    """Return the support as tensors.

    Returns:
        ``support``: uint8 ``[ceil(numel / 8)]``, a bit for each position in row-major order, least
        significant bit first; ``support_shape``: int64 ``[dimensions of the weight]``.
    """
    return {BITMAP: torch.tensor(support.packed), SHAPE: torch.tensor(support.shape)}


def has_support(state_dict: Mapping[str, Any], prefix: str) -> bool:
    """Tell whether the state_dict holds a support under ``prefix``."""
    return prefix + BITMAP in state_dict and prefix + SHAPE in state_dict


def read_support(state_dict: Mapping[str, Any], prefix: str) -> Support:
    """Return the support that :func:`support_entries` wrote.

    Raises:
        ValueError: if bitmap and shape do not fit together, or are no such tensors.
    """
    bitmap, shape = _as_arrays(state_dict, prefix)
    try:
        return Support.from_packed(shape, bitmap)
    except ValueError as error:
        raise ValueError(f"{prefix}{BITMAP}: {error}") from None


def holds_support(state_dict: Mapping[str, Any], prefix: str, support: Support) -> bool:
    """Tell whether the state_dict's support equals ``support``, without building it.

    Raises:
        ValueError: if bitmap or shape are no such tensors.
    """
    bitmap, shape = _as_arrays(state_dict, prefix)
    return shape == tuple(support.shape) and np.array_equal(bitmap, support.packed)


def _as_arrays(
    state_dict: Mapping[str, Any], prefix: str
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    bitmap, shape = state_dict[prefix + BITMAP], state_dict[prefix + SHAPE]
    for name, tensor, dtype in ((BITMAP, bitmap, torch.uint8), (SHAPE, shape, torch.int64)):
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.dim() != 1:
            raise ValueError(
                f"{prefix}{name} must be a 1-d {dtype} tensor, got {_describe(tensor)}"
            )
    return bitmap.cpu().numpy(), tuple(shape.tolist())


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def order_checksum(order: Tensor) -> int:
    """Return a checksum of the order in which kernels store a latent, int64 ``[nnz]``."""
    return zlib.crc32(order.cpu().numpy().tobytes())
