"""``sparsefl compare``: methods side by side on the same data, claimed beside measured."""

import argparse
import functools
import importlib
import pathlib
from typing import Any

from sparsefl.cli import config
from sparsefl.cli.dry_run import dry_run
from sparsefl.cli.logs import Logs
from sparsefl.cli.progress import Progress, describe
from sparsefl.cli.report import show
from sparsefl.cli.resolve import resolve
from sparsefl.cli.settings import add_flags
from sparsefl.names import COMPARED, COMPARISON, ROWS, run_folder


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
        help=f"comma-separated, of {', '.join(ROWS)} (default: {','.join(COMPARED)})",
    )
    add_flags(compare, "compare")
    compare.set_defaults(command=_compare)


def _compare(args: argparse.Namespace) -> int:
    plan = resolve(args, "compare")
    if args.dry_run:
        return dry_run(plan)
    report = importlib.import_module("sparsefl.report")
    out = pathlib.Path(args.out)
    names = [run_folder(method, seed) for seed in plan.seeds for method in plan.methods]
    previous = importlib.import_module("sparsefl.fl.previous")
    record = functools.cache(
        lambda: config.write(out / config.FILE, "sparsefl compare --config", plan.values)
    )
    progress = Progress(plan.setting.rounds)
    aside = previous.set_aside([out / name for name in names], args.resume)
    with aside, Logs(plan.values["csv"], plan.values["tensorboard"], append=args.resume) as logs:

        def on_round(method: str, seed: int, entry: Any) -> None:
            # Only now is it sure that something is run: settings of before are gone.
            record()
            progress(f"{method} seed {seed}", entry)
            logs.write(out / run_folder(method, seed), entry)

        results = report.compare(
            plan.setting, plan.methods, plan.seeds, plan.options, out, on_round, args.resume
        )
    record()
    print(describe(results[0]))
    runs = [importlib.import_module("sparsefl.fl.saved").Run.of(result) for result in results]
    written = show(runs, out if plan.plots else None)
    print(f"\nWrote {', '.join(map(str, [out / COMPARISON, *written, out / config.FILE]))}")
    return 0
