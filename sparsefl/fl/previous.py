"""What an earlier run has left in the folder of a new one: kept until the new one is under way."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

from sparsefl.names import CHECKPOINT, MODEL, RESULT

_ASIDE = ".previous"


@contextlib.contextmanager
def set_aside(folders: Sequence[pathlib.Path], resume: bool) -> Iterator[None]:
    """Make way for new runs; when one has played a round, what was there is deleted.

    What fails or is interrupted before its first round leaves results and checkpoints as they were.

    Args:
        folders: One a run.
        resume: The runs go on: everything stays where it is.

    Raises:
        ValueError: if a folder holds an interrupted run that is not to be resumed.
    """
    for folder in folders:
        # A process that was killed could not do so itself.
        _settle(folder)
    if resume:
        yield
        return
    for folder in folders:
        if _checkpoints(folder) and not (folder / RESULT).is_file():
            raise ValueError(
                f"{folder} holds an interrupted run: go on with it by --resume, give another --out "
                f"or delete {folder / CHECKPOINT}"
            )
    for folder in folders:
        for file in [*_checkpoints(folder), *folder.glob(RESULT), *folder.glob(MODEL)]:
            kept = folder / _ASIDE / file.relative_to(folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, kept)
    try:
        yield
    finally:
        if any(_under_way(folder) for folder in folders):
            for folder in folders:
                shutil.rmtree(folder / _ASIDE, ignore_errors=True)
        for folder in folders:
            _settle(folder)


def _checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    return [*(folder / CHECKPOINT).glob("*")]


def _under_way(folder: pathlib.Path) -> bool:
    return bool(_checkpoints(folder)) or (folder / RESULT).is_file()


def _settle(folder: pathlib.Path) -> None:
    """Put back what was set aside where no new run has taken its place; delete it otherwise."""
    aside = folder / _ASIDE
    if not _under_way(folder):
        for file in [path for path in aside.rglob("*") if path.is_file()]:
            home = folder / file.relative_to(aside)
            home.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, home)
    shutil.rmtree(aside, ignore_errors=True)
