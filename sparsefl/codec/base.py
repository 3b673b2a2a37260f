"""What sender and receiver share: supports that are not sent again, signs to code against."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl.codec.schema import Schema
from sparsefl.codec.update import Dense, Entry, Modular, Regenerated, Signs, Sparse
from sparsefl.support import Support

Base: TypeAlias = Mapping[str, Support | Entry]

_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Known:
    """What both sides hold of one tensor.

    Attributes:
        support: Which positions are kept.
        numbers: Real numbers at them, ``[nnz]``, of which the signs count; None where only the
            support is known.
    """

    support: Support
    numbers: npt.NDArray[np.generic] | None = None

    @functools.cached_property
    def signs(self) -> npt.NDArray[np.int8] | None:
        """-1 where the number is below 0, else +1: ``[nnz]``, int8; None where there is none."""
        if self.numbers is None:
            return None
        negative: npt.NDArray[np.bool_] = np.less(self.numbers, 0)
        return np.where(negative, np.int8(-1), np.int8(1))

    @functools.cached_property
    def sign_digest(self) -> bytes:
        """Fingerprint of the signs that FORMAT.md defines, 16 bytes; of no signs where None."""
        signs = np.empty(0, np.int8) if self.signs is None else self.signs
        state = hashlib.blake2b(struct.pack("<Q", signs.size), digest_size=_DIGEST_BYTES)
        state.update(np.packbits(signs < 0, bitorder="little").data)
        return state.digest()


@dataclasses.dataclass(frozen=True)
class Reference:
    """One tensor of a message that refers to the base.

    Attributes:
        ordinal: Of the tensor.
        known: What the base has of it.
        takes_signs: Whether its values are coded against the base's signs.
    """

    ordinal: int
    known: Known
    takes_signs: bool

    @property
    def encoded(self) -> bytes:
        """What of the reference goes into the base's fingerprint."""
        signs = self.known.sign_digest if self.takes_signs else b""
        return struct.pack("<I", self.ordinal) + self.known.support.digest + signs


def known_tensors(base: Base | None, schema: Schema) -> dict[str, Known]:
    """Return what a base has for tensors of the schema.

    Args:
        base: ``{name: Support}``, or an update as it was decoded: its ``Sparse`` and ``Signs`` give
            support and signs, its ``SupportOnly`` a support, its others nothing.
        schema: What sender and receiver agreed on.

    Returns:
        What is known, by name.

    Raises:
        TypeError: if ``base`` is no mapping, or an entry is neither Support nor entry of an update.
        ValueError: if a support's shape is not its tensor's.
    """
    if base is None:
        return {}
    if not isinstance(base, Mapping):
        raise TypeError(f"base must map tensor names to supports, got {type(base).__name__}")
    known: dict[str, Known] = {}
    for name, entry in base.items():
        is_dense = isinstance(entry, Modular) and entry.support is None
        if is_dense or isinstance(entry, Dense | Regenerated) or name not in schema:
            continue
        support = entry if isinstance(entry, Support) else getattr(entry, "support", None)
        if not isinstance(support, Support):
            raise TypeError(f"base[{name!r}] must be a Support, got {type(entry).__name__}")
        if support.shape != schema[name].shape:
            raise ValueError(
                f"tensor {name!r}: base[{name!r}] covers {support.shape}, "
                f"the schema has {schema[name].shape}"
            )
        known[name] = Known(support, _numbers(entry))
    return known


def base_fingerprint(references: Iterable[Reference]) -> int:
    """Return the fingerprint of what a message takes from the base; 0 for nothing.

    FORMAT.md defines it.

    Args:
        references: In the order of the message's tensors.
    """
    encoded = b"".join(reference.encoded for reference in references)
    if not encoded:
        return 0
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _numbers(entry: Support | Entry) -> npt.NDArray[np.generic] | None:
    if isinstance(entry, Signs):
        return np.asarray(entry.signs)
    return np.asarray(entry.values) if isinstance(entry, Sparse) else None
