import gzip
import pathlib
import shutil
import struct
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from sparsefl import data
from sparsefl.data import fashion_mnist, images


def has_fashion_mnist() -> bool:
    try:
        fashion_mnist.find_folder()
    except FileNotFoundError:
        return False
    return True


needs_fashion_mnist = pytest.mark.skipif(
    not has_fashion_mnist(), reason="Fashion-MNIST is not here: tools/fetch_fashion_mnist.sh"
)


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1))


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder whose files have the names of Fashion-MNIST's and a few blank images."""
    folder = tmp_path_factory.mktemp("sets") / fashion_mnist.FOLDER
    folder.mkdir()
    for images_name, labels_name, _ in fashion_mnist.FILES.values():
        write_idx(folder / images_name, np.zeros((9, 28, 28), np.uint8))
        write_idx(folder / labels_name, np.arange(9, dtype=np.uint8))
    return folder


@pytest.fixture
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {part: (*names[:2], 9) for part, names in fashion_mnist.FILES.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", files)


def assert_standardised(train: TensorDataset) -> None:
    pixels = train.tensors[0].double()
    assert abs(pixels.mean().item()) < 1e-3
    assert abs(pixels.std().item() - 1) < 1e-3


def test_digits_are_the_shipped_ones() -> None:
    train, test, info = data.load("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert info == data.Info((1, 8, 8), 10, 0.3051, 0.3756, "UCI digits")
    for dataset in (train, test):
        image, label = dataset[0]
        assert image.shape == info.in_shape
        assert image.dtype == torch.float32
        assert label.dtype == torch.int64
    assert_standardised(train)
    # The split is drawn from a seed stream, so these counts hold everywhere.
    counts = torch.bincount(test.tensors[1]).tolist()
    assert counts == [37, 41, 34, 38, 44, 30, 41, 34, 28, 33]


def test_digits_are_in_no_part_twice() -> None:
    train, test, _ = data.load("digits")
    rows = torch.cat([train.tensors[0], test.tensors[0]]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 1797


@needs_fashion_mnist
def test_fashion_mnist_is_complete() -> None:
    train, test, info = data.load("fashion-mnist")
    assert (len(train), len(test), info.in_shape) == (60000, 10000, (1, 28, 28))
    assert torch.bincount(train.tensors[1]).tolist() == [6000] * 10
    assert torch.bincount(test.tensors[1]).tolist() == [1000] * 10
    assert_standardised(train)


@pytest.mark.usefixtures("small_counts")
@pytest.mark.parametrize("inside", [False, True], ids=["folder", "parent"])
def test_argument_names_the_folder(small_set: pathlib.Path, inside: bool) -> None:
    train, test, _ = data.load("fashion-mnist", small_set.parent if inside else small_set)
    assert len(train) == len(test) == 9


@pytest.mark.usefixtures("small_counts")
def test_environment_names_the_folder(
    small_set: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSEFL_DATA_DIR", str(small_set.parent))
    assert fashion_mnist.find_folder() == small_set


@pytest.mark.usefixtures("small_counts")
def test_working_folder_is_searched(
    small_set: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARSEFL_DATA_DIR", raising=False)
    shutil.copytree(small_set, tmp_path / ".data" / "fashion-mnist")
    monkeypatch.chdir(tmp_path)
    assert len(data.load("fashion-mnist")[0]) == 9


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_named_folder_without_files_is_an_error_that_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("SPARSEFL_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"put train-images-idx3-ubyte\.gz") as caught:
        data.load("fashion-mnist", tmp_path if by == "argument" else None)
    assert str(tmp_path) in str(caught.value)


def test_wrong_size_is_refused(small_set: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"must hold an array of shape \(60000, 28, 28\)"):
        data.load("fashion-mnist", small_set)


@pytest.mark.usefixtures("small_counts")
def test_label_out_of_range_is_refused(small_set: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = shutil.copytree(small_set, tmp_path / "damaged")
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.full(9, 10, np.uint8))
    with pytest.raises(ValueError, match="labels 9"):
        data.load("fashion-mnist", folder)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        ValueError,
        match="one of fashion-mnist, cifar10, cifar100, shakespeare, digits, got 'mnist'",
    ):
        data.load("mnist")


def test_hold_out_splits_without_overlap() -> None:
    train, _, _ = data.load("digits")
    rest, dev = data.hold_out(train, 200, seed=1)
    assert (len(rest), len(dev)) == (1237, 200)
    assert sorted([*rest.indices, *dev.indices]) == list(range(1437))
    assert data.hold_out(train, 200, seed=1)[1].indices == dev.indices
    assert data.hold_out(train, 200, seed=2)[1].indices != dev.indices


def test_hold_out_is_the_same_on_every_machine() -> None:
    train, _, _ = data.load("digits")
    assert data.hold_out(train, 5, seed=0)[1].indices == [68, 275, 843, 1083, 1338]


@pytest.mark.parametrize("count", [-1, 1437, 5000])
def test_hold_out_leaves_training_data(count: int) -> None:
    with pytest.raises(ValueError, match="count must lie"):
        data.hold_out(data.load("digits")[0], count)


class Pairs(Dataset[Any]):
    """A map-style data set of the user's own."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), index * index


def test_labels_of_any_map_style_dataset() -> None:
    train, _, _ = data.load("digits")
    assert data.labels_of(train).tolist() == train.tensors[1].tolist()
    assert data.labels_of(Pairs()).tolist() == [0, 1, 4, 9, 16]
    inner = data.subset(Pairs(), [4, 2, 0])
    assert data.labels_of(data.subset(inner, np.array([2, 0]))).tolist() == [0, 16]


def test_subset_reads_the_chosen_examples() -> None:
    train, _, _ = data.load("digits")
    part = data.subset(train, np.array([3, 700]))
    assert torch.equal(part[1][0], train[700][0])


def test_shuffled_is_a_permutation() -> None:
    order = images.shuffled(1009, 4, "name")
    assert sorted(order.tolist()) == list(range(1009))
    assert not np.array_equal(order, images.shuffled(1009, 4, "other"))
