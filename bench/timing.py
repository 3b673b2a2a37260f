"""A training step's times, cut into forward and backward, of several providers in turns."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping

import numpy as np

from sparsefl import timing
from sparsefl.timing import Effort, Key, Samples

from .problem import Step
from .sweeps import MODES

FULL = Effort()
QUICK = Effort(warmup=2, timed=5)

# What a point of a table may take, and how it is spent: 90 points of linear layers, and a dense
# step of 4096 features at batch 256 takes 0.2 s.
POINT_S = 1.2
LEAST_TIMED, MOST_TIMED, MOST_WARMUP = 5, 40, 5
# Peers that take longer sit out four rounds of five: im2col takes 3 s at density 0.5.
SLOW_S = 0.6


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


def effort_for(steps: Mapping[Key, Step]) -> Effort:
    """Return how often to run steps for about ``POINT_S``: few times where they are slow."""
    each_s = [usual_s(step) for step in steps.values()]
    round_s = sum(2 * s if s < Effort.short_s else s for s in each_s if s <= SLOW_S)
    rounds = int(POINT_S / max(round_s, 1e-6))
    timed = max(LEAST_TIMED, min(rounds * 4 // 5, MOST_TIMED))
    warmup = max(1, min(rounds - timed, MOST_WARMUP))
    return Effort(warmup, timed, probes=1, slow_s=SLOW_S)


def usual_s(step: Step) -> float:
    """Return about how long a step takes, seconds, from two runs, or from one where it is slow."""
    first_s = run(step)[-1]
    return first_s if first_s > SLOW_S else min(first_s, run(step)[-1])


def interleave(steps: Mapping[Key, Step], effort: Effort) -> dict[Key, Timing]:
    """Time the steps in turns, as :func:`sparsefl.timing.interleave` does."""
    runs = {name: functools.partial(run, step) for name, step in steps.items()}
    return {
        name: Timing(dict(zip(MODES, 1e6 * seconds, strict=True)))
        for name, seconds in timing.interleave(runs, effort).items()
    }


def run(step: Step) -> tuple[float, float, float]:
    """Run a step once and return the seconds of its forward, its backward and both."""
    step.reset()
    begin = time.perf_counter_ns()
    out = step.forward()
    between = time.perf_counter_ns()
    step.backward(out)
    end = time.perf_counter_ns()
    return (between - begin) / 1e9, (end - between) / 1e9, (end - begin) / 1e9


def paired_ratio(baseline: Timing, ours: Timing, mode: str) -> float:
    """Compute the median over the rounds of ``baseline / ours``, above 1 where ours is faster."""
    return timing.paired_ratio(baseline.samples[mode], ours.samples[mode])
