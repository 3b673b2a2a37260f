"""Timing layers alone and whole steps, as often as the time left allows."""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from sparsefl.profiling.network import Call
from sparsefl.timing import TIMED_STEPS, WARMUP_STEPS, Effort, Run, Samples, interleave

Key = TypeVar("Key", bound=Hashable)

# Even a network of seconds a step is timed this often.
_LEAST_TIMED = 3
# A round in four warms up, until the standard effort is reached.
_WARMUP_SHARE = 0.25


@dataclass
class Budget:
    """The time that a profile may take.

    Attributes:
        seconds: All of it.
        on_progress: Told the stage and the share of the time that has passed.
    """

    seconds: float
    on_progress: Callable[[str, float], None]

    def __post_init__(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()
        self.stage = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.stage = stage
        self.tick()

    def tick(self) -> None:
        """Tell how far we are."""
        self.on_progress(self.stage, min(self.elapsed_s / self.seconds, 1.0))

    def watched(self, run: Run) -> Run:
        """Return a run that tells, after its time was taken, how far we are."""

        def watched() -> tuple[float, ...]:
            measured = run()
            self.tick()
            return measured

        return watched


def layer_run(calls: Sequence[Call], optimizer: torch.optim.Optimizer | None) -> Run:
    """Return a run of a layer alone: (forward, backward, optimizer, all).

    Args:
        calls: All of its calls in a step, of several layers where they share a weight.
        optimizer: Holds its parameters; None where it has none to train.
    """
    layers = {id(call.layer): call.layer for call in calls}.values()

    def run() -> tuple[float, float, float, float]:
        forward_s = backward_s = 0.0
        for layer in layers:
            layer.zero_grad(set_to_none=True)
        for call in calls:
            call.x.grad = None
            begin = time.perf_counter()
            out = call.layer(call.x)
            between = time.perf_counter()
            if call.grad is not None:
                torch.autograd.backward(out, call.grad)
            end = time.perf_counter()
            forward_s += between - begin
            backward_s += end - between
        begin = time.perf_counter()
        if optimizer is not None:
            optimizer.step()
        optimizer_s = time.perf_counter() - begin
        return forward_s, backward_s, optimizer_s, forward_s + backward_s + optimizer_s

    return run


def round_seconds(runs: Mapping[Key, Run]) -> float:
    """Run each once, and return about how long a round of interleaving them takes."""
    # Interleaving runs a short step twice: see Effort.
    once = [run()[-1] for run in runs.values()]
    return sum(one_s * (2 if one_s < Effort.short_s else 1) for one_s in once)


def measure(
    runs: Mapping[Key, Run], budget: Budget, seconds: float, round_s: float
) -> dict[Key, Samples]:
    """Time runs in turns for about ``seconds``: 3 to 50 times each, after at most 20 warm-ups.

    Returns:
        Seconds of each run's parts, the whole last, ``[parts, timed]``.
    """
    watched = {name: budget.watched(run) for name, run in runs.items()}
    return interleave(watched, effort_within(seconds, round_s))


def effort_within(seconds: float, round_s: float) -> Effort:
    """Return how often to run what takes ``round_s`` a round."""
    rounds = int(seconds / max(round_s, 1e-9)) - 1
    timed = max(_LEAST_TIMED, min(math.ceil(rounds * (1 - _WARMUP_SHARE)), TIMED_STEPS))
    warmup = max(0, min(rounds - timed, WARMUP_STEPS))
    return Effort(warmup, timed, probes=1, slow_s=math.inf)
