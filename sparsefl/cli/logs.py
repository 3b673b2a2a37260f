"""Where the rounds of runs are logged while they are played."""

import importlib
import pathlib
from types import TracebackType
from typing import Any

from sparsefl.names import LOG


class Logs:
    """Logs of several runs, each in the folder of its run, opened with its first round.

    Args:
        csv: Write ``log.csv`` beside ``log.jsonl``.
        tensorboard: Write ``tensorboard/`` too.
        append: Keep what is there, for runs that are resumed.
    """

    def __init__(self, csv: bool, tensorboard: bool, append: bool) -> None:
        """Open nothing yet."""
        self._csv, self._tensorboard, self._append = csv, tensorboard, append
        self._open: dict[pathlib.Path, list[Any]] = {}

    def write(self, folder: pathlib.Path, entry: Any) -> None:
        """Log one round of the run in ``folder``.

        Raises:
            ModuleNotFoundError: if TensorBoard is asked for and not installed.
        """
        if folder not in self._open:
            logs = importlib.import_module("sparsefl.fl.logs")
            self._open[folder] = [logs.JsonLinesLog(folder / LOG, self._append)]
            if self._csv:
                self._open[folder].append(logs.CsvLog(folder / "log.csv", self._append))
            if self._tensorboard:
                self._open[folder].append(logs.TensorBoardLog(folder / "tensorboard"))
        for log in self._open[folder]:
            log(entry)

    def __enter__(self) -> "Logs":
        """Return the logs themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all logs."""
        for logs in self._open.values():
            for log in logs:
                log.close()
