"""Update: what one message says about each tensor, as numpy arrays and supports."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from sparsefl.codec.scalars import as_integer, as_number
from sparsefl.support import Support

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "npt.NDArray[Any] | torch.Tensor"

_MAX_SEED = 2**64 - 1
_MAX_ROUND = 2**32 - 1


class _Entry:
    """Equality by content, arrays bit for bit up to the sign of zero."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = vars(self), vars(other)
        return all(_equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse(_Entry):
    """Values at the kept positions; the others are zero, or not the message's matter.

    Attributes:
        support: Which positions are kept, of the tensor's shape.
        values: Their values, ``[nnz]``, row-major; numpy (a torch tensor is converted).
    """

    support: Support
    values: Any

    def __post_init__(self) -> None:
        """Raises: TypeError, ValueError: if the values are not ``[nnz]`` numbers."""
        _check_support(self.support)
        object.__setattr__(self, "values", _kept(self.values, self.support, "values"))


@dataclasses.dataclass(frozen=True, eq=False)
class Signs(_Entry):
    """``scale * signs`` at the kept positions: one bit a kept position.

    Attributes:
        support: Which positions are kept, of the tensor's shape.
        signs: +1 or -1, ``[nnz]``, row-major, int8; numpy (a torch tensor is converted).
        scale: One finite float32 for the tensor, not negative.
    """

    support: Support
    signs: Any
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Raises: TypeError, ValueError: if signs or scale are not as the attributes say."""
        _check_support(self.support)
        signs = _kept(self.signs, self.support, "signs")
        if signs.dtype != np.int8:
            raise TypeError(f"signs must be int8, got {signs.dtype}")
        object.__setattr__(self, "signs", signs)
        with np.errstate(over="ignore"):
            scale = float(np.float32(as_number(self.scale, "scale")))
        if not math.isfinite(scale) or scale < 0:
            raise ValueError(f"scale must be finite in float32 and not negative, got {self.scale}")
        object.__setattr__(self, "scale", abs(scale))

    @classmethod
    def from_packed(cls, support: Support, packed: Values, scale: float = 1.0) -> Signs:
        """Take the signs as a bitmap: of a tensor on a device only these bytes cross to the host.

        Args:
            support: Which positions are kept, of the tensor's shape.
            packed: A bit for each kept position, set for -1, ``[ceil(nnz / 8)]`` uint8, least
                significant bit first, as of ``pack_signs`` here or ``sign_pack`` of
                ``sparsefl.ops``; numpy array, or torch tensor on any device.
            scale: As in the attributes.

        Raises:
            TypeError: if ``packed`` is not uint8.
            ValueError: if it has another length or a bit past the last is set, or ``scale`` is not
                as the attributes say.
        """
        _check_support(support)
        bitmap = Support.from_packed((support.nnz,), as_array(packed, "packed"))
        return cls(support, 1 - 2 * bitmap.to_numpy_mask().astype(np.int8), scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(_Entry):
    """All values of a tensor.

    Attributes:
        values: Of the tensor's shape; numpy (a torch tensor is converted).
    """

    values: Any

    def __post_init__(self) -> None:
        """Raises: TypeError: if ``values`` is neither an array nor a tensor."""
        object.__setattr__(self, "values", as_array(self.values, "values"))


@dataclasses.dataclass(frozen=True, eq=False)
class Modular(_Entry):
    """Values as integers modulo ``2**32``, for sums that a server takes without seeing any of them.

    A value ``v`` is the word ``rint(v / step) mod 2**32``. Words of clients may be masked: secure
    aggregation adds words that cancel out over the cohort. Their sum (``+``) stands for the sum of
    the clients' rounded values as long as that lies within ``step * [-2**31, 2**31)``. Messages of
    equal schema and supports have equal lengths, whatever the words are.

    Attributes:
        words: uint32, ``[nnz]``, row-major; of the tensor's shape where there is no support. numpy.
        step: What one stands for, the same for all clients: a positive finite float32.
        support: Which positions are kept, one that the receiver has; None for all.

    Source: Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine
    learning", CCS, sec. 4 (sums over a ring of masked inputs).
    """

    words: Any
    step: float
    support: Support | None = None

    def __post_init__(self) -> None:
        """Raises: TypeError, ValueError: if words or step are not as the attributes say."""
        if self.support is None:
            words = as_array(self.words, "words")
        else:
            _check_support(self.support)
            words = _kept(self.words, self.support, "words")
        if words.dtype != np.uint32:
            raise TypeError(f"words must be uint32, got {words.dtype}")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "step", _checked_step(self.step))

    @classmethod
    def of(cls, values: Values, step: float, support: Support | None = None) -> Modular:
        """Round values to multiples of ``step``, ties to even.

        Args:
            values: Real numbers, ``[nnz]``, or of the tensor's shape without a support.
            step: What one stands for.
            support: Which positions are kept.

        Raises:
            ValueError: if one is not finite or at least ``2**31`` steps away from 0, or ``step``
                is no positive finite float32.
        """
        array = as_array(values, "values").astype(np.float64)
        integers = np.rint(array / _checked_step(step))
        if not bool(np.all((integers >= -(2**31)) & (integers < 2**31))):
            raise ValueError(f"values must be finite and within 2**31 steps of {step}")
        return cls((integers.astype(np.int64) % 2**32).astype(np.uint32), step, support)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """What the words stand for, float64, of their shape."""
        signed: npt.NDArray[np.float64] = self.words.astype(np.int32).astype(np.float64)
        return signed * self.step

    def __add__(self, other: Modular) -> Modular:
        """Returns the sum modulo ``2**32``.

        Raises:
            ValueError: if step, support or shape differ.
        """
        if not isinstance(other, Modular):
            return NotImplemented
        mine, theirs = ((m.step, m.support, m.words.shape) for m in (self, other))
        if mine != theirs:
            raise ValueError(
                "step, support and shape of modular values must be the same to be added"
            )
        return Modular(self.words + other.words, self.step, self.support)


@dataclasses.dataclass(frozen=True, eq=False)
class Regenerated(_Entry):
    """A tensor that the receiver makes itself from a seed.

    Attributes:
        seed: Of the stream named as the tensor, within [0, 2**64).
    """

    seed: int

    def __post_init__(self) -> None:
        """Raises: TypeError, ValueError: if ``seed`` is no integer of 64 bits."""
        seed = as_integer(self.seed, "seed")
        if not 0 <= seed <= _MAX_SEED:
            raise ValueError(f"seed must be within [0, 2**64), got {seed}")
        object.__setattr__(self, "seed", seed)


@dataclasses.dataclass(frozen=True, eq=False)
class SupportOnly(_Entry):
    """A support without values: a mask to be agreed on.

    Attributes:
        support: Which positions are kept, of the tensor's shape.
    """

    support: Support

    def __post_init__(self) -> None:
        """Raises: TypeError: if ``support`` is no Support."""
        _check_support(self.support)


Entry: TypeAlias = Sparse | Signs | Dense | Modular | Regenerated | SupportOnly


class Update(Mapping[str, Entry]):
    """What a client or server sends: a mapping from tensor name to entry, and the round.

    Immutable. Tensors of the schema may be left out.
    """

    __slots__ = ("_entries", "_round")

    def __init__(self, entries: Mapping[str, Entry], round: int = 0) -> None:
        """Gathers the entries.

        Args:
            entries: ``{name: Sparse | Signs | Dense | Modular | Regenerated | SupportOnly}``.
            round: Number of the round, within [0, 2**32).

        Raises:
            TypeError: if an entry is of another type.
            ValueError: if ``round`` is out of range.
        """
        for name, entry in entries.items():
            if not isinstance(entry, _Entry):
                raise TypeError(
                    f"tensor {name!r}: expected Sparse, Signs, Dense, Modular, Regenerated or "
                    f"SupportOnly, got {type(entry).__name__}"
                )
        self._round = as_integer(round, "round")
        if not 0 <= self._round <= _MAX_ROUND:
            raise ValueError(f"round must be within [0, 2**32), got {round}")
        self._entries = dict(entries)

    @property
    def round(self) -> int:
        """Number of the round."""
        return self._round

    def __getitem__(self, name: str) -> Entry:
        """Returns what is said about a tensor."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        """Equal when round and entries are."""
        if not isinstance(other, Update):
            return NotImplemented
        return self._round == other._round and self._entries == other._entries

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The round, and the type of each entry."""
        kinds = ", ".join(f"{name}: {type(e).__name__}" for name, e in self._entries.items())
        return f"Update(round={self._round}, {{{kinds}}})"


def as_array(value: object, what: str) -> npt.NDArray[Any]:
    """Returns an array or tensor as numpy, sharing memory where it can; bfloat16 as float32.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "detach"):
        raise TypeError(f"{what} must be a numpy array or torch tensor, got {type(value).__name__}")
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return cast("npt.NDArray[Any]", tensor.numpy())


def _checked_step(step: object) -> float:
    """Returns a step as float32 has it."""
    with np.errstate(over="ignore"):
        rounded = float(np.float32(as_number(step, "step")))
    if not (math.isfinite(rounded) and rounded > 0):
        raise ValueError(f"step must be positive and finite in float32, got {step}")
    return rounded


def _check_support(support: object) -> None:
    if not isinstance(support, Support):
        raise TypeError(f"support must be a Support, got {type(support).__name__}")


def _kept(value: object, support: Support, what: str) -> npt.NDArray[Any]:
    array = as_array(value, what)
    if array.shape != (support.nnz,):
        raise ValueError(f"{what} must be [{support.nnz}] for {support}, got {array.shape}")
    return array


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and bool(np.array_equal(a, b))
    return a == b
