"""The command line, one module a command: ``sparsefl profile``, ``compare``, ``run`` and so on.

Parsing needs neither torch nor the compiled modules: they load with the command that uses them, so
that ``--help`` is quick and ``info`` can say what is missing.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from sparsefl.allocator import keep_freed_memory
from sparsefl.cli import bench, compare, info, inspect, profile, report, run
from sparsefl.messages import one_line

USER_ERROR = 2
_INTERRUPTED = 130
_USER_ERRORS = (ValueError, TypeError, FileNotFoundError, ModuleNotFoundError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 after an error of the user's.

    The process keeps the memory that it frees (:mod:`sparsefl.allocator`).

    Args:
        argv: Arguments; ``sys.argv[1:]`` if absent.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    if arguments[:1] == ["bench"]:
        return bench.hand_over(arguments[1:])
    try:
        args = _parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    command: Callable[[argparse.Namespace], int] = args.command
    # The current folder is importable, as for `python -m`, so that package.module:Net is found.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return command(args)
    except _USER_ERRORS as error:
        if os.environ.get("SPARSEFL_TRACEBACK"):
            raise
        print(f"sparsefl: error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("sparsefl: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparsefl",
        description="Sparse federated learning whose FLOP and byte savings you can time.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (profile, compare, run, report, inspect, bench, info):
        command.add_to(commands)
    return parser
