"""Updates and supports to bytes and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.base import Base, Reference, base_fingerprint, known_tensors
from sparsefl.codec.errors import CodecError, CodecReason, refused
from sparsefl.codec.plan import Item, ValueFormat, ValueMode, check_schema, plan
from sparsefl.codec.received import TAKES_BASE, as_threads, receive
from sparsefl.codec.rounding import Rounding, draws_of
from sparsefl.codec.schema import Schema, TensorSpec
from sparsefl.codec.update import (
    Dense,
    Entry,
    Modular,
    Regenerated,
    Signs,
    Sparse,
    SupportOnly,
    Update,
)
from sparsefl.support import Mask, Support

# What values must be to be encoded.
_RULES = {
    ValueMode.SIGN: "signs must be +1 or -1",
    ValueMode.FP32: "values must be finite, also as float32",
    ValueMode.BF16: "values must be finite and within bfloat16's range",
    ValueMode.INT8: "values must be finite and at most 3.4e38",
    ValueMode.INT4: "values must be finite and at most 3.4e38",
    ValueMode.TERNARY: "values must be finite and at most 3.4e38",
    ValueMode.RAW: "values must be finite",
}
_SUPPORT_NAME = "support"
_SUPPORT_DTYPE = "bool"


def encode(
    update: Update,
    schema: Schema,
    value_format: ValueFormat = "fp32",
    base: Base | None = None,
    *,
    rounding: Rounding = "nearest",
    rans: bool = True,
    threads: int = 1,
) -> bytes:
    """Write an update as one message.

    Floating tensors travel in ``value_format``, all others in their own dtype, and what is smallest
    is taken throughout: a support in the best of the format's codes, or as its changes from one
    that the receiver has, or not at all where it has that very one; signs a bit each, or coded, or
    as their differences from those that it has; values as they are, or entropy-coded without loss.
    Equal arguments give equal bytes on every machine.

    Args:
        update: What is to be sent; may leave tensors out.
        schema: What sender and receiver agreed on.
        value_format: For all tensors, but for integers those of two dimensions or
            more alone: biases and norms are few and then travel as ``"fp32"``. Or
            ``{name: format}``, ``"fp32"`` for those that it leaves out. ``"fp32"``; ``"bf16"``,
            rounded to nearest, ties to even; ``"int8"``, ``"int4"``:
            integers ``q`` of 8 or 4 bits and a ``scale`` a block of 1024 or 64 values, at most
            ``(1 + 2**-8) * max|x| / 127`` over the block (int4: ``/ 7``); what is decoded is
            ``q * scale``, 0 for 0, with ``|x - q * scale| <= scale / 2`` or below ``2**-125``;
            ``"ternary"``: ``q`` of -1, 0 and 1, and a scale a block of 1024 values: the mean of the
            magnitudes that are nearer to it than to 0, so that the squared error is small;
            ``"raw"``: the tensor's own dtype.
        base: What the receiver has too, ``{name: Support}``, or ``{name: entry}``, for example an
            update that it was sent. Where the support of an entry equals the tensor's, it is not
            sent; ``Signs`` are then coded against the signs of a ``Sparse`` or ``Signs`` there (of
            0: +1). Both sides must hold the same, so give what was decoded, not what was encoded
            with loss: the receiver refuses another base. Where the receiver can compute what a
            support loses (the smallest magnitudes of a model that it has), give the base without
            those positions on both sides: only what is added then travels.
        rounding: ``"nearest"``, or ``Stochastic(seed)``: values of ``"bf16"``, ``"int8"``,
            ``"int4"`` and ``"ternary"`` then go to one of their two neighbours at random, unbiased,
            and differ by less than a whole step instead of half of one.
        rans: Whether range asymmetric numeral systems may be used, which some decoders leave out:
            supports are then at most 4.5 % above their information bound, values not entropy-coded.
        threads: On how many threads chunks are encoded; the message does not depend on it.

    Returns:
        The message.

    Raises:
        TypeError: if an argument or a tensor's dtype is of the wrong type.
        ValueError: if a tensor does not fit the schema, a format is unknown, a value is one that
            its format cannot hold: not finite, past the format's range, a sign of 0; or ``threads``
            is below 1.

    Source: Rice 1979, "Some practical universal noiseless coding techniques" (gaps); Duda 2013,
    "Asymmetric numeral systems", arXiv 1311.2540 (``rans``); FORMAT.md beside this file.
    """
    threads = as_threads(threads)
    items = plan(update, schema, value_format, base)
    sources = [(*item.source, draws_of(rounding, item.name, update.round)) for item in items]
    try:
        writer = _codec.Writer(schema.table, sources, rans, threads)
    except _codec.RefusedError as error:
        item = items[error.args[1]]
        rule = "bools must be 0 or 1" if item.spec.dtype == "bool" else _RULES[item.value_mode]
        raise ValueError(f"tensor {item.name!r}: {rule}") from None
    return writer.finish(update.round, base_fingerprint(_references(items, writer.modes)))


def decode(
    data: bytes | bytearray | memoryview,
    schema: Schema,
    base: Base | None = None,
    *,
    threads: int = 1,
) -> Update:
    """Read a message, every byte of it checked before anything is handed out.

    Nothing is allocated beyond what ``schema`` and the message's own length allow. Arrays are fresh
    and writable: values float32 (``"raw"``: in the tensor's dtype), signs int8, dense ones in the
    tensor's shape.

    Args:
        data: The message.
        schema: What sender and receiver agreed on.
        base: What the sender coded against, as of ``encode``; may hold more than that.
        threads: On how many threads chunks are decoded; the result does not depend on it.

    Returns:
        The update, tensors in the schema's order.

    Raises:
        CodecError: if the message is damaged, hostile, or for another schema or base; ``reason``
            says why. Nothing else is raised whatever the bytes are.
        TypeError: if an argument is of the wrong type.
        ValueError: if a support of ``base`` does not have its tensor's shape, or ``threads`` is
            below 1.
    """
    check_schema(schema)
    threads = as_threads(threads)
    received = receive(data, schema, known_tensors(base, schema))
    try:
        contents = received.reader.read(received.base_arrays, threads)
    except _codec.RefusedError as error:
        raise refused(error) from None
    names = list(schema)
    entries: dict[str, Entry] = {}
    for (ordinal, _, mode, scale, number), reference, (bitmap, values) in zip(
        received.descriptors, received.references, contents, strict=True
    ):
        spec = schema[names[ordinal]]
        support = None if reference is None else reference.known.support
        if bitmap is not None:
            support = Support._trusted(spec.shape, bitmap, number)
        entries[names[ordinal]] = _entry(spec, support, ValueMode(mode), values, scale, number)
    return Update(entries, round=received.reader.round)


def encode_support(
    mask: Mask | Support, base: Mask | Support | None = None, *, rans: bool = True
) -> bytes:
    """Write which positions of one tensor are kept as one message.

    Args:
        mask: Bool array or tensor, or a Support.
        base: Which positions the receiver keeps already, of the same shape: changes are sent where
            they are smaller.
        rans: As of ``encode``.

    Returns:
        The message.

    Raises:
        TypeError: if ``mask`` or ``base`` is none of these.
        ValueError: if ``base`` is of another shape.
    """
    support = _support("mask", mask)
    update = Update({_SUPPORT_NAME: SupportOnly(support)})
    return encode(update, _support_schema(support.shape), base=_support_base(base), rans=rans)


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
        CodecError: if the message is damaged, hostile, of another shape, or for another base.
        TypeError: if an argument is of the wrong type.
        ValueError: if ``base`` is of another shape.
    """
    entry = decode(data, _support_schema(shape), _support_base(base)).get(_SUPPORT_NAME)
    if not isinstance(entry, SupportOnly):
        raise CodecError(CodecReason.CONTENT)
    return entry.support


def _support(name: str, mask: Mask | Support) -> Support:
    if isinstance(mask, Support):
        return mask
    try:
        return Support.from_mask(mask)
    except TypeError as error:
        raise TypeError(str(error).replace("mask", name, 1)) from None


def _support_base(base: Mask | Support | None) -> Base | None:
    return None if base is None else {_SUPPORT_NAME: _support("base", base)}


def _support_schema(shape: Iterable[int]) -> Schema:
    return Schema({_SUPPORT_NAME: (shape, _SUPPORT_DTYPE)})


def _references(items: list[Item], modes: list[tuple[int, int]]) -> Iterator[Reference]:
    """Yields what the tensors of a message, written in these modes, take from the base."""
    for item, (support_mode, value_mode) in zip(items, modes, strict=True):
        if item.known is not None and support_mode in TAKES_BASE:
            yield Reference(item.ordinal, item.known, value_mode == ValueMode.FLIPS)


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
    if mode is ValueMode.MODULAR:
        return Modular(values if support else values.reshape(spec.shape), scale, support)
    if support is None:
        return Dense(values.reshape(spec.shape))
    if mode in (ValueMode.SIGN, ValueMode.FLIPS):
        return Signs(support, values.view(np.int8), scale)
    return Sparse(support, values)
