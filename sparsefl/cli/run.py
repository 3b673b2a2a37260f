"""``sparsefl run``: one method; log, result and resolved settings in a folder."""

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
from sparsefl.cli.resolve import Plan, resolve
from sparsefl.cli.settings import add_flags
from sparsefl.names import CHECKPOINT, METHODS, RESULT, seed_folder


def add_to(commands: Any) -> None:
    """Declare the command."""
    run = commands.add_parser(
        "run",
        help="one method, one run",
        description="Train by one method; write DIR/config.toml, DIR/log.jsonl, a line a round, "
        "and DIR/result.json, or DIR/seed-N/ of these for several seeds.",
    )
    run.add_argument("method", nargs="?", metavar="METHOD", help=", ".join(METHODS))
    run.add_argument(
        "--lr",
        metavar="RATE",
        default=argparse.SUPPRESS,
        help="clients' learning rate (default: the method's)",
    )
    add_flags(run, "run")
    run.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    plan = resolve(args, "run")
    if args.dry_run:
        return dry_run(plan)
    out = pathlib.Path(args.out)
    folders = {s: out / seed_folder(s) if len(plan.seeds) > 1 else out for s in plan.seeds}
    previous = importlib.import_module("sparsefl.fl.previous")
    with previous.set_aside([*folders.values()], args.resume):
        results = _play(plan, folders, args.resume, out)
    print(describe(results[0]))
    runs = [importlib.import_module("sparsefl.fl.saved").Run.of(result) for result in results]
    written = show(runs, out if plan.plots else None)
    if len(results) > 1:
        seeds = importlib.import_module("sparsefl.fl.seeds")
        seeds.SeedResults(tuple(results)).save(out)
        written.insert(0, out / "summary.json")
    files = [folder / RESULT for folder in folders.values()]
    print(f"\nWrote {', '.join(map(str, [*files, *written, out / config.FILE]))}")
    return 0


def _play(
    plan: Plan, folders: dict[int, pathlib.Path], resume: bool, out: pathlib.Path
) -> list[Any]:
    """Play the run of every seed, and save each when it is over."""
    experiment = importlib.import_module("sparsefl.fl.experiment")
    (method,) = plan.methods
    progress = Progress(plan.setting.rounds)
    record = functools.cache(
        lambda: config.write(out / config.FILE, "sparsefl run --config", plan.values)
    )
    results = []
    with Logs(plan.values["csv"], plan.values["tensorboard"], append=resume) as logs:
        for seed, folder in folders.items():
            problem = experiment.load_problem(plan.setting, seed, [method])
            name = method if len(folders) == 1 else f"{method} seed {seed}"

            def on_round(entry: Any, name: str = name, folder: pathlib.Path = folder) -> None:
                # Only now is it sure that something is run: settings of before are gone.
                record()
                progress(name, entry)
                logs.write(folder, entry)

            result = experiment.play(
                method,
                plan.setting,
                problem,
                seed,
                plan.options.get(method),
                on_round,
                checkpoint=folder / CHECKPOINT,
                resume=resume,
            )
            record()
            result.save(folder)
            results.append(result)
    return results
