"""``sparsefl report``: the tables and plots of runs that are over, claimed beside measured.

Of files of claims, as the benchmarks write them, it makes a page instead.
"""

import argparse
import importlib
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from sparsefl.messages import one_line

# What a pipe or a file gets, where no terminal says how wide it is.
_WIDTH = 100


def add_to(commands: Any) -> None:
    """Declare the command."""
    report = commands.add_parser(
        "report",
        help="tables and plots of runs that are over",
        description="Print claimed beside measured of one or several runs and comparisons, and "
        "draw their plots again. Of files of claims (bench/claims/*.json) write a Markdown page "
        "with plots.",
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run or a comparison, or files of claims"
    )
    report.add_argument("--out", metavar="DIR", help="where the plots go (the folder of one RUN)")
    report.add_argument("--no-plots", action="store_true", help="draw nothing")
    report.add_argument(
        "--target",
        type=float,
        metavar="ACCURACY",
        help="print the rounds and bytes that each run took to it, on the development data",
    )
    report.set_defaults(command=_report)


def _report(args: argparse.Namespace) -> int:
    claims = [path for path in map(pathlib.Path, args.runs) if _holds_claims(path)]
    if claims:
        return _report_claims(claims, args)
    if args.out is None and len(args.runs) > 1 and not args.no_plots:
        raise ValueError("several runs need --out DIR, where their plots go (or --no-plots)")
    first = pathlib.Path(args.runs[0])
    out = pathlib.Path(args.out or (first if first.is_dir() else first.parent))
    runs = importlib.import_module("sparsefl.fl.saved").load_runs(*args.runs)
    targets = ""
    if args.target is not None:
        targets = importlib.import_module("sparsefl.fl.targets").format_targets(
            runs, args.target, terminal_width()
        )
    written = show(runs, None if args.no_plots else out)
    if targets:
        print(f"\n{targets}")
    if written:
        print(f"\nWrote {', '.join(map(str, written))}")
    return 0


def _holds_claims(path: pathlib.Path) -> bool:
    """Tell a file of claims, a JSON list, from those of runs, which are JSON objects."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == b"["


def _report_claims(paths: list[pathlib.Path], args: argparse.Namespace) -> int:
    if len(paths) < len(args.runs):
        raise ValueError("RUN must be runs or files of claims, got both")
    if args.out is None:
        raise ValueError("files of claims need --out DIR, where their page goes")
    page = importlib.import_module("sparsefl.bench.claims.page")
    groups, out = page.load(paths), pathlib.Path(args.out)
    print(page.overview(groups), end="")
    try:
        written = page.write_page(groups, out, plots=not args.no_plots)
    except ModuleNotFoundError as error:
        print(f"sparsefl: no plots: {one_line(error)}", file=sys.stderr)
        written = [out / page.PAGE]
    print(f"\nWrote {', '.join(map(str, written))}")
    return 0


def show(runs: Sequence[Any], folder: pathlib.Path | None) -> list[pathlib.Path]:
    """Print the tables of runs, and draw their plots into a folder, if any.

    Args:
        runs: Of :class:`sparsefl.fl.saved.Run`.
        folder: Where the plots go; created where it is missing.

    Returns:
        The files; none without matplotlib, which is said.
    """
    table = importlib.import_module("sparsefl.fl.table")
    print(table.format_table([run.row for run in runs], terminal_width()))
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        files: list[pathlib.Path] = importlib.import_module("sparsefl.report").draw(runs, folder)
    except ModuleNotFoundError as error:
        print(f"sparsefl: no plots: {one_line(error)}", file=sys.stderr)
        return []
    return files


def terminal_width() -> int:
    """Return the characters of a line."""
    return shutil.get_terminal_size((_WIDTH, 24)).columns
