"""What a message is made of: its header, and the modes, coders and bytes of each tensor."""

from __future__ import annotations

import dataclasses
import struct

from sparsefl import _codec
from sparsefl.codec.errors import CodecError, CodecReason, refused
from sparsefl.codec.plan import SupportMode, ValueMode, check_schema
from sparsefl.codec.received import as_bytes
from sparsefl.codec.schema import Schema

_MAGIC = b"\x89SPFL\r\n\x1a"
_HEADER = struct.Struct("<8sHHIQQQIIIIII")
_CHECKSUM_AT, _CHECKSUM_BYTES = 56, 4
_DESCRIPTOR, _CHUNK = struct.Struct("<IBBBBIfQ"), struct.Struct("<IIII")
_BIT_CODERS = ("bitmap", "rice", "rans-bytes", "rans-gaps", "rows", "tiles")
_VALUE_CODERS = ("raw", "planes", "classes")
_PROFILES = ("plain", "rans")


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a message, as it stands there: nothing of it is checked but magic and version.

    Attributes:
        version: Major and minor.
        nbytes: Length that it states.
        schema_fingerprint: Of the schema that it was written for.
        base_fingerprint: Of what it takes from the receiver's base; 0 for nothing.
        round: Round that it states.
        tensors: Number of tensors.
        chunks: Number of chunks.
        profile: ``"plain"``, ``"rans"``, or the number of one that this decoder does not know.
    """

    version: tuple[int, int]
    nbytes: int
    schema_fingerprint: int
    base_fingerprint: int
    round: int
    tensors: int
    chunks: int
    profile: str

    @classmethod
    def of(cls, data: bytes) -> Header:
        """Read the header of a message, which may be damaged behind it.

        Raises:
            CodecError: if there is no header of this format's major version.
        """
        if len(data) < _HEADER.size:
            raise CodecError(CodecReason.TRUNCATED)
        fields = _HEADER.unpack_from(data)
        magic, major, minor, _, nbytes, schema, base, round, tensors, chunks, profile, _, _ = fields
        if magic != _MAGIC:
            raise CodecError(CodecReason.MAGIC)
        if major != 1:
            raise CodecError(CodecReason.VERSION)
        name = _PROFILES[profile] if profile < len(_PROFILES) else str(profile)
        return cls((major, minor), nbytes, schema, base, round, tensors, chunks, name)


@dataclasses.dataclass(frozen=True)
class TensorSummary:
    """One tensor of a message.

    Attributes:
        name: Of the tensor.
        support_mode: ``"dense"``, ``"shared"``, ``"sent"``, ``"changes"`` or ``"seed"``.
        value_mode: ``"none"``, ``"sign"``, ``"fp32"``, …
        kept: Number of values, or of kept positions where there are no values.
        numel: Number of positions.
        chunks: Number of chunks.
        support_bytes: Of the codes of its support.
        value_bytes: Of its values.
        coders: Names of the coders of its supports and of its values, over all chunks.
    """

    name: str
    support_mode: str
    value_mode: str
    kept: int
    numel: int
    chunks: int
    support_bytes: int
    value_bytes: int
    coders: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of descriptor, directory and bodies."""
        framing = _DESCRIPTOR.size + _CHUNK.size * self.chunks
        return framing + self.support_bytes + self.value_bytes


@dataclasses.dataclass(frozen=True)
class Summary:
    """A message.

    Attributes:
        header: Its header.
        tensors: Its tensors, in the schema's order.
    """

    header: Header
    tensors: tuple[TensorSummary, ...]


