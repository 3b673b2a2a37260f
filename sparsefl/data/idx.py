"""The idx format of MNIST and its relatives, gzipped."""

import gzip
import math
import os
import zlib

import numpy as np
import numpy.typing as npt

# Type code of unsigned bytes, the only one that the image sets use.
_UNSIGNED_BYTE = 0x08
_MAX_DIMENSIONS = 4
# More than any data set that fits in memory here: 1 GiB.
MAX_BYTES = 1 << 30


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Return the array in a gzipped idx file of unsigned bytes.

    Nothing is unpacked beyond what the header announces, and that is at most ``MAX_BYTES``.

    Args:
        path: The file.

    Returns:
        The array, uint8, of the header's shape.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not such a file, is too large, cut off or followed by more.
    """
    try:
        with gzip.open(path, "rb") as file:
            return _read(file)
    except (ValueError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _read(file: gzip.GzipFile) -> npt.NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0":
        raise ValueError(f"not an idx file, it starts with {magic.hex()}")
    kind, dimensions = magic[2], magic[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"holds elements of type {kind:#04x}, expected unsigned bytes, 0x08")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
    header = file.read(4 * dimensions)
    if len(header) != 4 * dimensions:
        raise ValueError("the header is cut off")
    shape = tuple(np.frombuffer(header, ">u4").tolist())
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"announces shape {shape}, more than {MAX_BYTES} bytes")
    content = file.read(size)
    if len(content) != size or file.read(1):
        raise ValueError(f"does not hold the {size} bytes that its shape {shape} announces")
    return np.frombuffer(content, np.uint8).reshape(shape)
