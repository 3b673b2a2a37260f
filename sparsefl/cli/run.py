"""``sparsefl run``: one method; log, result and resolved settings in a folder."""

import argparse
import importlib
import json
import pathlib
from typing import Any

from sparsefl.cli import config
from sparsefl.cli.progress import Progress, describe
from sparsefl.cli.resolve import resolve
from sparsefl.cli.settings import METHODS, add_flags


def add_to(commands: Any) -> None:
    """Declare the command."""
    run = commands.add_parser(
        "run",
        help="one method, one run",
        description="Train by one method; write DIR/config.toml, DIR/log.jsonl, a line a round, "
        "and DIR/result.json.",
    )
    run.add_argument("method", nargs="?", metavar="METHOD", help=", ".join(METHODS))
    add_flags(run, "run")
    run.add_argument("--seed", metavar="N", default=argparse.SUPPRESS, help="the same as --seeds N")
    run.add_argument(
        "--lr",
        metavar="RATE",
        default=argparse.SUPPRESS,
        help="clients' learning rate (default: the method's)",
    )
    run.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    plan = resolve(args, "run")
    experiment = importlib.import_module("sparsefl.fl.experiment")
    (method,) = plan.methods
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    config.write(out / "config.toml", f"sparsefl run --config {out / 'config.toml'}", plan.values)
    progress = Progress(plan.setting.rounds)
    (seed,) = plan.seeds
    problem = experiment.load_problem(plan.setting, seed)
    with (out / "log.jsonl").open("w") as log:

        def on_round(entry: Any) -> None:
            progress(method, entry)
            log.write(json.dumps(vars(entry)) + "\n")
            log.flush()

        result = experiment.play(
            method, plan.setting, problem, seed, plan.options.get(method), on_round
        )
    result.save(out)
    print(describe(result))
    print(result.table())
    print(f"\nWrote {out / 'log.jsonl'}, {out / 'result.json'}")
    return 0
