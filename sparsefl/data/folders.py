"""Where the files of a data set are looked for, and what a copy of it calls itself."""

import os
import pathlib

Path = str | os.PathLike[str]

# A folder whose content is not the data set's own (another compression, a subset) says so here.
NAME_FILE = "NAME"
_LONGEST_NAME = 60


def candidates(name: str, data_dir: Path | None = None) -> tuple[pathlib.Path, ...]:
    """List the folders in which a data set's files may lie, in the order of search.

    Args:
        name: Name of the data set, and of its folder.
        data_dir: The folder, or its parent. Without it the environment variable
            ``SPARSEFL_DATA_DIR`` is taken the same way, and without that ``.data`` in the working
            folder, then ``/usr/share/datasets``.
    """
    named = data_dir if data_dir is not None else os.environ.get("SPARSEFL_DATA_DIR") or None
    if named is not None:
        return pathlib.Path(named), pathlib.Path(named) / name
    return pathlib.Path(".data") / name, pathlib.Path("/usr/share/datasets") / name


def name_in(folder: pathlib.Path) -> str | None:
    """Return the line in ``folder/NAME``, or None without that file.

    Raises:
        ValueError: if it is not one line of at most 60 printable characters.
    """
    path = folder / NAME_FILE
    if not path.is_file():
        return None
    text = path.read_bytes()[: 4 * _LONGEST_NAME + 4].decode("utf-8", "replace").strip()
    if not text.isprintable() or not 0 < len(text) <= _LONGEST_NAME:
        raise ValueError(
            f"{path} must hold one line of at most {_LONGEST_NAME} characters, the name of this "
            f"copy in reports, got {text[:_LONGEST_NAME]!r}"
        )
    return text
