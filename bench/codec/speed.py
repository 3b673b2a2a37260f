"""Table ``codec_speed``: one thread, in turns with peers and with a copy of the same memory.

Messages, byte codes, and the kernels beside messages: signs, top-k, votes and means.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator

import numpy as np
import torch

from sparsefl.timing import Effort, Samples, interleave, paired_ratio, stopwatch

from ..goals import CODEC_SPEED as TABLE
from ..goals import speed_goal
from ..rows import OURS, Row, point_of
from . import kernels
from .inputs import NUMEL
from .steps import COPY, SYMBOLS, Step, byte_steps, support_steps, update_steps

SUPPORT_DENSITIES = (0.3, 0.1, 0.01, 0.001)
UPDATE_DENSITIES = (0.1, 0.01)
LARGEST_DENSITIES = (0.5, 0.1, 0.01, 0.001)
# Clients, and of the positions the share that each has signs of: torch takes seconds a call.
VOTERS = {10: 1.0, 100: 1 / 8, 1000: 1 / 32}
EFFORT = Effort(warmup=2, timed=15, probes=1)
QUICK = Effort(warmup=0, timed=2, probes=1)


@dataclasses.dataclass(frozen=True)
class Case:
    """Steps that are timed together.

    Attributes:
        op: What is coded.
        density: Share of kept positions.
        numel: Positions, or symbols.
        steps: Makes the steps.
        yardstick: The provider whose time, in the same mode or of its only one, is the measure.
        rate: What is counted a second: ``indices``, ``bytes``, ``elements`` or ``signs``.
        clients: Whose signs are added; 0 for none.
    """

    op: str
    density: float
    numel: int
    steps: Callable[[], list[Step]]
    yardstick: str
    rate: str
    clients: int = 0

    @property
    def point(self) -> Row:
        """What its rows have in common."""
        shape = {"numel": self.numel} | ({"clients": self.clients} if self.clients else {})
        return {
            **{"table": TABLE, "op": self.op, "shape": shape},
            **{"density": self.density, "threads": 1},
        }

    @property
    def counted(self) -> float:
        """How many indices, bytes, elements or signs one run is about."""
        if self.rate == "indices":
            return self.density * self.numel
        return max(1, self.clients) * self.numel


def cases(numel: int = NUMEL) -> Iterator[Case]:
    """Yield what is timed, ``numel`` positions or symbols each."""
    for density in SUPPORT_DENSITIES:
        steps = functools.partial(support_steps, numel, density)
        yield Case("support", density, numel, steps, COPY, "indices")
    for name, draw in SYMBOLS.items():
        steps = functools.partial(byte_steps, draw, numel)
        yield Case(f"bytes_{name}", 1.0, numel, steps, "zstd1", "bytes")
    for density in UPDATE_DENSITIES:
        steps = functools.partial(update_steps, numel, density)
        yield Case("update", density, numel, steps, COPY, "indices")
    yield from kernel_cases(numel)


def kernel_cases(numel: int) -> Iterator[Case]:
    """Yield the kernels beside messages."""
    pack = functools.partial(kernels.pack_steps, numel)
    yield Case("pack_signs", 1.0, numel, pack, kernels.READ, "signs")
    unpack = functools.partial(kernels.unpack_steps, numel)
    yield Case("unpack_signs", 1.0, numel, unpack, COPY, "signs")
    for density in LARGEST_DENSITIES:
        largest = functools.partial(kernels.largest_steps, numel, density)
        yield Case("top_k", density, numel, largest, "torch", "elements")
    for clients, share in VOTERS.items():
        size = round(share * numel)
        vote = functools.partial(kernels.vote_steps, size, clients)
        yield Case("majority_vote", 1.0, size, vote, "torch", "signs", clients)
        mean = functools.partial(kernels.mean_steps, size, clients)
        yield Case("weighted_mean", 1.0, size, mean, "torch", "signs", clients)


def measure(
    described: Row,
    done: Collection[tuple[object, ...]] = (),
    numel: int = NUMEL,
    effort: Effort = EFFORT,
) -> Iterator[list[Row]]:
    """Yield the rows of each case that is not among the points done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in cases(numel):
            if point_of(case.point) not in done:
                yield rows_of(case, described, effort)
    finally:
        torch.set_num_threads(threads)


def rows_of(case: Case, described: Row, effort: Effort) -> list[Row]:
    """Check the steps of a case, time them in turns and return a row each."""
    steps = case.steps()
    right = {step.key: step.correct(step.run()) for step in steps}
    timed = {step.key: stopwatch(step.run) for step in steps if right[step.key]}
    taken = {key: seconds[-1] for key, seconds in interleave(timed, effort).items()}
    rows = []
    for step in steps:
        provider, variant, mode = step.key
        own = {"provider": provider, "variant": variant, "mode": mode, "correct": right[step.key]}
        if right[step.key]:
            own |= figures(case, step, taken)
        rows.append({**case.point, **own, "timed_steps": effort.timed, **described})
    return rows


def figures(case: Case, step: Step, taken: dict[tuple[str, str, str], Samples]) -> Row:
    """Return the measured part of a row: times, the rate, and the yardstick's time over ours."""
    own = taken[step.key]
    low_s, median_s, high_s = map(float, np.nanquantile(own, (0.2, 0.5, 0.8)))
    found: Row = {
        **{"median_us": round(1e6 * median_s, 2), "p20_us": round(1e6 * low_s, 2)},
        **{"p80_us": round(1e6 * high_s, 2)},
        f"g{case.rate}_per_s": round(case.counted / median_s / 1e9, 4),
    }
    beside = (case.yardstick, "", "copy" if case.yardstick == COPY else step.mode)
    if beside in taken and beside != step.key:
        found["yardstick"] = case.yardstick
        found["faster"] = round(paired_ratio(taken[beside], own), 4)
        found["slower"] = round(paired_ratio(own, taken[beside]), 4)
    goal = speed_goal(case.op, step.variant, step.mode, case.density)
    if goal is not None and step.provider == OURS and goal.figure in found:
        found |= {"figure": goal.figure, "floor": goal.floor, "aim": goal.aim}
        found["verdict"] = goal.verdict(found[goal.figure])
        found["reached"] = found["verdict"] == "aim"
    return found
