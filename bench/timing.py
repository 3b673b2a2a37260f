"""Interleaved timing: every provider takes its turn in every round, in one process."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .problem import Step

MODES = ("fwd", "bwd", "full")
Samples = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often a step is run.

    Attributes:
        warmup: Rounds before the first timed one.
        timed: Timed rounds.
        slow_us: A step above this time takes part in every fifth round only.
        short_us: A step below this time is run once more, untimed, before each timed run, so that
            it follows one of its own kind as in training. Else the others' weights and code, still
            in the caches, would cost it a share of its time that they do not cost a long step:
            seen, 0.1 ms for an addition of 8 numbers, 0.35 ms of a step of 1.1 ms.
    """

    warmup: int = 20
    timed: int = 50
    slow_us: float = 100_000.0
    short_us: float = 10_000.0

    SPARED = 5


FULL = Effort()
QUICK = Effort(warmup=2, timed=5)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one provider in microseconds, ``[timed]``, NaN in the rounds that it sat out."""

    samples: Mapping[str, Samples]

    def quantile(self, mode: str, q: float) -> float:
        """Compute a quantile of a mode's times, us."""
        return float(np.nanquantile(self.samples[mode], q))

    @property
    def steps(self) -> int:
        """Number of timed steps."""
        return int(np.isfinite(self.samples["full"]).sum())


def interleave(steps: Mapping[Key, Step], effort: Effort) -> dict[Key, Timing]:
    """Time the steps in turns, each round starting with another one.

    What a machine shared with others does to one step it then does to all, so that ratios within
    a round hold where single times do not.
    """
    names = list(steps)
    times = {name: np.full((len(MODES), effort.timed), np.nan) for name in names}
    # The first run of a step is no measure of it: pages and threads are new to it.
    usual_us = {name: min(run(steps[name])[-1] for _ in range(3)) for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-effort.warmup, effort.timed):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                if usual_us[name] > effort.slow_us and turn % effort.SPARED:
                    continue
                if usual_us[name] < effort.short_us:
                    run(steps[name])
                measured = run(steps[name])
                if turn >= 0:
                    times[name][:, turn] = measured
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(dict(zip(MODES, samples, strict=True))) for name, samples in times.items()}


def run(step: Step) -> tuple[float, float, float]:
    """Run a step once and return the microseconds of its forward, its backward and both."""
    step.reset()
    begin = time.perf_counter_ns()
    out = step.forward()
    between = time.perf_counter_ns()
    step.backward(out)
    end = time.perf_counter_ns()
    return (between - begin) / 1e3, (end - between) / 1e3, (end - begin) / 1e3


def paired_ratio(baseline: Timing, ours: Timing, mode: str) -> float:
    """Compute the median over the rounds of ``baseline / ours``, above 1 where ours is faster."""
    return float(np.nanmedian(baseline.samples[mode] / ours.samples[mode]))
