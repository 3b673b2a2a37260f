"""How an encoder rounds values to bfloat16 and to the integers of int8, int4 and ternary."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from sparsefl.codec.scalars import as_integer
from sparsefl.random import stream

_MAX_SEED = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Stochastic:
    """Round to one of the two neighbours at random, so that the mean of what arrives is the value.

    A value ``v`` between ``a`` and ``a + step`` becomes ``a + step`` for a fraction
    ``(v - a) / step`` of all words of a counter-based stream, within ``2**-32``. Which word a value
    takes depends on the seed, the round of the update, the tensor's name and the value's place in
    the tensor alone: the same bytes on every machine, with any number of threads.

    Clients of one round need seeds of their own: with one for all, their errors would be the same
    where their values are, and would not average out.

    Attributes:
        seed: Of the sender, within [0, 2**64).

    Source: Alistarh et al. 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and
    Encoding", section 3.1.
    """

    seed: int

    def __post_init__(self) -> None:
        """Raises: TypeError, ValueError: if ``seed`` is no integer of 64 bits."""
        seed = as_integer(self.seed, "seed")
        if not 0 <= seed <= _MAX_SEED:
            raise ValueError(f"seed must be within [0, 2**64), got {seed}")
        object.__setattr__(self, "seed", seed)


Rounding: TypeAlias = Literal["nearest"] | Stochastic


def draws_of(rounding: Rounding, name: str, round: int) -> tuple[int, int] | None:
    """Return the seed and the stream whose words round a tensor's values; None for ``"nearest"``.

    The stream is not that of a tensor's regenerated weights, nor of another round.

    Args:
        rounding: How to round.
        name: Name of the tensor.
        round: Of the update.

    Raises:
        TypeError: if ``rounding`` is of another type.
        ValueError: if it is another name.
    """
    if isinstance(rounding, Stochastic):
        return rounding.seed, stream(f"rounding of {name} in round {round}")
    if not isinstance(rounding, str):
        raise TypeError(f"rounding must be 'nearest' or a Stochastic, got {rounding!r}")
    if rounding != "nearest":
        raise ValueError(f"rounding must be 'nearest' or a Stochastic, got {rounding!r}")
    return None
