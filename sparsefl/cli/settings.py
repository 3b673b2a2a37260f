"""The flags and defaults that ``run`` and ``compare`` share.

These are the settings that earn a flag; ``--set`` and a file reach all others, and the options of
the methods (:mod:`sparsefl.cli.resolve`).
"""

import argparse
from typing import Any

from sparsefl import defaults
from sparsefl.cli.values import to_text
from sparsefl.names import COMPARED

# name: (placeholder, help). What both commands take, in the order of --help.
FLAGS = {
    "dataset": ("NAME", "data set (Fashion-MNIST, else the digits); `sparsefl info` lists them"),
    "data_dir": ("DIR", "folder of the data set's files"),
    "model": ("NAME", "model, or PKG.MOD:NET; `sparsefl info` lists them"),
    "norm": ("NORM", "normalisation of a named model: batch or group"),
    "clients": ("N", "number of clients"),
    "capabilities": ("SHARE,SHARE", "share of the weights that clients can train, in turn (all)"),
    "clients_per_round": ("N", "cohort size (everyone)"),
    "partition": ("RULE", "iid, dirichlet:ALPHA, shards:PER_CLIENT or natural"),
    "rounds": ("N", "rounds of training"),
    "local_epochs": ("N", "passes over a client's data"),
    "local_steps": ("N", "most steps of a client in a round"),
    "batch_size": ("N", "examples a step"),
    "density": ("SHARE", "share of weights kept"),
    "checkpoint_every": ("N", "rounds between two checkpoints (1)"),
    "threads": ("N", "threads of torch (all cores)"),
    "device": ("NAME", "where clients compute: cpu, cuda or cuda:N (cpu)"),
    "timed_steps": ("N", "steps timed against dense, 0 for none"),
    "seeds": ("N,N", "one run for each; one seed, one result"),
}
SWITCHES = {
    "memory": "measure memory, in fresh processes",
    "plots": "draw plots",
    "csv": "log to log.csv beside log.jsonl",
    "tensorboard": "log to tensorboard/ too",
}
_SHARED = {
    "model": defaults.MODEL,
    "clients": defaults.CLIENTS,
    "partition": defaults.PARTITION,
    "local_epochs": defaults.LOCAL_EPOCHS,
    "density": defaults.DENSITY,
    "seeds": [0],
    "csv": False,
    "tensorboard": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "run": {
        **_SHARED,
        "rounds": defaults.ROUNDS,
        "batch_size": defaults.BATCH_SIZE,
        "timed_steps": 0,
        "memory": False,
        "plots": False,
    },
    # So that `make demo` ends within six minutes on two cores, installs included.
    "compare": {
        **_SHARED,
        "methods": list(COMPARED),
        "rounds": 25,
        "local_steps": 12,
        "batch_size": 16,
        "timed_steps": 50,
        "memory": True,
        "plots": True,
        "dev_examples": 1000,
        "evaluate_every": 2,
    },
}
_OUT = {"run": "run", "compare": "compare"}


def add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the flags that ``run`` and ``compare`` share; what is not given stays away."""
    own = DEFAULTS[command]
    for name, (placeholder, text) in FLAGS.items():
        flag = f"--{name.replace('_', '-')}"
        default = f" (default: {to_text(own[name])})" if name in own else ""
        parser.add_argument(
            flag, metavar=placeholder, default=argparse.SUPPRESS, help=text + default
        )
    parser.add_argument(
        "--data",
        metavar="PKG.MOD:CLIENTS",
        default=argparse.SUPPRESS,
        help="own data: gives ([(train, dev), ...], test), or with public data after it",
    )
    parser.add_argument(
        "--seed", metavar="N", default=argparse.SUPPRESS, help="the same as --seeds N"
    )
    for name, text in SWITCHES.items():
        parser.add_argument(
            f"--{name}",
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {'yes' if own[name] else 'no'})",
        )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of settings, and a table of options a method"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, METHOD.OPTION or model.OPTION; repeatable",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print bytes a round, minutes expected and the layers' layout; train nothing",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run in --out, by its own settings; more --rounds are fine",
    )
    parser.add_argument("--out", default=_OUT[command], metavar="DIR", help="where the files go")
