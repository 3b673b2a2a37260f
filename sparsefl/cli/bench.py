"""``sparsefl bench``: the benchmarks have a command line of their own."""

import importlib
import sys
from typing import Any


def add_to(commands: Any) -> None:
    """List the command; ``main`` hands its arguments over before they are parsed."""
    commands.add_parser("bench", help="time the operators against dense torch", add_help=False)


def hand_over(arguments: list[str]) -> int:
    """Run the benchmarks on their own arguments; return the exit status."""
    try:
        runner = importlib.import_module("sparsefl.bench.runner")
    except ModuleNotFoundError as error:
        print(f"sparsefl: error: the benchmarks are not installed: {error}", file=sys.stderr)
        return 2
    return int(runner.main(arguments) or 0)