@dataclasses.dataclass(frozen=True)
class TensorOutline:
    """One tensor of a message whose schema is not at hand.

    Attributes:
        ordinal: Its position in the schema, counted from 0.
        support_mode: As of :class:`TensorSummary`.
        value_mode: As of it.
        kept: As of it.
    """

    ordinal: int
    support_mode: str
    value_mode: str
    kept: int


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a message says of itself.

    Attributes:
        header: Its header.
        tensors: Its tensors, in the schema's order.
        support_bytes: Of the codes of all supports.
        value_bytes: Of all values.
    """

    header: Header
    tensors: tuple[TensorOutline, ...]
    support_bytes: int
    value_bytes: int


def outline(data: bytes) -> Outline:
    """Tell what a message says of itself; lengths, checksums and modes are checked, nothing else.

    Names, shapes and which bytes are whose take the schema: see :func:`summarise`.

    Args:
        data: The message.

    Returns:
        Header, tensors and bytes.

    Raises:
        CodecError: if it is damaged so far.
        TypeError: if ``data`` is neither bytes nor bytearray nor memoryview.
    """
    data = as_bytes(data)
    header = Header.of(data)
    if len(data) != header.nbytes:
        short = len(data) < header.nbytes
        raise CodecError(CodecReason.TRUNCATED if short else CodecReason.LENGTH)
    directory = _HEADER.size + _DESCRIPTOR.size * header.tensors
    bodies = directory + _CHUNK.size * header.chunks
    if bodies > len(data):
        raise CodecError(CodecReason.TABLES)
    behind = _CHECKSUM_AT + _CHECKSUM_BYTES
    framing = data[:_CHECKSUM_AT] + bytes(_CHECKSUM_BYTES) + data[behind:bodies]
    if _codec.crc32c(framing) != int.from_bytes(data[_CHECKSUM_AT:behind], "little"):
        raise CodecError(CodecReason.HEADER_CHECKSUM)
    described = _DESCRIPTOR.iter_unpack(data[_HEADER.size : directory])
    tensors = tuple(_outlined(where, *fields) for where, fields in enumerate(described))
    sections = list(_CHUNK.iter_unpack(data[directory:bodies]))
    _check_bodies(data, bodies, sections)
    return Outline(header, tensors, sum(s[0] for s in sections), sum(s[1] for s in sections))


def _outlined(where: int, *fields: int) -> TensorOutline:
    ordinal, support, value, *_, number = fields
    if support not in SupportMode.__members__.values():
        raise CodecError(CodecReason.SUPPORT_MODE, where)
    if value not in ValueMode.__members__.values():
        raise CodecError(CodecReason.VALUE_MODE, where)
    kept = 0 if support == SupportMode.SEED else number
    names = (SupportMode(support).name.lower(), ValueMode(value).name.lower())
    return TensorOutline(ordinal, *names, kept)


def _check_bodies(data: bytes, begin: int, sections: list[tuple[int, ...]]) -> None:
    """Raises CodecError where bodies do not cover the message, or one is not what was written."""
    if begin + sum(support + value for support, value, *_ in sections) != len(data):
        raise CodecError(CodecReason.COVERAGE)
    for support, value, _, checksum in sections:
        end = begin + support + value
        if _codec.crc32c(data[begin:end]) != checksum:
            raise CodecError(CodecReason.CHUNK_CHECKSUM)
        begin = end


def summarise(data: bytes, schema: Schema) -> Summary:
    """Tell what a message is made of; header, descriptors and directory are checked, bodies not.

    Args:
        data: The message.
        schema: What it was written for.

    Returns:
        Header and tensors.

    Raises:
        CodecError: if it is damaged so far, or for another schema.
        TypeError: if an argument is of the wrong type.
    """
    check_schema(schema)
    data = as_bytes(data)
    header = Header.of(data)
    try:
        reader = _codec.Reader(schema.table, data)
    except _codec.RefusedError as error:
        raise refused(error) from None
    names = list(schema)
    tensors = []
    for (ordinal, support, value, _, number), (chunks, bits, values, *coders) in zip(
        reader.descriptors, reader.sections, strict=True
    ):
        seed = support == SupportMode.SEED
        name = names[ordinal]
        tensors.append(
            TensorSummary(
                name,
                SupportMode(support).name.lower(),
                ValueMode(value).name.lower(),
                0 if seed else number,
                schema[name].numel,
                chunks,
                bits,
                values,
                _coders(SupportMode(support), ValueMode(value), *coders),
            )
        )
    return Summary(header, tuple(tensors))


def _coders(support: SupportMode, value: ValueMode, bits: int, values: int) -> tuple[str, ...]:
    """Returns the names of the coders whose bits are set."""
    found = _named(_BIT_CODERS, bits) if support is SupportMode.SENT else []
    if value in (ValueMode.SIGN, ValueMode.FLIPS):
        found += _named(("bits", *_BIT_CODERS), values)
    elif value is not ValueMode.NONE:
        found += _named(_VALUE_CODERS, values)
    return tuple(dict.fromkeys(found))


def _named(names: tuple[str, ...], bits: int) -> list[str]:
    return [name for i, name in enumerate(names) if bits >> i & 1]
