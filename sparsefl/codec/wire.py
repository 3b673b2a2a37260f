"""Updates and supports to bytes and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.errors import CodecError, CodecReason
from sparsefl.codec.plan import (
    Base,
    SupportMode,
    ValueFormat,
    ValueMode,
    base_fingerprint,
    check_schema,
    plan,
    supports_of,
)
from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.update import Dense, Entry, Regenerated, Signs, Sparse, SupportOnly, Update
from sparsefl.support import Mask, Support

# (ordinal, support mode, value mode, scale, count or seed)
Descriptor: TypeAlias = tuple[int, int, int, float, int]

# What values must be to be encoded.
_RULES = {
    ValueMode.SIGN: "signs must be +1 or -1",
    ValueMode.FP32: "values must be finite, also as float32",
    ValueMode.BF16: "values must be finite and within bfloat16's range",
    ValueMode.RAW: "values must be finite",
}
_SUPPORT_NAME = "support"
_SUPPORT_DTYPE = "bool"


def encode(
    update: Update, schema: Schema, value_format: ValueFormat = "fp32", base: Base | None = None
) -> bytes:
    """Write an update as one message.

    Floating tensors travel in ``value_format``, all others in their own dtype; supports as bitmaps,
    or not at all where the receiver has them. Equal arguments give equal bytes on every machine.

    Args:
        update: What is to be sent; may leave tensors out.
        schema: What sender and receiver agreed on.
        value_format: ``"fp32"``, ``"bf16"`` (rounded to nearest, ties to even) or ``"raw"`` (the
            tensor's own dtype), for all tensors; or ``{name: format}``, ``"fp32"`` for those that
            it leaves out.
        base: Supports that the receiver has, ``{name: Support}`` or an update: where one equals the
            tensor's, the support is not sent. The receiver must decode with the same.

    Returns:
        The message.

    Raises:
        TypeError: if an argument or a tensor's dtype is of the wrong type.
        ValueError: if a tensor does not fit the schema, a format is not supported, or a value is
            one that its format cannot hold: not finite, past bfloat16's range, a sign of 0.
    """
    planned = plan(update, schema, value_format, base)
    try:
        return _codec.encode(schema.table, planned.sources, update.round, planned.base_fingerprint)
    except _codec.RefusedError as refused:
        item = planned.items[refused.args[1]]
        rule = "bools must be 0 or 1" if item.spec.dtype == "bool" else _RULES[item.value_mode]
        raise ValueError(f"tensor {item.name!r}: {rule}") from None


def nbytes(
    update: Update, schema: Schema, value_format: ValueFormat = "fp32", base: Base | None = None
) -> int:
    """Compute ``len(encode(update, schema, value_format, base))`` without writing the message.

    Args:
        update: As of ``encode``.
        schema: As of ``encode``.
        value_format: As of ``encode``.
        base: As of ``encode``.

    Returns:
        Bytes.

    Raises:
        TypeError, ValueError: as ``encode``, but for values that the format cannot hold.
    """
    return _codec.message_bytes(schema.table, plan(update, schema, value_format, base).sources)


def decode(
    data: bytes | bytearray | memoryview, schema: Schema, base: Base | None = None
) -> Update:
    """Read a message, every byte of it checked before anything is handed out.

    Nothing is allocated beyond what ``schema`` and the message's own length allow. Arrays are fresh
    and writable: values float32 (``"raw"``: in the tensor's dtype), signs int8, dense ones in the
    tensor's shape.

    Args:
        data: The message.
        schema: What sender and receiver agreed on.
        base: The supports that the sender left out, as of ``encode``; may hold more than those.

    Returns:
        The update, tensors in the schema's order.

    Raises:
        CodecError: if the message is damaged, hostile, or for another schema or base; ``reason``
            says why. Nothing else is raised whatever the bytes are.
        TypeError: if an argument is of the wrong type.
        ValueError: if a support of ``base`` does not have its tensor's shape.
    """
    check_schema(schema)
    known = list(supports_of(base, schema).items())
    bases = {schema.ordinal(name): support for name, support in known}
    try:
        reader = _codec.Reader(schema.table, _as_bytes(data))
        descriptors = reader.descriptors
        shared = _shared_supports(descriptors, reader.base_fingerprint, bases)
        contents = reader.read([None if s is None else s.packed for s in shared])
    except _codec.RefusedError as refused:
        raise _error(refused) from None
    names = list(schema)
    entries: dict[str, Entry] = {}
    for (ordinal, _, mode, scale, number), support, (bitmap, values) in zip(
        descriptors, shared, contents, strict=True
    ):
        spec = schema[names[ordinal]]
        if bitmap is not None:
            support = Support._trusted(spec.shape, bitmap, number)
        entries[names[ordinal]] = _entry(spec, support, ValueMode(mode), values, scale, number)
    return Update(entries, round=reader.round)


def encode_support(mask: Mask | Support, base: Mask | Support | None = None) -> bytes:
    """Write which positions of one tensor are kept as one message.

    Args:
        mask: Bool array or tensor, or a Support.
        base: For changes of a support that the receiver has; not supported yet.

    Returns:
        The message.

    Raises:
        TypeError: if ``mask`` is none of these.
        ValueError: if ``base`` is given.
    """
    _refuse_delta(base)
    support = mask if isinstance(mask, Support) else Support.from_mask(mask)
    return encode(Update({_SUPPORT_NAME: SupportOnly(support)}), _support_schema(support.shape))


def decode_support(
    data: bytes | bytearray | memoryview,
    shape: Iterable[int],
    base: Mask | Support | None = None,
) -> Support:
    """Read a message of ``encode_support``.

    Args:
        data: The message.
        shape: Shape of the tensor.
        base: As of ``encode_support``.

    Returns:
        The support.

    Raises:
        CodecError: if the message is damaged, hostile, or of another shape.
        TypeError: if an argument is of the wrong type.
        ValueError: if ``base`` is given.
    """
    _refuse_delta(base)
    entry = decode(data, _support_schema(shape)).get(_SUPPORT_NAME)
    if not isinstance(entry, SupportOnly):
        raise CodecError(CodecReason.CONTENT)
    return entry.support


def _support_schema(shape: Iterable[int]) -> Schema:
    return Schema({_SUPPORT_NAME: (shape, _SUPPORT_DTYPE)})


def _refuse_delta(base: object) -> None:
    if base is not None:
        raise ValueError("base must be None: changes of a support are not supported yet")


def _as_bytes(data: object) -> bytes:
    """Returns the message as bytes that nobody can change while they are read."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"data must be bytes, bytearray or memoryview, got {type(data).__name__}")


def _shared_supports(
    descriptors: list[Descriptor], fingerprint: int, bases: dict[int, Support]
) -> list[Support | None]:
    """Returns the base's support for each descriptor that refers to it, None for the others."""
    shared: dict[int, tuple[int, Support]] = {}
    for where, (ordinal, mode, *_) in enumerate(descriptors):
        if mode == SupportMode.SHARED:
            if ordinal not in bases:
                raise CodecError(CodecReason.BASE_MISSING, where)
            shared[where] = (ordinal, bases[ordinal])
    if base_fingerprint(shared.values()) != fingerprint:
        raise CodecError(CodecReason.BASE_MISMATCH)
    return [shared[i][1] if i in shared else None for i in range(len(descriptors))]


def _error(refused: _codec.RefusedError) -> CodecError:
    reason, where = refused.args
    return CodecError(CodecReason(reason), where if where >= 0 else None)


def _entry(
    spec: TensorSpec,
    support: Support | None,
    mode: ValueMode,
    values: npt.NDArray[Any] | None,
    scale: float,
    number: int,
) -> Entry:
    """Returns the entry of one decoded descriptor; ``number`` is its count, or its seed."""
    if values is None:
        return Regenerated(number) if support is None else SupportOnly(support)
    if support is None:
        return Dense(values.reshape(spec.shape))
    if mode is ValueMode.SIGN:
        return Signs(support, values.view(np.int8), scale)
    return Sparse(support, values)
