"""Messages as they come in: parsed, and what they take from the base looked up and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.base import Known, Reference, base_fingerprint
from sparsefl.codec.errors import CodecError, CodecReason, refused
from sparsefl.codec.plan import SupportMode, ValueMode
from sparsefl.codec.scalars import as_integer
from sparsefl.codec.schema import Schema

# (ordinal, support mode, value mode, scale, count or seed)
Descriptor: TypeAlias = tuple[int, int, int, float, int]
BaseArrays: TypeAlias = tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.int8] | None]

TAKES_BASE = (SupportMode.SHARED, SupportMode.CHANGES)


@dataclasses.dataclass(frozen=True)
class Received:
    """A message whose header, descriptors and directory are sound, its chunks not yet read.

    Attributes:
        reader: What reads them.
        descriptors: What the message says of each of its tensors.
        references: What each takes from the base, None for nothing.
    """

    reader: _codec.Reader
    descriptors: list[Descriptor]
    references: list[Reference | None]

    @property
    def base_arrays(self) -> list[BaseArrays]:
        """The bitmap and the signs of the base that the compiled codec needs of each tensor."""
        return [_arrays(reference) for reference in self.references]


def receive(
    data: object, schema: Schema, known: Mapping[str, Known], what: str = "data"
) -> Received:
    """Parse a message and compare its base with what is known.

    Args:
        data: The message: bytes, bytearray or memoryview.
        schema: What sender and receiver agreed on.
        known: What the base has, by name.
        what: Name of the argument.

    Returns:
        The message.

    Raises:
        CodecError: if it is refused.
        TypeError: if ``data`` is none of these.
    """
    try:
        reader = _codec.Reader(schema.table, as_bytes(data, what))
    except _codec.RefusedError as error:
        raise refused(error) from None
    descriptors = reader.descriptors
    by_ordinal = {schema.ordinal(name): one for name, one in known.items()}
    references = _references(descriptors, reader.base_fingerprint, by_ordinal)
    return Received(reader, descriptors, references)


def as_threads(threads: int) -> int:
    """Return a number of threads.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below 1.
    """
    count = as_integer(threads, "threads")
    if count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    return count


def as_bytes(data: object, what: str = "data") -> bytes:
    """Returns the message as bytes that nobody can change while they are read.

    Raises:
        TypeError: if it is neither bytes nor bytearray nor memoryview.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"{what} must be bytes, bytearray or memoryview, got {type(data).__name__}")


def _references(
    descriptors: list[Descriptor], fingerprint: int, known: Mapping[int, Known]
) -> list[Reference | None]:
    """Returns what each descriptor takes from the base, None for those that take nothing."""
    references: list[Reference | None] = []
    for where, (ordinal, mode, value_mode, *_) in enumerate(descriptors):
        if mode not in TAKES_BASE:
            references.append(None)
            continue
        one, takes_signs = known.get(ordinal), value_mode == ValueMode.FLIPS
        if one is None or (takes_signs and one.signs is None):
            raise CodecError(CodecReason.BASE_MISSING, where)
        references.append(Reference(ordinal, one, takes_signs))
    if base_fingerprint(reference for reference in references if reference) != fingerprint:
        raise CodecError(CodecReason.BASE_MISMATCH)
    return references


def _arrays(reference: Reference | None) -> BaseArrays:
    if reference is None:
        return None, None
    known = reference.known
    return known.support.packed, known.signs if reference.takes_signs else None
