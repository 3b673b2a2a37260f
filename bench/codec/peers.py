"""What else puts supports and values into bytes; each in the form of its input that it likes best.

None of the packages is needed: a peer that is not installed has no rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefl.support import Support

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Coder:
    """Something and how a peer codes it.

    Attributes:
        given: What is encoded.
        encode: Returns its bytes.
        decode: Returns what they stand for.
    """

    given: Array
    encode: Callable[[Array], Any]
    decode: Callable[[Any], Array]

    def encoded(self) -> Any:
        """Encode what is given."""
        return self.encode(self.given)

    def correct(self, data: Any) -> bool:
        """Return whether decoding gives what was encoded."""
        return bool(np.array_equal(self.decode(data), self.given))


def indices(support: Support) -> npt.NDArray[np.uint32]:
    """Return the kept positions, ``[nnz]``, 32 bits each."""
    return support.indices.astype(np.uint32)


def gaps(support: Support) -> npt.NDArray[np.uint32]:
    """Return the distances of kept positions, ``[nnz]``; nobody is timed for taking them."""
    return np.diff(indices(support), prepend=np.uint32(0))


def zstd(given: Array, level: int) -> Coder:
    """Return the bytes of an array by zstd."""
    module = import_module("zstandard")
    writer, reader = module.ZstdCompressor(level=level), module.ZstdDecompressor()
    return Coder(
        given,
        lambda array: writer.compress(array.data.cast("B")),
        lambda data: np.frombuffer(reader.decompress(data), given.dtype).reshape(given.shape),
    )


def deflate(given: Array) -> Coder:
    """Return the bytes of an array by zlib's default level."""
    return Coder(
        given,
        lambda array: zlib.compress(array.data.cast("B"), 6),
        lambda data: np.frombuffer(zlib.decompress(data), given.dtype),
    )


def numpy_file(given: Array) -> Coder:
    """Return an array as ``np.save`` writes it: what Flower sends."""

    def encode(array: Array) -> bytes:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        return file.getvalue()

    return Coder(given, encode, lambda data: np.load(io.BytesIO(data)))


def roaring(given: Array) -> Coder:
    """Return positions as a roaring bitmap, run-optimised."""
    bitmap = import_module("pyroaring").BitMap

    def encode(array: Array) -> bytes:
        made = bitmap(array)
        made.run_optimize()
        return bytes(made.serialize())

    def decode(data: bytes) -> Array:
        return np.frombuffer(bitmap.deserialize(data).to_array(), np.uint32)

    return Coder(given, encode, decode)


def pcodec(given: Array) -> Coder:
    """Return numbers by pcodec, everything chosen by itself."""
    pco = import_module("pcodec")
    chosen = pco.ChunkConfig()
    return Coder(
        given,
        lambda array: pco.standalone.simple_compress(array, chosen),
        lambda data: np.asarray(pco.standalone.simple_decompress(data)),
    )


def blosc(given: Array, shuffle: str, level: int) -> Coder:
    """Return an array by blosc2: bits or bytes shuffled, then zstd, on one thread."""
    blosc2 = import_module("blosc2")
    blosc2.set_nthreads(1)
    chosen = {
        **{"codec": blosc2.Codec.ZSTD, "filters": [blosc2.Filter[shuffle]], "clevel": level},
        **{"typesize": given.itemsize, "nthreads": 1},
    }
    return Coder(
        given,
        lambda array: blosc2.compress2(array, **chosen),
        lambda data: np.frombuffer(blosc2.decompress2(data, nthreads=1), given.dtype),
    )


def stream_vbyte(given: Array) -> Coder:
    """Return integers of 32 bits by streamvbyte."""
    module = import_module("libstreamvbyte")
    return Coder(given, module.encode, lambda data: module.decode(data, given.size))


SUPPORTS: Mapping[str, Callable[[Support], Coder]] = {
    "np_save_bool": lambda s: numpy_file(s.to_numpy_mask()),
    "np_save_int32": lambda s: numpy_file(indices(s)),
    "np_save_int64": lambda s: numpy_file(s.indices),
    "bitmap_zstd1": lambda s: zstd(s.packed, 1),
    "bitmap_zlib6": lambda s: deflate(s.packed),
    "roaring": lambda s: roaring(indices(s)),
    "streamvbyte_gaps": lambda s: stream_vbyte(gaps(s)),
    "blosc2_gaps": lambda s: blosc(gaps(s), "BITSHUFFLE", 5),
    "pcodec": lambda s: pcodec(indices(s)),
}
# Of bytes, and of numbers where that is of use.
VALUES: Mapping[str, Callable[[Array], Coder]] = {
    "np_save": numpy_file,
    "zstd1": functools.partial(zstd, level=1),
    "blosc2": functools.partial(blosc, shuffle="SHUFFLE", level=1),
}


def installed(
    peers: Mapping[str, Callable[[Any], Coder]], given: object
) -> Iterator[tuple[str, Coder]]:
    """Yield the peers whose packages are there, by name."""
    for name, prepare in peers.items():
        with contextlib.suppress(ModuleNotFoundError):
            yield name, prepare(given)
