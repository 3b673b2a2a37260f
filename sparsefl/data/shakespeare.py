"""Shakespeare by speaker: the next character of what a role says, from a local text of the plays.

A client is a role, as in McMahan et al. 2017 (arXiv 1602.05629) and LEAF (arXiv 1812.01097). Read
is any text whose speeches are set apart by empty lines and begin with a line ``NAME:``, such as the
1.1 million characters known as "tiny Shakespeare" (Karpathy, char-rnn). Roles of one name are one,
as such a text does not say where a play ends.

What a role says is cut into windows of ``CONTEXT`` characters that share none; each is one example,
whose labels are the characters that follow: ``CONTEXT`` predictions, where LEAF has one a window.
The last tenth of every role's windows is test data. Roles of fewer than ``LEAST`` are left out.
"""

import pathlib
import re

import numpy as np
import torch
from torch.utils.data import TensorDataset

from sparsefl.data.folders import Path, candidates
from sparsefl.data.images import IndexArray, Info

NAME = "shakespeare"
FILES = ("tinyshakespeare.txt", "input.txt")
CONTEXT, LEAST = 80, 10
_TEST_SHARE = 10


def find_text(data_dir: Path | None = None) -> pathlib.Path:
    """Return the file of the plays.

    Args:
        data_dir: The file itself, or its folder; see :func:`sparsefl.data.folders.candidates`.

    Raises:
        FileNotFoundError: if it is not there; it says what to put where.
    """
    folders = candidates(NAME, data_dir)
    for path in (folders[0], *(folder / file for folder in folders for file in FILES)):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"Shakespeare is in neither {' nor '.join(map(str, folders))}: put a text of plays there "
        f"as {' or '.join(FILES)}, speeches set apart by empty lines and each begun with a line "
        "NAME:, or name the file by data_dir or SPARSEFL_DATA_DIR"
    )


def load_shakespeare(data_dir: Path | None = None) -> tuple[TensorDataset, TensorDataset, Info]:
    """Return training data, test data and what they are, each training example's role included.

    Inputs and labels are int64, ``[CONTEXT]``: numbers of characters in the order of the text's
    alphabet.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it is no UTF-8, or no role says enough.
    """
    path = find_text(data_dir)
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error
    alphabet = sorted(set(text))
    numbers = {character: number for number, character in enumerate(alphabet)}
    roles = [_windows(said, numbers) for said in speeches(text).values()]
    roles = [windows for windows in roles if len(windows) >= LEAST]
    if not roles:
        raise ValueError(
            f"{path} has no role that says {CONTEXT * LEAST + 1} characters; speeches are set "
            "apart by empty lines and begin with a line NAME:"
        )
    test = [windows[-(len(windows) // _TEST_SHARE) :] for windows in roles]
    train = [windows[: len(windows) - len(windows) // _TEST_SHARE] for windows in roles]
    info = Info(
        in_shape=(1, 1, CONTEXT),
        num_classes=len(alphabet),
        mean=0.0,
        std=1.0,
        label="Shakespeare",
        owners=np.repeat(np.arange(len(train)), [len(windows) for windows in train]),
    )
    return _dataset(train), _dataset(test), info


def speeches(text: str) -> dict[str, str]:
    """Return what each role says, in the order of the first words, joined by line ends."""
    said: dict[str, list[str]] = {}
    for speech in re.split(r"\n{2,}", text.strip("\n")):
        name, mark, words = speech.partition(":\n")
        if mark and "\n" not in name:
            said.setdefault(name, []).append(words)
    return {name: "\n".join(words) for name, words in said.items()}


def _windows(said: str, numbers: dict[str, int]) -> IndexArray:
    """Return windows ``[n, CONTEXT + 1]``, each with the first character of the next."""
    codes = np.array([numbers[character] for character in said], np.int64)
    starts = CONTEXT * np.arange(max(0, len(codes) - 1) // CONTEXT)
    return codes[starts[:, None] + np.arange(CONTEXT + 1)]


def _dataset(roles: list[IndexArray]) -> TensorDataset:
    windows = torch.from_numpy(np.concatenate(roles))
    return TensorDataset(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
