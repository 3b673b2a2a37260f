"""Interleaved timing: every step takes its turn in every round, in one process.

What a machine shared with others does to one step it then does to all, so that ratios within a
round hold where single times do not.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

# What a reviewer accepts as a measurement.
WARMUP_STEPS = 20
TIMED_STEPS = 50

# Runs a step once and returns the seconds of its parts, the last of them the whole step's.
Run: TypeAlias = Callable[[], tuple[float, ...]]
# Seconds, ``[parts, timed]``; NaN in the rounds that a step sat out.
Samples: TypeAlias = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Effort:
    """How often a step is run.

    Attributes:
        warmup: Rounds before the first timed one.
        timed: Timed rounds.
        probes: Runs of each step before the first round; their shortest is its usual time.
        slow_s: A step above this time takes part in every fifth round only.
        short_s: A step below this time is run once more, untimed, before each timed run, so that
            it follows one of its own kind as in training. Else the others' weights and code, still
            in the caches, would cost it a share of its time that they do not cost a long step:
            seen, 0.1 ms for an addition of 8 numbers, 0.35 ms of a step of 1.1 ms.
    """

    warmup: int = WARMUP_STEPS
    timed: int = TIMED_STEPS
    probes: int = 3
    slow_s: float = 0.1
    short_s: float = 0.01

    SPARED: ClassVar[int] = 5

    def __post_init__(self) -> None:
        """Raises: ValueError: if ``warmup`` is below 0, or ``timed`` or ``probes`` below 1."""
        if self.warmup < 0 or self.timed < 1 or self.probes < 1:
            raise ValueError(
                f"warmup must be at least 0, timed and probes at least 1, got {self.warmup}, "
                f"{self.timed}, {self.probes}"
            )


@dataclass(frozen=True)
class StepTime:
    """Median and quartiles of a step, in seconds."""

    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float

    @classmethod
    def of(cls, seconds: npt.ArrayLike) -> StepTime:
        """Summarise measurements, ``[timed]``; NaN ones are left out."""
        lower, median, upper = np.nanquantile(np.asarray(seconds, np.float64), (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper))


def interleave(runs: Mapping[Key, Run], effort: Effort) -> dict[Key, Samples]:
    """Time the steps in turns, each round starting with another one."""
    names = list(runs)
    # The first run of a step is no measure of it: pages and threads are new to it.
    first = {name: [runs[name]() for _ in range(effort.probes)] for name in names}
    usual_s = {name: min(measured[-1] for measured in first[name]) for name in names}
    times = {name: np.full((len(first[name][0]), effort.timed), np.nan) for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-effort.warmup, effort.timed):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                if usual_s[name] > effort.slow_s and turn % effort.SPARED:
                    continue
                if usual_s[name] < effort.short_s:
                    runs[name]()
                measured = runs[name]()
                if turn >= 0:
                    times[name][:, turn] = measured
    finally:
        if collecting:
            gc.enable()
    return times


def stopwatch(step: Callable[[], object]) -> Run:
    """Return a run of a step that has one part."""

    def run() -> tuple[float]:
        started = time.perf_counter()
        step()
        return (time.perf_counter() - started,)

    return run


def paired_ratio(baseline: npt.ArrayLike, ours: npt.ArrayLike) -> float:
    """Compute the median over the rounds of ``baseline / ours``, above 1 where ours is faster."""
    return float(np.nanmedian(np.asarray(baseline) / np.asarray(ours)))


def crossover(points: Sequence[tuple[float, float]]) -> float | None:
    """Find the density from which on dense is faster, linear between the logarithms.

    Args:
        points: (density, ratio), densities ascending.

    Returns:
        The last density at which the ratio falls through 1; None where it does not.
    """
    for (low, above), (high, below) in reversed([*itertools.pairwise(points)]):
        if above >= 1.0 > below:
            share = math.log(above) / (math.log(above) - math.log(below))
            return float(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
    return None
