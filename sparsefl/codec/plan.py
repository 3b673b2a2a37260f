"""Which mode each tensor of an update takes, and the arrays that the compiled codec writes."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from sparsefl.codec.base import Base, Known, known_tensors
from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.update import (
    Dense,
    Entry,
    Modular,
    Regenerated,
    Signs,
    Sparse,
    Update,
)
from sparsefl.support import Support

FormatName: TypeAlias = Literal["fp32", "bf16", "int8", "int4", "ternary", "raw"]
ValueFormat: TypeAlias = FormatName | Mapping[str, FormatName]

_FORMATS = get_args(FormatName)
_COARSE = ("int8", "int4", "ternary")


class SupportMode(enum.IntEnum):
    """How the message says which positions are kept; numbers of FORMAT.md."""

    DENSE = 0
    SHARED = 1
    SENT = 2
    CHANGES = 3
    SEED = 4


class ValueMode(enum.IntEnum):
    """How values stand in the message; numbers of FORMAT.md."""

    NONE = 0
    SIGN = 1
    FP32 = 2
    BF16 = 3
    INT8 = 4
    INT4 = 5
    TERNARY = 6
    RAW = 7
    FLIPS = 8
    MODULAR = 9


_FLOAT_MODES = {
    "fp32": ValueMode.FP32,
    "bf16": ValueMode.BF16,
    "int8": ValueMode.INT8,
    "int4": ValueMode.INT4,
    "ternary": ValueMode.TERNARY,
}


@dataclasses.dataclass(frozen=True)
class Item:
    """One tensor of a message.

    Attributes:
        name: Of the tensor.
        ordinal: Its position in the schema.
        spec: Its shape and dtype.
        support_mode: How its support travels; ``SENT`` stands for ``CHANGES`` too where the base
            has another support, whichever the compiled codec finds to be smaller.
        value_mode: How its values travel; ``SIGN`` stands for ``FLIPS`` too.
        support: Its support, or None where there is none.
        values: Its values in the memory format of ``value_mode``, ``[count]``, or None.
        scale: Its scale; 0 where ``value_mode`` has none.
        seed: Its seed; 0 where it has none.
        known: What the base has of it.
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
    known: Known | None = None

    @property
    def count(self) -> int:
        """Number of kept positions; 0 where a seed stands for the tensor."""
        if self.support is not None:
            return self.support.nnz
        return 0 if self.is_seed else self.spec.numel

    @property
    def sends_support(self) -> bool:
        """Whether the support is in the message."""
        return self.support_mode is SupportMode.SENT

    @property
    def is_seed(self) -> bool:
        """Whether a seed stands for the tensor."""
        return self.support_mode is SupportMode.SEED

    @property
    def base_signs(self) -> npt.NDArray[np.int8] | None:
        """The signs that the receiver has at its positions, ``[count]``, where it sends signs."""
        shared = self.value_mode is ValueMode.SIGN and self.support_mode is SupportMode.SHARED
        return self.known.signs if shared and self.known is not None else None

    @property
    def base_support(self) -> Support | None:
        """Another support that the receiver has of the tensor, where its support is sent."""
        return self.known.support if self.sends_support and self.known is not None else None

    @property
    def source(self) -> tuple[object, ...]:
        """What ``_codec.Writer`` takes for one tensor, but for its rounding."""
        number = self.seed if self.is_seed else self.count
        packed = None if self.support is None else self.support.packed
        modes = (int(self.support_mode), int(self.value_mode))
        base = None if self.base_support is None else self.base_support.packed
        arrays = (packed, self.values, base, self.base_signs)
        return (self.ordinal, *modes, self.scale, number, *arrays)


def plan(
    update: Update, schema: Schema, value_format: ValueFormat, base: Base | None
) -> list[Item]:
    """Choose modes for every tensor of an update and bring its values into their memory format.

    Args:
        update: What is to be sent.
        schema: What sender and receiver agreed on.
        value_format: One format for all floating tensors, or one a tensor.
        base: What the receiver has.

    Returns:
        The tensors of the message, in the schema's order.

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
    known = known_tensors(base, schema)
    names = sorted(update, key=schema.ordinal)
    return [_item(name, update[name], schema, formats, known.get(name)) for name in names]


def check_schema(schema: object) -> None:
    """Raises TypeError where ``schema`` is none."""
    if not isinstance(schema, Schema):
        raise TypeError(f"schema must be a Schema, got {type(schema).__name__}")


def _formats(value_format: ValueFormat, schema: Schema) -> Mapping[str, str]:
    """Returns the format of every tensor; those that a mapping leaves out travel as fp32.

    One name for all leaves vectors out where it stands for few bits: norms and biases are small,
    and what they scale is not.
    """
    if isinstance(value_format, str):
        _check_format(value_format)
        coarse = value_format in _COARSE
        return {
            n: "fp32" if coarse and len(s.shape) < 2 else value_format for n, s in schema.items()
        }
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
    if value_format not in _FORMATS:
        raise ValueError(f"value_format must be one of {_FORMATS}, got {value_format!r}")


def _item(
    name: str, entry: Entry, schema: Schema, formats: Mapping[str, str], known: Known | None
) -> Item:
    spec, ordinal = schema[name], schema.ordinal(name)
    if isinstance(entry, Regenerated | Signs | Modular) and not spec.is_floating:
        kind = type(entry).__name__
        raise TypeError(f"tensor {name!r} is {spec.dtype}: {kind} is for floating tensors")
    if isinstance(entry, Regenerated):
        return Item(name, ordinal, spec, SupportMode.SEED, ValueMode.NONE, seed=entry.seed)
    mode, scale = ValueMode.NONE, 0.0
    values: npt.NDArray[Any] | None = None
    if isinstance(entry, Dense):
        _check_shape("Dense values are", entry.values.shape, name, spec)
        mode, values = _values(entry.values, name, spec, formats[name])
        return Item(name, ordinal, spec, SupportMode.DENSE, mode, values=values)
    if isinstance(entry, Modular) and entry.support is None:
        _check_shape("words are", entry.words.shape, name, spec)
        words = np.ascontiguousarray(entry.words.reshape(-1))
        return Item(
            name, ordinal, spec, SupportMode.DENSE, ValueMode.MODULAR, None, words, entry.step
        )
    support = entry.support
    assert support is not None
    _check_shape("support covers", support.shape, name, spec)
    is_shared = known is not None and known.support == support
    how = SupportMode.SHARED if is_shared else SupportMode.SENT
    if isinstance(entry, Signs):
        mode, values, scale = ValueMode.SIGN, np.ascontiguousarray(entry.signs), entry.scale
    elif isinstance(entry, Modular):
        if not is_shared:
            raise ValueError(
                f"tensor {name!r}: modular values need a support that the base has: give it as "
                f"base={{{name!r}: support}}"
            )
        mode, values, scale = ValueMode.MODULAR, np.ascontiguousarray(entry.words), entry.step
    elif isinstance(entry, Sparse):
        mode, values = _values(entry.values, name, spec, formats[name])
    return Item(name, ordinal, spec, how, mode, support, values, scale, known=known)


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
    if value_format == "raw":
        return {"float32": ValueMode.FP32, "bfloat16": ValueMode.BF16}.get(
            spec.dtype, ValueMode.RAW
        )
    return _FLOAT_MODES[value_format]
