"""The largest elements of a tensor, or of a model's tensors together: exact and reproducible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.arguments import Floats, as_count, as_float32
from sparsefl.codec.update import Sparse
from sparsefl.support import Support


def top_k(x: Floats, k: int) -> tuple[Support, npt.NDArray[np.float32]]:
    """Returns the ``k`` elements of largest ``|x|``, ties to the lowest index.

    Exact, and the same on every machine and instruction set. Infinities come first.

    Args:
        x: Any shape, float32; numpy array or torch tensor.
        k: How many to keep, within [0, x.size].

    Returns:
        The support of ``x.shape``, and ``x`` there, ``[k]``, float32, row-major.

    Raises:
        TypeError: if ``x`` is not float32 or ``k`` no integer.
        ValueError: if ``k`` is out of range, or an element is NaN.

    Source: Aji and Heafield 2017, "Sparse Communication for Distributed Gradient Descent".
    """
    array = as_float32(x, "x")
    kept, values = _largest({"x": array}, k)
    return kept[0], values


def top_k_of_all(tensors: Mapping[str, Floats], k: int) -> dict[str, Sparse]:
    """Returns the ``k`` elements of largest magnitude of all tensors together.

    One threshold for the whole model, as of :func:`top_k` of the tensors behind each other in the
    order of the mapping: of equal magnitudes those of the earlier tensor are kept, and of one
    tensor those of lower index.

    Args:
        tensors: ``{name: x}``, any shapes, float32; numpy arrays or torch tensors.
        k: How many to keep, within [0, the number of all elements].

    Returns:
        ``{name: Sparse}`` in the same order, whose supports have ``k`` positions together: what
        ``Update`` takes.

    Raises:
        TypeError: if a tensor is not float32 or ``k`` no integer.
        ValueError: if ``k`` is out of range, or an element is NaN.

    Source: Lin et al. 2018, "Deep Gradient Compression"; one threshold for all layers as in Lee et
    al. 2019, "SNIP".
    """
    arrays = {name: as_float32(x, f"tensors[{name!r}]") for name, x in tensors.items()}
    kept, values = _largest(arrays, k)
    ends = np.cumsum([support.nnz for support in kept])
    parts = np.split(values, ends[:-1]) if kept else []
    return {
        name: Sparse(support, part) for name, support, part in zip(arrays, kept, parts, strict=True)
    }


def _largest(
    arrays: Mapping[str, npt.NDArray[Any]], k: int
) -> tuple[Sequence[Support], npt.NDArray[np.float32]]:
    numel = sum(array.size for array in arrays.values())
    k = as_count(k, "k")
    if k > numel:
        raise ValueError(f"k must be within [0, {numel}], the number of elements, got {k}")
    found = _codec.top_k([array.reshape(-1) for array in arrays.values()], k)
    if found is None:
        named = [name for name, array in arrays.items() if bool(np.isnan(array).any())]
        raise ValueError(f"{', '.join(named)} has a NaN, which has no place in an order")
    bitmaps, values = found
    supports = [
        Support._trusted(array.shape, bits, count)
        for array, (bits, count) in zip(arrays.values(), bitmaps, strict=True)
    ]
    return supports, values
