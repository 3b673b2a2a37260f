"""Runs as plain data: of results in memory, or read from the files that they wrote."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparsefl.fl.result import Result
from sparsefl.fl.table import NEEDED, NEEDED_PER_CLIENT, Row, identity, name_rows
from sparsefl.names import COMPARISON, LOG, RESULT, run_folder


@dataclass(frozen=True)
class Run:
    """What tables and plots need of one run.

    Attributes:
        row: Its row of ``compare.json``.
        rounds: Its lines of ``log.jsonl``; empty where there is none.
        memory: Parts of "client" and "dense" memory, those that were measured.
    """

    row: Row
    rounds: Sequence[Mapping[str, Any]] = ()
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result) -> "Run":
        """Take what is needed of a result."""
        return cls._of_report(result.report(), result.ledger.lines())

    @classmethod
    def _of_report(cls, report: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> "Run":
        memory = {side: report["costs"].get(f"{side}_memory") for side in ("client", "dense")}
        return cls(report["row"], rounds, {side: parts for side, parts in memory.items() if parts})

    def curve(self, *spent: str) -> list[tuple[float, float]]:
        """Return ``(sum of some columns of the log so far, accuracy)`` of the rounds evaluated."""
        points, total = [], 0.0
        for entry in self.rounds:
            # Logs of older versions lack some.
            total += sum(entry.get(name, 0) for name in spent)
            if entry["accuracy"] is not None:
                points.append((total, entry["accuracy"]))
        return points


def load_runs(*paths: str | os.PathLike[str]) -> list[Run]:
    """Read what runs and comparisons have written.

    Args:
        paths: Folders of runs or of comparisons, or a file ``compare.json`` alone.

    Returns:
        The runs of all; one that another path holds too is named with its folder.

    Raises:
        FileNotFoundError: if a path holds no run.
        ValueError: if a file is not one of ours, or lacks what tables need; it is named.
    """
    runs: list[Run] = []
    seen: set[tuple[Any, ...]] = set()
    for path in map(pathlib.Path, paths):
        for run in _load(path):
            key = (run.row["seed"], *identity(run.row))
            if key in seen:
                named = f"{run.row['method']} ({path.resolve().name})"
                run = replace(run, row={**run.row, "method": named})
            seen.add(key)
            runs.append(run)
    return runs


def _load(path: pathlib.Path) -> list[Run]:
    file = path if path.is_file() else path / COMPARISON
    folder = file.parent
    if file.name != RESULT and file.is_file():
        rows = _parse(file, file.read_bytes(), "rows")["rows"]
        for row in rows:
            _check_row(file, row)
        folders = [folder / run_folder(row["method"], row["seed"]) for row in rows]
        # The row stands in both; the folder knows its rounds too.
        return [
            _load_run(own) if (own / RESULT).is_file() else Run(row)
            for own, row in zip(folders, rows, strict=True)
        ]
    folders = [found.parent for found in sorted(folder.glob(f"*/{RESULT}"))]
    if (folder / RESULT).is_file():
        folders = [folder]
    if not folders:
        raise FileNotFoundError(f"{path} holds neither {RESULT} nor {COMPARISON}")
    return [_load_run(own) for own in folders]


def _load_run(folder: pathlib.Path) -> Run:
    file, log = folder / RESULT, folder / LOG
    report = _parse(file, file.read_bytes(), "row", "costs")
    _check_row(file, report["row"])
    _check_keys(file, report["costs"], "costs")
    lines = log.read_bytes().splitlines() if log.is_file() else []
    return Run._of_report(report, [_parse(log, line, "round", "accuracy") for line in lines])


def _parse(file: pathlib.Path, text: bytes, *needed: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON of a run: {error}") from error
    _check_keys(file, found, "it", *needed)
    return found


def _check_row(file: pathlib.Path, row: Any) -> None:
    _check_keys(file, row, "row", *NEEDED)
    _check_keys(file, row["accuracy_per_client"], "accuracy_per_client", *NEEDED_PER_CLIENT)


def _check_keys(file: pathlib.Path, found: Any, name: str, *needed: str) -> None:
    """Refuse what a file holds under a name if it is no mapping, or lacks one of the keys."""
    if not isinstance(found, Mapping):
        kind = type(found).__name__
        raise ValueError(f"{file} is no JSON of a run: {name} must be an object, got {kind}")
    for key in needed:
        if key not in found:
            where = "" if name == "it" else f" in its {name}"
            raise ValueError(
                f"{file} has no {key!r}{where}: it is no file of a run, or of an older version"
            )


def name_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ in the seed alone, under names that tell the groups apart.

    Returns:
        ``{method, and what else tells it from others of its method: [run of each seed]}``.
    """
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, name_rows([run.row for run in runs]), strict=True):
        groups.setdefault(name, []).append(run)
    return groups
