"""``sparsefl bench``: runs the cases, prints a line for each row, writes them as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sparsefl import report

from .cases import CASES, Case, Point
from .plots import draw
from .problem import Checker, Problem, Step
from .timing import FULL, MODES, QUICK, Effort, Timing, interleave, paired_ratio

Row = dict[str, Any]
FLOPS_OF_MODE = {"fwd": 1, "bwd": 2, "full": 3}
OURS = "sparsefl"
BASELINE = "torch_dense"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark's command line; return the exit status, 1 if a result was wrong."""
    args = parser().parse_args(argv)
    if args.rows is not None:
        rows = json.loads(args.rows.read_text())["rows"]
    else:
        rows = []
        print(*(f"{key}: {value}" for key, value in context().items()), sep="\n")
        for found in measure(args.op, args.threads, args.quick):
            rows += found
            print(*map(line, by_variant(found)), sep="\n", flush=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in rows)
        args.json.write_text(f'{{"rows": [\n{lines}\n]}}\n')
    if args.compare is not None:
        print(*comparison(json.loads(args.compare.read_text())["rows"], rows), sep="\n")
    if args.plot is not None:
        draw(rows, args.plot)
    return 0 if all(row["correct"] for row in rows) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(prog="sparsefl bench", description=__doc__)
    out.add_argument("--op", action="append", choices=sorted(CASES), help="this op only")
    out.add_argument("--device", choices=["cpu"], default="cpu")
    out.add_argument(
        "--threads", type=thread_counts, default=None, help="such as 1,2; default 1 and all cores"
    )
    out.add_argument("--quick", action="store_true", help="small points, few steps: a smoke test")
    out.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the rows")
    out.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw ratio over density")
    out.add_argument(
        "--compare", type=pathlib.Path, metavar="FILE", help="print ratios beside those of a file"
    )
    out.add_argument(
        "--rows", type=pathlib.Path, metavar="FILE", help="take the rows of a file, measure nothing"
    )
    return out


def thread_counts(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of positive thread counts."""
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"thread counts start at 1, got {text}")
    return counts


def measure(
    selected: Sequence[str] | None, threads: Sequence[int] | None, quick: bool
) -> Iterator[list[Row]]:
    """Run the cases and yield, point by point, a row for each provider's variant and mode."""
    effort = QUICK if quick else FULL
    before = torch.get_num_threads()
    described = context()
    try:
        for name in selected or CASES:
            for point in CASES[name].sweep:
                if quick != point.quick:
                    continue
                for count in threads or sorted({1, before}):
                    torch.set_num_threads(count)
                    yield measure_point(CASES[name], point, effort, described)
    finally:
        torch.set_num_threads(before)


def measure_point(case: Case, point: Point, effort: Effort, described: Row) -> list[Row]:
    """Check every provider, then time those that are right, and return their rows."""
    problem = case.setup(case.op, point)
    checker = Checker(problem)
    common = {
        "op": case.op,
        "shape": point.shape,
        "density": point.density,
        "floor": point.floor,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "warmup_steps": effort.warmup,
        **described,
    }
    right: dict[tuple[str, str], Step] = {}
    rows: list[Row] = []
    for provider, variant, prepare in case.variants():
        begin = time.perf_counter_ns()
        step = prepare(problem)
        setup_us = (time.perf_counter_ns() - begin) / 1e3
        if step is None:
            continue
        row = {"provider": provider, "variant": variant, "setup_us": setup_us, **common}
        if checker.correct(step, peer=provider != OURS):
            right[provider, variant] = step
            rows += [{**row, "mode": mode, "correct": True} for mode in MODES]
        else:
            rows.append({**row, "mode": "full", "correct": False})
    timings = interleave(right, effort)
    baseline = fastest([timing for key, timing in timings.items() if key[0] == BASELINE])
    for row in rows:
        if row["correct"]:
            timing = timings[row["provider"], row["variant"]]
            row.update(figures_of(problem, row, timing, baseline))
    return rows


def fastest(timings: Sequence[Timing]) -> Timing:
    """Return the timing whose full step has the least median."""
    return min(timings, key=lambda timing: timing.quantile("full", 0.5))


def figures_of(problem: Problem, row: Row, timing: Timing, baseline: Timing) -> Row:
    """Compute the measured part of a row."""
    mode = row["mode"]
    density = 1.0 if row["provider"] == BASELINE else problem.support.density
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
    backward = (out + x + weight) + (x + weight + bias)
    elements = {"fwd": forward, "bwd": backward, "full": forward + backward}[mode]
    return elements * problem.x.element_size()


def context() -> Row:
    """Describe what the rows are measured on and with."""
    now = datetime.datetime.now(datetime.timezone.utc)
    described = {k: v for k, v in report.machine().items() if k != "threads"}
    date = now.isoformat(timespec="seconds")
    return {"device": "cpu", **described, "commit": report.commit(), "date": date}


def identity(row: Row) -> tuple[object, ...]:
    """Return what a row measures, for matching it with another run's."""
    names = ("op", "provider", "variant", "mode", "density", "threads", "isa")
    return (*(row[name] for name in names), *sorted(row["shape"].items()))


def by_variant(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """Group the rows of one provider's variant: its modes by name."""
    groups: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(identity({**row, "mode": ""}), {})[row["mode"]] = row
    return list(groups.values())


def line(modes: dict[str, Row]) -> str:
    """Format the rows of one provider's variant for reading."""
    row = modes["full"]
    shape = "x".join(str(size) for size in row["shape"].values())
    head = (
        f"{row['op']:14}{shape:19}density {row['density']:<5}{row['threads']} threads  "
        f"{row['provider'] + ':' + row['variant']:26}"
    )
    if not row["correct"]:
        return f"{head} WRONG RESULT, not timed"
    times = "  ".join(f"{mode} {modes[mode]['median_us']:9.1f}" for mode in MODES)
    text = f"{head} us: {times}  {row['ratio_to_dense']:7.2f}x dense"
    floored = row["floor"] and row["provider"] == OURS
    return f"{text} (floor {row['floor']}x)" if floored else text


def comparison(old: Sequence[Row], new: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each full step of ours in both runs: ratio to dense now and then."""
    before = {identity(row): row["ratio_to_dense"] for row in old if row["correct"]}
    for modes in by_variant(new):
        row = modes["full"]
        known = before.get(identity(row))
        if row["provider"] == OURS and row["correct"] and known is not None:
            change = row["ratio_to_dense"] / known - 1
            yield f"{line(modes)}, was {known:.2f}x: {change:+.0%}"


if __name__ == "__main__":
    sys.exit(main())
