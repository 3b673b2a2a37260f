"""Roles and windows of a small play."""

import pathlib

import numpy as np
import pytest
import torch

from sparsefl import data
from sparsefl.data import shakespeare


def play(*lines: tuple[str, str]) -> str:
    return "\n\n".join(f"{name}:\n{words}" for name, words in lines) + "\n"


LONG = "To be, or not to be: that is the question. " * 25
TEXT = play(("HAMLET", LONG), ("OSRIC", "Hm."), ("KING", LONG[::-1]), ("HAMLET", "Words.\nWords."))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "tinyshakespeare.txt").write_text(TEXT)
    return tmp_path


def test_a_role_says_all_its_speeches_and_nothing_else() -> None:
    said = shakespeare.speeches("A play\n\n" + TEXT.replace("\n\n", "\n\n\n", 1))
    assert list(said) == ["HAMLET", "OSRIC", "KING"]
    assert said["HAMLET"] == LONG + "\nWords.\nWords."
    assert said["OSRIC"] == "Hm."


@pytest.mark.parametrize("given", ["", "tinyshakespeare.txt"])
def test_windows_follow_each_other_and_labels_are_what_follows(
    folder: pathlib.Path, given: str
) -> None:
    train, test, info = data.load("shakespeare", folder / given)
    alphabet = sorted(set(TEXT))
    assert info.num_classes == len(alphabet)
    # Two roles of 13 windows each, one of which is test data; Osric says too little.
    assert (len(train), len(test)) == (24, 2)
    assert info.owners is not None
    assert info.owners.tolist() == [0] * 12 + [1] * 12
    inputs, labels = train.tensors
    assert inputs.shape == labels.shape == (24, 80)
    assert inputs.dtype == labels.dtype == torch.int64
    read = "".join(alphabet[code] for code in inputs[:12].flatten())
    assert read == (LONG + "\nWords.\nWords.")[: 12 * 80]
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert torch.equal(labels[0, -1], inputs[1, 0])
    assert torch.equal(test.tensors[0][0, 0], labels[11, -1])


def test_missing_and_useless_files_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tinyshakespeare\.txt or input\.txt"):
        data.load("shakespeare", tmp_path)
    (tmp_path / "input.txt").write_text(LONG)
    with pytest.raises(ValueError, match="no role"):
        data.load("shakespeare", tmp_path)
    (tmp_path / "input.txt").write_bytes(b"HAMLET:\n\xff")
    with pytest.raises(ValueError, match="no UTF-8"):
        data.load("shakespeare", tmp_path)


def test_owners_with_most_examples_are_clients() -> None:
    owners = np.array([3, 1, 1, 0, 3, 2, 3, 0])
    assert [part.tolist() for part in data.partition.by_owner(owners, 2)] == [[3, 7], [0, 4, 6]]
    with pytest.raises(ValueError, match="at most 4"):
        data.partition.by_owner(owners, 5)
