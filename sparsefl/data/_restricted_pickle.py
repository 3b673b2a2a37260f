"""The pickled batches of CIFAR, without running what a pickle may ask for.

A pickle names functions and calls them. These files need three names of numpy's, to build one array
of bytes; none of the three is numpy's own here, but a stand-in that takes nothing else. Any other
name is refused before anything is imported.
"""

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class _Array:
    """Stands in for an array that is being unpickled."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Bytes | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or dtype.code != b"u1" or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array is not of unsigned bytes")
        order: Any = "F" if is_fortran else "C"
        self.content = np.frombuffer(content, np.uint8).reshape(shape, order=order)


class _Dtype:
    """Stands in for a dtype: its code, whatever state follows."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Name:
    """What a name stands for: it can be called, if at all, and nothing can be set on it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object] | None) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        if self._call is None:
            raise pickle.UnpicklingError("numpy.ndarray is called")
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a name is given a state")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _Name(lambda *_: _Array())
        if (module, name) == ("numpy", "dtype"):
            return _Name(_Dtype)
        if (module, name) == ("numpy", "ndarray"):
            return _Name(None)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR's files do not")


def read_batch(file: BinaryIO, label_key: bytes) -> tuple[Bytes, Bytes]:
    """Return the images and labels of one pickled batch.

    Args:
        file: The pickle, as Python 2 wrote it: a dict with ``data``, an array of bytes, and lists.
        label_key: Key of the labels.

    Returns:
        ``[n, pixels]`` and ``[n]``, both uint8.

    Raises:
        ValueError: if it is no such pickle or asks for anything but that array.
    """
    try:
        loaded = _Unpickler(file, encoding="bytes").load()
    # Damaged bytes make it raise almost anything; none of it is more than "this is no batch".
    except Exception as error:
        raise ValueError(f"no pickled CIFAR batch: {error}") from error
    images = loaded.get(b"data") if isinstance(loaded, dict) else None
    labels = loaded.get(label_key) if isinstance(loaded, dict) else None
    if not isinstance(images, _Array) or images.content is None or not isinstance(labels, list):
        raise ValueError(f"no pickled CIFAR batch: it lacks data or {label_key.decode()}")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError("no pickled CIFAR batch: a label is not in 0..255")
    return images.content, np.array(labels, np.uint8)
