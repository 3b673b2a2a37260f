"""Random numbers that are the same bits on every machine: what a seed stands for.

A stream is named by a 64-bit seed and a string (in a model: the parameter's name). Its words are
those of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):

- key: the seed, low word first;
- counter: the block's number in words 0 and 1, the stream's number in words 2 and 3, low words
  first; the stream's number is the first 8 bytes of SHA-256 of the name's UTF-8, little-endian;
- order: ``stream[64 g + 16 w + b]`` is word ``w`` of block ``16 g + b``, with ``w < 4, b < 16``.

A normal is the ``(word + 1/2) / 2**32`` quantile of N(0, 1) in units of ``2**-21``, computed in
integers: the tail probability's octave picks a polynomial of degree 8 with 32-bit coefficients
(``csrc/codec/normal.h``, ``tools/make_normal_table.py``). It differs from the exact quantile by at
most 2.6e-7 over all ``2**32`` words, half a unit of the result included, lies within +-6.34, and is
odd: ``normal(~word) == -normal(word)``. One conversion to float32, which is exact, and one float32
multiplication by ``std * 2**-21`` follow.

Needs numpy and the compiled codec, never torch.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl import _codec

__all__ = ["generator", "normal", "stream", "uniform_bits"]

Float32Array: TypeAlias = npt.NDArray[np.float32]
Uint32Array: TypeAlias = npt.NDArray[np.uint32]

# Within these bounds std * 2**-21 is exact and no result is subnormal.
_MIN_STD, _MAX_STD = 2.0**-100, 2.0**100
# The bytes of more elements do not fit numpy's signed sizes.
_MAX_LENGTH = 2**60


def generator(seed: int, name: str) -> np.random.Generator:
    """Open numpy's Philox generator of a named stream, for shuffles and draws.

    Names keep streams apart: numpy pads a key of several numbers with zeros, so that the keys
    ``(seed, 1)`` and ``(seed, 1, 0)`` would be one stream.

    Args:
        seed: Seed, ``0 <= seed < 2**64``.
        name: Name of the stream, such as ``"cohort of round 3"``.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if ``seed`` is out of range.
    """
    key = np.random.SeedSequence([_seed(seed), stream(name)])
    return np.random.Generator(np.random.Philox(key))


def uniform_bits(seed: int, name: str, n: int) -> Uint32Array:
    """Return the first ``n`` words of a stream.

    Args:
        seed: Seed, ``0 <= seed < 2**64``.
        name: Name of the stream.
        n: Number of words.

    Returns:
        Words, ``[n]``, uint32.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if ``seed`` or ``n`` is out of range.
    """
    words: Uint32Array = _codec.uniform_bits(_seed(seed), stream(name), _length("n", n))
    return words


def normal(seed: int, name: str, shape: int | Sequence[int], std: float = 1.0) -> Float32Array:
    """Return ``std`` times the first normals of a stream, in row-major order.

    Args:
        seed: Seed, ``0 <= seed < 2**64``.
        name: Name of the stream.
        shape: Shape of the result.
        std: Standard deviation, rounded to float32; 0 or between ``2**-100`` and ``2**100``.

    Returns:
        Normals, ``shape``, float32.

    Raises:
        TypeError: if an argument has another type.
        ValueError: if ``seed``, ``shape`` or ``std`` is out of range.
    """
    sizes = _sizes(shape)
    values: Float32Array = _codec.normal(_seed(seed), stream(name), math.prod(sizes), _std(std))
    return values.reshape(sizes)


def stream(name: str) -> int:
    """Return the number of a named stream: the first 8 bytes of SHA-256 of the name.

    Args:
        name: Name of the stream.

    Raises:
        TypeError: if ``name`` is no str.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _seed(seed: int) -> int:
    seed = _integer("seed", seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2**64), got {seed}")
    return seed


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    sizes = tuple(_length("shape", size) for size in sizes)
    _length("shape", math.prod(sizes))
    return sizes


def _length(argument: str, length: int) -> int:
    length = _integer(argument, length)
    if not 0 <= length < _MAX_LENGTH:
        raise ValueError(f"{argument} must lie in [0, 2**60), got {length}")
    return length


def _std(std: float) -> float:
    if isinstance(std, bool) or not isinstance(std, int | float | np.floating):
        raise TypeError(f"std must be a float, got {type(std).__name__}")
    if std != 0 and not _MIN_STD <= std <= _MAX_STD:
        raise ValueError(f"std must be 0 or lie in [2**-100, 2**100], got {std}")
    return float(std)


def _integer(argument: str, value: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{argument} must be an int, got bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an int, got {type(value).__name__}") from None
