"""``sparsefl bench``: runs the cases, prints a line for each row, writes them as JSON.

The tables: ``ops`` (single layers), ``linear``, ``conv`` (layers, through autograd),
``linear_kernels``, ``conv_kernels`` (their operators called directly), ``fl`` (layers of the size
that clients train), ``sign``, ``sign_batch_1`` (exported layers), ``resnet18_step``,
``resnet18_memory``, ``frozen`` and ``resnet18_cap`` (the step without its convolutions). All of
them take 30 minutes of an idle machine of two cores; ``--resume`` with ``--seconds`` runs them in
pieces.

Those of messages lie in a file of their own: ``codec_sizes`` (lengths against information bounds,
nothing is timed) and ``codec_speed`` (one thread), ``codec`` for both, 5 minutes together. Peers
take part where they are installed (``pip install sparsefl[peers]``).
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from sparsefl import report

from . import (
    cap,
    codec,
    device,
    goals,
    layers,
    networks,
    packed_sign,
    rows,
    sweeps,
    tune,
    tune_device,
)
from .cases import CASES
from .plots import draw
from .rows import Row

TABLES = (*sweeps.TABLES, goals.SIGN_BATCH_1, *networks.TABLES, cap.CAP)
ALL = "all"
CODEC = "codec"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark's command line; return the exit status, 1 if a result was wrong."""
    args = parser().parse_args(argv)
    if args.tune and args.device == "cpu":
        tune.tune(shipped=args.shipped)
        return 0
    if args.device == "cuda":
        if args.shipped:
            parser().error("--shipped: no table of a GPU is shipped")
        try:
            if args.tune:
                tune_device.tune(device.find_device())
            else:
                device.run(args.json, args.seconds, quick=args.quick)
        except device.NoDeviceError as error:
            print(f"sparsefl bench: error: {error}", file=sys.stderr)
            return 2
        return 0
    found = held(args) if args.rows is None else [r for p in args.rows for r in rows.read(p)]
    if args.rows is None:
        described = context()
        print(*(f"{key}: {value}" for key, value in described.items()), sep="\n")
        for measured in within(args.seconds, measure(args, described, found)):
            found = rows.merge(found, measured)
            print(*lines(measured), sep="\n", flush=True)
            # After every point, so that what was measured is not lost.
            if args.json is not None:
                rows.write(found, args.json)
    elif args.json is not None:
        rows.write(found, args.json)
    finish(args, found)
    return 0 if all(row["correct"] for row in found) else 1


def finish(args: argparse.Namespace, found: Sequence[Row]) -> None:
    """Print and draw what was asked for."""
    if args.compare is not None:
        print(*rows.comparison(rows.read(args.compare), found), sep="\n")
    if args.plot is not None:
        draw(found, args.plot)
    text = "\n\n".join(filter(None, (goals.summary(found), codec.summary(found))))
    if text and args.compare is None:
        print(f"\n{text}")


def lines(measured: Sequence[Row]) -> Iterator[str]:
    """Yield the rows of a point for reading."""
    if measured[0]["table"] in codec.TABLES:
        yield from map(codec.line, measured)
    else:
        yield from map(rows.line, rows.by_variant(measured))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    out = argparse.ArgumentParser(prog="sparsefl bench", description=__doc__)
    out.add_argument("--op", action="append", choices=sorted(CASES), help="this op only")
    out.add_argument(
        "--table",
        action="append",
        choices=[*TABLES, ALL, *codec.TABLES, CODEC],
        help=f"this table, default {sweeps.OPS}",
    )
    out.add_argument(
        "--tune",
        action="store_true",
        help="measure which layout is faster where, for this user; with --device cuda which kernel",
    )
    out.add_argument(
        "--shipped", action="store_true", help="with --tune: into the package, for everybody"
    )
    out.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: cases of its own (yardsticks, layers, ResNet-18's step), all in 10 minutes",
    )
    out.add_argument(
        "--threads",
        type=thread_counts,
        default=None,
        help="such as 1,2; default all cores, and 1 for the table ops",
    )
    out.add_argument("--quick", action="store_true", help="small points, few steps: a smoke test")
    out.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", help="write the rows; others in it are kept"
    )
    out.add_argument(
        "--resume", action="store_true", help="leave out what the file of --json has of this commit"
    )
    out.add_argument(
        "--seconds", type=float, metavar="S", help="begin no point after this time; see --resume"
    )
    out.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="draw ratio over density")
    out.add_argument(
        "--compare", type=pathlib.Path, metavar="FILE", help="print ratios beside those of a file"
    )
    out.add_argument(
        "--rows",
        type=pathlib.Path,
        metavar="FILE",
        action="append",
        help="take the rows of a file, measure nothing",
    )
    return out


def thread_counts(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of positive thread counts."""
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"thread counts start at 1, got {text}")
    return counts


def held(args: argparse.Namespace) -> list[Row]:
    """Return the rows of the file that is to be written, if there is one."""
    return rows.read(args.json) if args.json is not None and args.json.exists() else []


def measure(args: argparse.Namespace, described: Row, known: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows of the chosen tables and ops, point by point."""
    chosen = {*(args.table or [sweeps.OPS])}
    if CODEC in chosen:
        chosen |= {*codec.TABLES}
    tables = TABLES if ALL in chosen else chosen
    done = [r for r in known if args.resume and r["commit"] == described["commit"]]
    points = {rows.point_of(row) for row in done}
    yield from layers.measure(
        args.op, tables, args.threads, described, quick=args.quick, done=points
    )
    if args.op is None and not args.quick:
        left = [name for name in tables if name not in {row["table"] for row in done}]
        if goals.SIGN_BATCH_1 in left:
            yield from packed_sign.rows(described)
        yield from networks.measure(left, described)
        if cap.CAP in left:
            yield cap.rows(described)
    yield from codec.measure(chosen, described, points, quick=args.quick)


def within(seconds: float | None, points: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Yield points until the time is over, and say so if that was before the last."""
    started = time.monotonic()
    for point in points:
        yield point
        if seconds is not None and time.monotonic() - started > seconds:
            print("the time is over: run it again with --resume for what is left")
            return


def context() -> Row:
    """Describe what the rows are measured on and with."""
    now = datetime.datetime.now(datetime.timezone.utc)
    described = {k: v for k, v in report.machine().items() if k != "threads"}
    date = now.isoformat(timespec="seconds")
    return {"device": "cpu", **described, "commit": report.commit(), "date": date}


if __name__ == "__main__":
    sys.exit(main())
