"""Seconds of two kinds of step, taken in turns in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# What a reviewer accepts as a measurement (architecture.md, "Claimed beside measured").
WARMUP_STEPS = 20
TIMED_STEPS = 50


@dataclass(frozen=True)
class StepTime:
    """Median and quartiles of a step, in seconds."""

    median_s: float
    lower_quartile_s: float
    upper_quartile_s: float

    @classmethod
    def of(cls, seconds: list[float]) -> "StepTime":
        """Summarise at least two measurements."""
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, lower, upper)


def time_interleaved(
    first: Callable[[], object],
    second: Callable[[], object],
    warmup: int = WARMUP_STEPS,
    steps: int = TIMED_STEPS,
) -> tuple[StepTime, StepTime]:
    """Time two functions in turns, so that what disturbs the machine disturbs both.

    A client makes one step of its own kind after the other, so each timed call follows an untimed
    one of its kind, which brings its weights and code back into the caches.

    Args:
        first: One step.
        second: One step of what it is compared with.
        warmup: Untimed turns.
        steps: Timed calls of each, at least 2.

    Raises:
        ValueError: if ``warmup`` or ``steps`` is too small.
    """
    if warmup < 0 or steps < 2:
        raise ValueError(f"need warmup >= 0 and steps >= 2, got {warmup} and {steps}")
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(warmup + steps):
        for function, record in zip((first, second), seconds, strict=True):
            function()
            started = time.perf_counter()
            function()
            if turn >= warmup:
                record.append(time.perf_counter() - started)
    return StepTime.of(seconds[0]), StepTime.of(seconds[1])
