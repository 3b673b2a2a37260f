"""Sums and means of messages, added up as they come in, without making updates of them."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from sparsefl import _codec
from sparsefl.codec.base import Base, known_tensors
from sparsefl.codec.errors import CodecError, CodecReason, refused
from sparsefl.codec.plan import SupportMode, ValueMode, check_schema
from sparsefl.codec.received import Received, as_threads, receive
from sparsefl.codec.scalars import as_number
from sparsefl.codec.schema import Schema
from sparsefl.codec.targets import Floating, check_apart, checked_supports, memory_of, zeros
from sparsefl.support import Support

SumDtype: TypeAlias = Literal["float32", "float64"]

_SIGNS = (ValueMode.SIGN, ValueMode.FLIPS)
# Modular words are added by secure aggregation, not here.
_NOT_ADDED = (ValueMode.NONE, ValueMode.MODULAR)
# Tensors of these are summed in the accumulator's dtype, the others in float64.
_NARROW = ("float32", "float16", "bfloat16")
_MAX_COUNT = 2**31 - 1
# Elements that are scaled at a time where a mean is added to a model: they stay in a cache.
_BLOCK = 1 << 15


@dataclasses.dataclass
class _Sum:
    """What has been added of one tensor.

    Attributes:
        values: ``sum_k w_k x_k``, one a position, or one a kept position.
        weights: ``sum_k w_k`` of the messages that had a value there, as many; or None.
        total: ``sum_k w_k`` of the messages that had the tensor.
    """

    values: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None
    total: float = 0.0


class Accumulator:
    """The weighted sum ``sum_k w_k x_k`` of updates, from their messages.

    Each message is checked and decoded whole before anything is added: one that is refused leaves
    every bit as it was. Beside the sums, 4 bytes a position (8 in float64), it takes the memory of
    one message and at most 16 MB more, whatever the model's size. A position that a message does
    not keep counts as 0, so the cost grows with the bytes received.

    ``add`` may be called from several threads: messages follow each other. Sums are rounded once a
    value, in the order of the calls, and do not depend on ``threads`` nor on the instruction set.
    They do not depend on the order either where they are exact:

    - counts of votes, always;
    - float64 sums of ``Signs`` that share one scale, with integer weights of at most ``2**29`` in
      total; float32 ones where that scale is a power of two and the total at most ``2**24``;
    - all others whose partial sums have a multiple of one power of two each, fewer than ``2**53``
      (float32: ``2**24``) of it.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        dtype: SumDtype = "float32",
        base: Base | None = None,
        supports: Mapping[str, Support] | None = None,
        into: Mapping[str, Floating] | None = None,
        votes: bool = False,
        per_position: bool = False,
        left_out: Collection[str] = (),
        required: Collection[str] = (),
        threads: int = 1,
    ) -> None:
        """Begins with nothing added.

        Args:
            schema: What senders and receiver agreed on.
            dtype: Of the sums, ``"float32"`` or ``"float64"``; tensors in float64, integers and
                bools are always summed in float64.
            base: What messages were coded against, as of ``decode``; ``supports`` where it is None.
            supports: Tensors whose support every message shares with the base: their sums are
                ``[nnz]``, one a kept position, in the order of their values.
            into: Where to sum, instead of zeros: arrays or CPU tensors, float32 or float64,
                contiguous, of the tensors' shapes (``[nnz]`` in ``supports``), no two in one memory
                (of tied weights give one). Tensors that it leaves out are checked, and not added.
            votes: Whether to count ``Signs`` as votes, ``sum_k w_k sign_k`` in int32 whatever their
                scales are. Weights are then integers.
            per_position: Whether to keep ``sum_k w_k`` of the messages that keep a position, for
                each: ``mean`` then divides by that.
            left_out: Tensors that are checked, and not added.
            required: Tensors that every message must have.
            threads: On how many threads chunks are decoded and added.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: if a name or shape is not the schema's, or an argument out of range.
        """
        check_schema(schema)
        if dtype not in get_args(SumDtype):
            raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")
        self._schema = schema
        self._names = list(schema)
        self._dtype = np.dtype(dtype)
        self._supports = checked_supports(supports, schema)
        self._known = known_tensors(self._supports if base is None else base, schema)
        self._votes, self._per_position = votes, per_position
        self._left_out, self._required = frozenset(left_out), frozenset(required)
        self._into = None if into is None else self._checked_targets(into)
        if votes and into is not None:
            raise ValueError("votes are counted in memory of their own: give votes or into")
        self._threads = as_threads(threads)
        self._native = _codec.Accumulation()
        self._lock = threading.Lock()
        self._clear({})

    def add(
        self,
        message: bytes | bytearray | memoryview,
        weight: float = 1.0,
        base: Base | None = None,
    ) -> None:
        """Add ``weight`` times an update.

        Args:
            message: What ``encode`` has written.
            weight: Its weight, finite; for ``votes`` an integer.
            base: What it was coded against, where that is not the accumulator's.

        Raises:
            CodecError: if the message is refused; ``CONTENT`` where a tensor has no values, or
                modular ones, or another support than ``supports`` says, or where signs are votes
                and it comes both as signs and as values. Nothing was added.
            TypeError: if an argument is of the wrong type.
            ValueError: if the weight is not finite, votes exceed 32 bits, or the message lacks a
                tensor that is required. Nothing was added.
        """
        weight = self._checked_weight(weight)
        known = self._known if base is None else known_tensors(base, self._schema)
        received = receive(message, self._schema, known, "message")
        came = {self._names[ordinal] for ordinal, *_ in received.descriptors}
        if missing := sorted(self._required - came):
            raise ValueError(f"the update lacks {', '.join(missing)}")
        with self._lock:
            # Under the lock: two votes that each fit may not fit together.
            if self._votes and self._total_votes + abs(weight) > _MAX_COUNT:
                raise ValueError(f"a weight of {weight} lets the count of votes exceed 32 bits")
            self._add(received, weight)

    @property
    def messages(self) -> int:
        """Number of messages added."""
        return self._messages

    @property
    def total_weight(self) -> float:
        """``sum_k w_k`` of all messages."""
        return self._total_weight

    @property
    def weights(self) -> dict[str, float]:
        """``sum_k w_k`` of the messages that had a tensor, of each that came and was added."""
        return {name: one.total for name, one in self._sums.items()}

    def sum(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``sum_k w_k x_k`` of each tensor that came: the memory itself, not a copy.

        Returns:
            ``{name: sums}`` in the tensor's shape, ``[nnz]`` for those of ``supports``.
        """
        return {name: self._sums[name].values for name in self._names if name in self._sums}

    def mean(self) -> dict[str, npt.NDArray[Any]]:
        """Return ``sum_k w_k x_k / sum_k w_k`` of each tensor that came.

        The weights are those of the messages that had the tensor; with ``per_position`` those that
        kept the position, and a position that none kept is 0. Of votes: the mean sign.

        Returns:
            ``{name: means}``, fresh arrays, shaped as the sums.

        Raises:
            ValueError: if the weights of a tensor add up to 0, or ``into`` was given.
        """
        return {
            name: self._scaled(name, slice(None)).reshape(one.shape)
            for name, one in self._checked_sums().items()
        }

    def votes(self) -> dict[str, npt.NDArray[np.int32]]:
        """Return ``sum_k w_k sign_k`` of each tensor that came as signs: the memory itself.

        Its sign is the majority's, 0 is a tie.

        Returns:
            ``{name: counts}``, int32, shaped as the sums; empty without ``votes``.
        """
        return {name: one for name, one in self.sum().items() if one.dtype == np.int32}

    def add_into(self, tensors: Mapping[str, Floating], rate: float = 1.0) -> None:
        """Add ``rate`` times the mean to a model, in place and without a dense temporary.

        Args:
            tensors: Arrays or CPU tensors as of ``into``, of each tensor that came; of tied weights
                name all but one in ``left_out``.
            rate: The server's learning rate.

        Raises:
            TypeError: if one is no float32 or float64 array or tensor.
            ValueError: if one is missing, of another shape, not contiguous or in the memory of
                another, or there is no mean.
        """
        sums = self._checked_sums()
        missing = [name for name in sums if name not in tensors]
        if missing:
            raise ValueError(f"tensors lack {missing}, which messages had")
        targets = self._checked_targets({name: tensors[name] for name in sums})
        for name, target in targets.items():
            flat = target.reshape(-1)
            for begin in range(0, flat.size, _BLOCK):
                part = slice(begin, begin + _BLOCK)
                flat[part] += (rate * self._scaled(name, part)).astype(flat.dtype, copy=False)

    def reset(self) -> None:
        """Forget all messages: zeros again, in the same memory; of ``into`` the weights alone."""
        for one in self._sums.values():
            if self._into is None:
                one.values.fill(0)
            if one.weights is not None:
                one.weights.fill(0)
            one.total = 0.0
        self._clear(self._sums | self._spare)

    def _clear(self, spare: dict[str, _Sum]) -> None:
        self._sums: dict[str, _Sum] = {}
        # Zeros of before a reset, of the tensors that have not come since.
        self._spare = spare
        self._messages = 0
        self._total_weight = 0.0
        self._total_votes = 0.0

    def _add(self, received: Received, weight: float) -> None:
        sums = [self._sum_of(received, where) for where in range(len(received.descriptors))]
        addends: list[tuple[object, ...]] = [
            (*arrays, *_addend(one), self._names[ordinal] in self._supports)
            for one, arrays, (ordinal, *_) in zip(
                sums, received.base_arrays, received.descriptors, strict=True
            )
        ]
        try:
            self._native.add(received.reader, addends, weight, self._threads)
        except _codec.RefusedError as error:
            raise refused(error) from None
        for (ordinal, *_), one in zip(received.descriptors, sums, strict=True):
            if one is not None:
                one.total += weight
                self._sums[self._names[ordinal]] = one
        self._messages += 1
        self._total_weight += weight
        self._total_votes += abs(weight)

    def _checked_weight(self, weight: float) -> float:
        checked = as_number(weight, "weight")
        if not math.isfinite(checked):
            raise ValueError(f"weight must be finite, got {weight}")
        if self._votes and not checked.is_integer():
            raise ValueError(f"weight must be an integer where votes are counted, got {weight}")
        return checked

    def _checked_targets(self, tensors: Mapping[str, Floating]) -> dict[str, npt.NDArray[Any]]:
        """Returns the memory of tensors by name, checked against the schema."""
        targets = {name: memory_of(value, name) for name, value in tensors.items()}
        for name, target in targets.items():
            if name not in self._schema:
                raise ValueError(f"there is no tensor {name!r} in the schema")
            if target.shape != self._shape(name):
                raise ValueError(
                    f"tensor {name!r}: expected shape {self._shape(name)}, got {target.shape}"
                )
        check_apart(targets)
        return targets

    def _shape(self, name: str) -> tuple[int, ...]:
        support = self._supports.get(name)
        return self._schema[name].shape if support is None else (support.nnz,)

    def _sum_of(self, received: Received, where: int) -> _Sum | None:
        """Returns where one tensor of a message is added; None where it is not.

        Raises:
            CodecError: if it is not what this accumulator adds.
        """
        ordinal, support_mode, value_mode, *_ = received.descriptors[where]
        name, reference = self._names[ordinal], received.references[where]
        if name in self._left_out or (self._into is not None and name not in self._into):
            return None
        agreed = self._supports.get(name)
        shared = None if reference is None else reference.known.support
        fits = agreed is None or (support_mode == SupportMode.SHARED and shared == agreed)
        counts = self._votes and value_mode in _SIGNS
        one = self._sums.get(name)
        mixed = one is not None and (one.values.dtype == np.int32) != counts
        if value_mode in _NOT_ADDED or not fits or mixed:
            raise CodecError(CodecReason.CONTENT, where)
        return self._new_sum(name, counts) if one is None else one

    def _new_sum(self, name: str, counts: bool) -> _Sum:
        if self._into is not None:
            values = self._into[name]
            return _Sum(values, np.zeros_like(values) if self._per_position else None)
        narrow = self._schema[name].dtype in _NARROW
        dtype = np.dtype(np.int32) if counts else self._dtype if narrow else np.dtype(np.float64)
        spare = self._spare.get(name)
        if spare is not None and spare.values.dtype == dtype:
            return spare
        shape = self._shape(name)
        weights = zeros(shape, dtype) if self._per_position else None
        return _Sum(zeros(shape, dtype), weights)

    def _checked_sums(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the sums, all of which have a mean."""
        if self._into is not None:
            raise ValueError("sums that did not begin with zeros have no mean")
        empty = [name for name, one in self._sums.items() if one.total == 0]
        if empty and not self._per_position:
            raise ValueError(f"the weights of {empty} add up to 0")
        return self.sum()

    def _scaled(self, name: str, part: slice) -> npt.NDArray[Any]:
        """Returns a part of the mean of a tensor, flat."""
        one = self._sums[name]
        values = one.values.reshape(-1)[part]
        dtype = self._dtype if values.dtype == np.int32 else values.dtype
        if one.weights is None:
            return np.divide(values, one.total, dtype=dtype)
        weights = one.weights.reshape(-1)[part]
        out = np.zeros(values.shape, dtype)
        return np.divide(values, weights, out=out, where=weights != 0, dtype=dtype)


def feedback(
    residual: Mapping[str, Floating],
    message: bytes | bytearray | memoryview,
    schema: Schema,
    base: Base | None = None,
    *,
    supports: Mapping[str, Support] | None = None,
) -> None:
    """Take what a message says out of what was to be sent: ``residual[kept] -= decoded``, in place.

    What the message left out, by its support or by rounding, stays for the next one (error
    feedback). Nothing dense is made: the cost grows with the bytes of the message.

    Args:
        residual: What was to be sent, by name, as of ``Accumulator``'s ``into``; tensors that it
            leaves out keep no residual.
        message: What ``encode`` made of it.
        schema: What sender and receiver agreed on.
        base: As of ``encode``.
        supports: Tensors whose residual is ``[nnz]``, as of ``Accumulator``.

    Raises:
        CodecError: if the message is refused; nothing has changed.
        TypeError: if an argument is of the wrong type.
        ValueError: if a residual does not fit the schema, is not contiguous, or in the memory of
            another.

    Source: Stich et al. 2018, "Sparsified SGD with memory", arXiv 1809.07599, algorithm 1.
    """
    Accumulator(schema, base=base, supports=supports, into=residual).add(message, weight=-1.0)


def _addend(one: _Sum | None) -> tuple[object, object]:
    return (None, None) if one is None else (one.values, one.weights)
