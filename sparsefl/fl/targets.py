"""Rounds and bytes that runs took to an accuracy, as a table."""

from collections.abc import Sequence

from sparsefl.columns import align
from sparsefl.fl.ledger import rounds_to
from sparsefl.fl.saved import Run, name_runs
from sparsefl.fl.table import WIDTH, size

_NEVER = "never"


def format_targets(runs: Sequence[Run], target: float, width: int = WIDTH) -> str:
    """Format the first round with an accuracy on the development data, and the bytes until then.

    Args:
        runs: Those with a log; of seeds of one run each is given.
        target: The accuracy.
        width: Characters of a line.

    Raises:
        ValueError: if no run has a log, or the target is out of range.
    """
    named = name_runs([run for run in runs if run.rounds])
    if not named:
        raise ValueError("none of the runs has a log: give folders of runs, not compare.json alone")
    rounds = [[rounds_to(run.rounds, target) for run in group] for group in named.values()]
    spent = [
        [_bytes_until(run, reached) for run, reached in zip(group, each, strict=True)]
        for group, each in zip(named.values(), rounds, strict=True)
    ]
    columns = [
        ["method", *named],
        ["of", *(str(max(len(run.rounds) for run in group)) for group in named.values())],
        ["rounds", *(_listed([_NEVER if r is None else str(r) for r in each]) for each in rounds)],
        ["bytes", *(_listed([_NEVER if b is None else size(b) for b in each]) for each in spent)],
    ]
    title = f"Rounds to accuracy {target:g} on the development data, and all bytes until then"
    return "\n".join([title, *align(columns, width)])


def _listed(cells: Sequence[str]) -> str:
    return ", ".join(cells)


def _bytes_until(run: Run, reached: int | None) -> int | None:
    if reached is None:
        return None
    kinds = ("setup_bytes", "downlink_bytes", "uplink_bytes")
    until = [entry for entry in run.rounds if entry["round"] <= reached]
    return sum(entry[kind] for entry in until for kind in kinds)
