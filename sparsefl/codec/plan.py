"""Which mode each tensor of an update takes, and the arrays that the compiled codec writes."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.update import (
    Dense,
    Entry,
    Regenerated,
    Signs,
    Sparse,
    SupportOnly,
    Update,
)
from sparsefl.support import Support

FormatName: TypeAlias = Literal["fp32", "bf16", "int8", "int4", "raw"]
ValueFormat: TypeAlias = FormatName | Mapping[str, FormatName]
Base: TypeAlias = Mapping[str, Support | Entry]

# Named by the contract; the format keeps numbers for them.
_PLANNED = frozenset({"int8", "int4"})
_SUPPORTED = tuple(name for name in get_args(FormatName) if name not in _PLANNED)


class SupportMode(enum.IntEnum):
    """How the message says which positions are kept; numbers of FORMAT.md."""

    DENSE = 0
    SHARED = 1
    BITMAP = 2
    SEED = 8


class ValueMode(enum.IntEnum):
    """How values stand in the message; numbers of FORMAT.md."""

    NONE = 0
    SIGN = 1
    FP32 = 2
    BF16 = 3
    RAW = 7


_VALUE_BITS = {ValueMode.NONE: 0, ValueMode.SIGN: 1, ValueMode.FP32: 32, ValueMode.BF16: 16}


@dataclasses.dataclass(frozen=True)
class Item:
    """One tensor of a message.

    Attributes:
        name: Of the tensor.
        ordinal: Its position in the schema.
        spec: Its shape and dtype.
        support_mode: How its support travels.
        value_mode: How its values travel.
        support: Its support, or None where there is none.
        values: Its values in the memory format of ``value_mode``, ``[count]``, or None.
        scale: Its scale; 0 where ``value_mode`` has none.
        seed: Its seed; 0 where it has none.
    """

    name: str
    ordinal: int
    spec: TensorSpec
    support_mode: SupportMode
    value_mode: ValueMode
    support: Support | None = None
    values: npt.NDArray[Any] | None = None
    scale: float = 0.0
    seed: int = 0

    @property
    def count(self) -> int:
        """Number of kept positions; 0 where a seed stands for the tensor."""
        if self.support is not None:
            return self.support.nnz
        return 0 if self.is_seed else self.spec.numel

    @property
    def sends_support(self) -> bool:
        """Whether the support is in the message."""
        return self.support_mode is SupportMode.BITMAP

    @property
    def has_scale(self) -> bool:
        """Whether a scale is in the message."""
        return self.value_mode is ValueMode.SIGN

    @property
    def is_seed(self) -> bool:
        """Whether a seed stands for the tensor."""
        return self.support_mode is SupportMode.SEED

    @property
    def value_bits(self) -> int:
        """Bits of one value in the message."""
        if self.value_mode is ValueMode.RAW:
            return 8 * np.dtype(self.spec.dtype).itemsize
        return _VALUE_BITS[self.value_mode]

    @property
    def source(self) -> tuple[object, ...]:
        """What ``_codec.encode`` takes for one tensor."""
        number = self.seed if self.is_seed else self.count
        packed = None if self.support is None else self.support.packed
        modes = (int(self.support_mode), int(self.value_mode))
        return (self.ordinal, *modes, self.scale, number, packed, self.values)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A message before it is written.

    Attributes:
        items: Its tensors, in the schema's order.
        base_fingerprint: Of the supports that the receiver must already have, 0 for none.
    """

    items: list[Item]
    base_fingerprint: int

    @property
    def sources(self) -> list[tuple[object, ...]]:
        """What ``_codec.encode`` takes."""
        return [item.source for item in self.items]


def plan(update: Update, schema: Schema, value_format: ValueFormat, base: Base | None) -> Plan:
    """Choose modes for every tensor of an update and bring its values into their memory format.

    Args:
        update: What is to be sent.
        schema: What sender and receiver agreed on.
        value_format: One format for all floating tensors, or one a tensor.
        base: The receiver's supports.

    Returns:
        The plan.

    Raises:
        TypeError: if an argument or a tensor's dtype is of the wrong type.
        ValueError: if a tensor does not fit the schema, or a format is not supported.
    """
    if not isinstance(update, Update):
        raise TypeError(f"update must be an Update, got {type(update).__name__}")
    check_schema(schema)
    formats = _formats(value_format, schema)
    unknown = [name for name in update if name not in schema]
    if unknown:
        raise ValueError(f"update has tensors that the schema does not: {unknown}")
    known = supports_of(base, schema)
    names = sorted(update, key=schema.ordinal)
    items = [_item(name, update[name], schema, formats, known.get(name)) for name in names]
    shared = [(i.ordinal, i.support) for i in items if i.support_mode is SupportMode.SHARED]
    return Plan(items, base_fingerprint((n, s) for n, s in shared if s is not None))


def check_schema(schema: object) -> None:
    """Raises TypeError where ``schema`` is none."""
    if not isinstance(schema, Schema):
        raise TypeError(f"schema must be a Schema, got {type(schema).__name__}")


