"""Points of the registry, measured: every provider checked, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from sparsefl.timing import Effort

from .cases import CASES, Case
from .problem import Checker, Problem, Step
from .rows import BASELINE, FLOPS_OF_MODE, Row, point_of
from .sweeps import OPS, Point
from .timing import FULL, QUICK, Timing, effort_for, interleave, paired_ratio


def measure(
    ops: Sequence[str] | None,
    tables: Collection[str],
    threads: Sequence[int] | None,
    described: Row,
    *,
    quick: bool = False,
    done: Collection[tuple[object, ...]] = (),
) -> Iterator[list[Row]]:
    """Run the cases and yield, point by point, a row for each provider's variant and mode.

    Args:
        ops: Names of ops; None for all.
        tables: Names of tables.
        threads: Thread counts; None for one and all cores, where a table has a row for both.
        described: What all rows have in common.
        quick: Run the small points, in few steps.
        done: Points to leave out.
    """
    before = torch.get_num_threads()
    try:
        for name in ops or CASES:
            for point in CASES[name].sweep:
                if quick != point.quick or point.table not in tables:
                    continue
                alone = {1} if point.table == OPS else set()
                for count in threads or sorted({*alone, before}):
                    if point_of(head(CASES[name], point, count)) not in done:
                        torch.set_num_threads(count)
                        yield measure_point(CASES[name], point, quick, described)
    finally:
        torch.set_num_threads(before)


def head(case: Case, point: Point, threads: int) -> Row:
    """Return what a row says of its point."""
    return {
        "table": point.table,
        "op": case.op,
        "shape": point.shape,
        "density": point.density,
        "floor": point.floor,
        "dtype": "float32",
        "threads": threads,
    }


def measure_point(case: Case, point: Point, quick: bool, described: Row) -> list[Row]:
    """Check every provider, then time those that are right, and return their rows."""
    problem = case.setup(case.op, point)
    checker = Checker(problem)
    common = {**head(case, point, torch.get_num_threads()), **described}
    right: dict[tuple[str, str], Step] = {}
    rows: list[Row] = []
    for provider, variant, prepare in case.variants(point.kernels):
        begin = time.perf_counter_ns()
        step = prepare(problem)
        setup_us = (time.perf_counter_ns() - begin) / 1e3
        if step is None:
            continue
        row = {"provider": provider, "variant": variant, "setup_us": round(setup_us), **common}
        if checker.correct(step, provider):
            right[provider, variant] = step
            rows += [{**row, "mode": mode, "correct": True} for mode in point.modes]
        else:
            rows.append({**row, "mode": point.modes[-1], "correct": False})
    del checker
    effort = effort_of(point, right, quick)
    timings = interleave(right, effort)
    for row in rows:
        if row["correct"]:
            row |= right[row["provider"], row["variant"]].notes()
    return with_figures(problem, rows, timings, effort)


def effort_of(point: Point, steps: Mapping[tuple[str, str], Step], quick: bool) -> Effort:
    """Return how often the providers of a point are run."""
    if quick:
        return QUICK
    return FULL if point.table == OPS else effort_for(steps)


def with_figures(
    problem: Problem, rows: list[Row], timings: Mapping[tuple[str, str], Timing], effort: Effort
) -> list[Row]:
    """Add the measured part to the rows of a point."""
    whole = next(iter(row["mode"] for row in reversed(rows)), "full")
    best = fastest_of_each(timings, whole)
    for row in rows:
        if not row["correct"]:
            continue
        timing = timings[row["provider"], row["variant"]]
        row.update(figures_of(problem, row, timing, best[BASELINE]))
        row["warmup_steps"] = effort.warmup
        if row["mode"] == whole:
            row["ratios"] = {
                provider: round(paired_ratio(peer, timing, whole), 3)
                for provider, peer in best.items()
                if provider != row["provider"]
            }
    return rows


def fastest_of_each(timings: Mapping[tuple[str, str], Timing], mode: str) -> dict[str, Timing]:
    """Return, for each provider, the timing of the variant whose mode has the least median."""

    def median(key: tuple[str, str]) -> float:
        return timings[key].quantile(mode, 0.5)

    slowest_first = sorted(timings, key=median, reverse=True)
    return {provider: timings[provider, variant] for provider, variant in slowest_first}


def figures_of(problem: Problem, row: Row, timing: Timing, baseline: Timing) -> Row:
    """Compute the measured part of a row."""
    mode = row["mode"]
    density = 1.0 if row["provider"] in (BASELINE, "torch_bf16") else problem.support.density
    flops = FLOPS_OF_MODE[mode] * problem.flops(density)
    median_us = timing.quantile(mode, 0.5)
    moved = bytes_moved(problem, density, mode)
    return {
        "median_us": round(median_us, 2),
        "p20_us": round(timing.quantile(mode, 0.2), 2),
        "p80_us": round(timing.quantile(mode, 0.8), 2),
        "timed_steps": timing.steps,
        "ratio_to_dense": round(paired_ratio(baseline, timing, mode), 3),
        "bytes_moved": moved,
        "gigabytes_per_s": round(moved / median_us / 1e3, 3),
        "gflops_per_s": round(flops / median_us / 1e3, 2),
    }


def bytes_moved(problem: Problem, density: float, mode: str) -> int:
    """Count the bytes that must cross memory once: operands read, results written.

    A weight counts at the density that the provider stores; indices are not counted.
    """
    weight = round(density * problem.weight.numel())
    x, out, bias = (t.numel() for t in (problem.x, problem.grad, problem.bias))
    forward = x + weight + bias + out
    backward = (out + x + weight) + (x + weight + bias * problem.wants_bias)
    elements = {"fwd": forward, "bwd": backward, "full": forward + backward}[mode]
    return elements * problem.x.element_size()
