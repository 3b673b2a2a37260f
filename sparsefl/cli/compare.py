"""``sparsefl compare``: methods side by side on the same data, claimed beside measured."""

import argparse
import importlib
import pathlib
import sys
from typing import Any

from sparsefl.cli import config
from sparsefl.cli.progress import Progress, describe
from sparsefl.cli.resolve import resolve
from sparsefl.cli.settings import ROWS, add_flags


def add_to(commands: Any) -> None:
    """Declare the command."""
    compare = commands.add_parser(
        "compare",
        help="methods side by side on real data, claimed beside measured",
        description="Train several methods on the same clients; print a table, and write plots and "
        "compare.json. The defaults train the EMNIST CNN on Fashion-MNIST (the digits where that "
        "is not to be had).",
    )
    compare.add_argument(
        "--methods",
        metavar="NAME,NAME",
        default=argparse.SUPPRESS,
        help=f"comma-separated (default: {','.join(ROWS)})",
    )
    add_flags(compare, "compare")
    compare.set_defaults(command=_compare)


def _compare(args: argparse.Namespace) -> int:
    plan = resolve(args, "compare")
    report = importlib.import_module("sparsefl.report")
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "config.toml"
    config.write(file, f"sparsefl compare --config {file}", plan.values)
    progress = Progress(plan.setting.rounds)
    results = report.compare(
        plan.setting,
        plan.methods,
        plan.seeds,
        plan.options,
        out,
        lambda method, seed, entry: progress(f"{method} seed {seed}", entry),
    )
    print(describe(results[0]))
    print(report.table(results))
    written = [out / "compare.json", file]
    if plan.plots:
        try:
            written += report.draw(results, out)
        except ModuleNotFoundError as error:
            print(f"sparsefl: no plots: {error}", file=sys.stderr)
    print(f"\nWrote {', '.join(map(str, written))}")
    return 0