def supports_of(base: Base | None, schema: Schema) -> dict[str, Support]:
    """Returns the supports that a base has for tensors of the schema.

    Raises:
        TypeError: if ``base`` is no mapping, or an entry is neither Support nor entry of an update.
        ValueError: if a support's shape is not its tensor's.
    """
    if base is None:
        return {}
    if not isinstance(base, Mapping):
        raise TypeError(f"base must map tensor names to supports, got {type(base).__name__}")
    supports: dict[str, Support] = {}
    for name, entry in base.items():
        if isinstance(entry, Dense | Regenerated) or name not in schema:
            continue
        support = entry if isinstance(entry, Support) else getattr(entry, "support", None)
        if not isinstance(support, Support):
            raise TypeError(f"base[{name!r}] must be a Support, got {type(entry).__name__}")
        _check_shape(f"base[{name!r}] covers", support.shape, name, schema[name])
        supports[name] = support
    return supports


def base_fingerprint(shared: Iterable[tuple[int, Support]]) -> int:
    """Returns the fingerprint of the supports taken from the base, by ordinal; 0 for none.

    FORMAT.md defines it.
    """
    encoded = b"".join(struct.pack("<I", ordinal) + support.digest for ordinal, support in shared)
    if not encoded:
        return 0
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _formats(value_format: ValueFormat, schema: Schema) -> Mapping[str, str]:
    """Returns the format of every tensor; those that a mapping leaves out travel as fp32."""
    if isinstance(value_format, str):
        _check_format(value_format)
        return dict.fromkeys(schema, value_format)
    if not isinstance(value_format, Mapping):
        raise TypeError(f"value_format must be a name or a mapping, got {value_format!r}")
    for name, chosen in value_format.items():
        if name not in schema:
            raise ValueError(f"value_format names {name!r}, which the schema does not have")
        _check_format(chosen)
        if chosen != "raw" and not schema[name].is_floating:
            raise ValueError(
                f"value_format of {name!r} ({schema[name].dtype}) must be 'raw', got {chosen!r}"
            )
    return {name: value_format.get(name, "fp32") for name in schema}


def _check_format(value_format: object) -> None:
    if value_format not in _SUPPORTED:
        planned = " yet" if value_format in _PLANNED else ""
        raise ValueError(
            f"value_format {value_format!r} is not supported{planned}; supported: {_SUPPORTED}"
        )


def _item(
    name: str, entry: Entry, schema: Schema, formats: Mapping[str, str], known: Support | None
) -> Item:
    spec, ordinal = schema[name], schema.ordinal(name)
    if isinstance(entry, Regenerated | Signs) and not spec.is_floating:
        kind = type(entry).__name__
        raise TypeError(f"tensor {name!r} is {spec.dtype}: {kind} is for floating tensors")
    if isinstance(entry, Regenerated):
        return Item(name, ordinal, spec, SupportMode.SEED, ValueMode.NONE, seed=entry.seed)
    if isinstance(entry, Dense):
        _check_shape("Dense values are", entry.values.shape, name, spec)
        mode, values = _values(entry.values, name, spec, formats[name])
        return Item(name, ordinal, spec, SupportMode.DENSE, mode, values=values)
    support = entry.support
    _check_shape("support covers", support.shape, name, spec)
    how = SupportMode.SHARED if support == known else SupportMode.BITMAP
    if isinstance(entry, SupportOnly):
        return Item(name, ordinal, spec, how, ValueMode.NONE, support)
    if isinstance(entry, Signs):
        signs = np.ascontiguousarray(entry.signs)
        return Item(name, ordinal, spec, how, ValueMode.SIGN, support, signs, entry.scale)
    assert isinstance(entry, Sparse)
    mode, values = _values(entry.values, name, spec, formats[name])
    return Item(name, ordinal, spec, how, mode, support, values)


def _check_shape(what: str, shape: tuple[int, ...], name: str, spec: TensorSpec) -> None:
    if shape != spec.shape:
        raise ValueError(f"tensor {name!r}: {what} {shape}, the schema has {spec.shape}")


def _values(
    values: npt.NDArray[Any], name: str, spec: TensorSpec, value_format: str
) -> tuple[ValueMode, npt.NDArray[Any]]:
    """Returns the value mode, and the values flat in its memory format."""
    mode = _value_mode(spec, value_format)
    wanted = np.dtype(spec.dtype) if mode is ValueMode.RAW else np.dtype(np.float32)
    rounds = mode is not ValueMode.RAW and values.dtype.kind == "f"
    if values.dtype != wanted and not rounds:
        raise TypeError(f"tensor {name!r}: expected values in {wanted}, got {values.dtype}")
    with np.errstate(over="ignore"):  # what overflows is refused by name when it is written
        return mode, np.ascontiguousarray(values.reshape(-1), dtype=wanted)


def _value_mode(spec: TensorSpec, value_format: str) -> ValueMode:
    """Returns the mode that keeps to the format; ``"raw"`` is what loses nothing of the dtype."""
    if not spec.is_floating:
        return ValueMode.RAW
    if value_format == "bf16" or (value_format == "raw" and spec.dtype == "bfloat16"):
        return ValueMode.BF16
    return ValueMode.RAW if value_format == "raw" and spec.dtype != "float32" else ValueMode.FP32
