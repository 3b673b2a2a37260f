"""Logs of a run, round by round: give one to ``fl.run(..., on_round=log)``.

with fl.logs.CsvLog("run.csv") as csv, fl.logs.TensorBoardLog("runs/first") as board:
    fl.run("fedavg", ..., on_round=fl.logs.tee(csv, board))
"""

import csv
import json
import os
import pathlib
from collections.abc import Callable
from dataclasses import fields
from types import TracebackType
from typing import Any, TextIO

from sparsefl.fl.ledger import Round

_COLUMNS = tuple(field.name for field in fields(Round))


class _Log:
    """What every log has: called with a round's entry, closed at the end."""

    def __call__(self, entry: Round) -> None:
        """Write one round."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish the log."""
        raise NotImplementedError

    def __enter__(self) -> "_Log":
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log."""
        self.close()


class _FileLog(_Log):
    """A text file that holds every finished round at once.

    Args:
        path: File to write; its folder is created where it is missing.
        append: Keep what is there of earlier rounds, for runs that are resumed.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        """Open the file."""
        self._path = pathlib.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._begins = not (append and self._path.exists() and self._path.stat().st_size > 0)
        self._file: TextIO = self._path.open("a" if append else "w", newline="")
        self._settled = self._begins

    def __call__(self, entry: Round) -> None:
        """Write one line."""
        if not self._settled:
            self._forget_from(entry.round)
            self._settled = True
        self._write(entry)
        self._file.flush()

    def _write(self, entry: Round) -> None:
        """Write one line."""
        raise NotImplementedError

    def _round_of(self, line: str) -> int:
        """Return the round of a line; a line that is none has round 0."""
        raise NotImplementedError

    def _forget_from(self, round: int) -> None:
        """Drop lines of rounds that are played again, and one that was cut off."""
        self._file.close()
        lines = self._path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and self._round_of(line) < round]
        self._path.write_text("".join(kept), newline="")
        self._file = self._path.open("a", newline="")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvLog(_FileLog):
    """A line a round under a head of names; what is not known is empty."""

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        """Open the file; write the head where it is new."""
        super().__init__(path, append)
        if self._begins:
            csv.DictWriter(self._file, _COLUMNS, lineterminator="\n").writeheader()

    def _write(self, entry: Round) -> None:
        csv.DictWriter(self._file, _COLUMNS, lineterminator="\n").writerow(entry.line())

    def _round_of(self, line: str) -> int:
        first = line.partition(",")[0]
        return int(first) if first.isdecimal() else 0


class JsonLinesLog(_FileLog):
    """A JSON record a round, one a line."""

    def _write(self, entry: Round) -> None:
        self._file.write(json.dumps(entry.line()) + "\n")

    def _round_of(self, line: str) -> int:
        return int(json.loads(line)["round"])


class TensorBoardLog(_Log):
    """Scalars for TensorBoard: ``accuracy``, ``loss``, ``bytes/uplink``, ``seconds/train``, ...

    Args:
        folder: Where the event files go; one folder a run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the writer.

        Raises:
            ModuleNotFoundError: if TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoard logs need TensorBoard: pip install 'sparsefl[tensorboard]'"
            ) from error
        self._writer: Any = SummaryWriter(os.fspath(folder))

    def __call__(self, entry: Round) -> None:
        """Write one round's scalars."""
        for name, value in entry.line().items():
            if name != "round" and value is not None:
                self._writer.add_scalar(_tag(name), value, entry.round)
        self._writer.flush()

    def close(self) -> None:
        """Close the writer."""
        self._writer.close()


def _tag(name: str) -> str:
    """Return ``bytes/uplink`` for ``uplink_bytes``, and so on for seconds."""
    for suffix, group in (("_bytes", "bytes"), ("_s", "seconds")):
        if name.endswith(suffix):
            return f"{group}/{name.removesuffix(suffix)}"
    return name


def tee(*logs: Callable[[Round], None]) -> Callable[[Round], None]:
    """Return one callback that calls all of these in turn."""

    def write(entry: Round) -> None:
        for log in logs:
            log(entry)

    return write
