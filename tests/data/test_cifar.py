import dataclasses
import io
import os
import pathlib
import pickle
import struct
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparsefl import data
from sparsefl.data import cifar, registry
from sparsefl.data._restricted_pickle import read_batch
from sparsefl.fl.batches import Reader

SMALL10 = dataclasses.replace(cifar.CIFAR10, train_images=3, test_images=11)
SMALL100 = dataclasses.replace(cifar.CIFAR100, train_images=7, test_images=5)
LAYOUTS = {"cifar10": SMALL10, "cifar100": SMALL100}
FORMS = ("binary", "python")
OFFICIAL_TEST = [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0]

Contents = dict[str, tuple[np.ndarray, np.ndarray]]


def made_up(layout: cifar.Layout, form: cifar.Form) -> Contents:
    """Pixels and labels of each file, the same for both forms."""
    generator = np.random.Generator(np.random.Philox(7))
    contents = {}
    for name in form.files:
        count = layout.images_in(form, name)
        labels = generator.integers(0, layout.info.num_classes, count)
        if name == form.test and layout.name == "cifar10":
            labels = np.array(OFFICIAL_TEST)
        contents[name] = generator.integers(0, 256, (count, 3072), np.uint8), labels
    return contents


def integer(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def string(text: bytes) -> bytes:
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<I", len(text)) + text


def numbers(values: np.ndarray) -> bytes:
    return b"](" + b"".join(integer(int(value)) for value in values) + b"e"


def python2_pickle(images: np.ndarray, labels: bytes, label_key: bytes) -> bytes:
    """A batch in the opcodes that Python 2's cPickle wrote the official files with."""
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"
        + b"R(K\x01"
        + integer(images.shape[0])
        + integer(images.shape[1])
        + b"\x86"
        + dtype
        + b"K\x00tb\x89"
        + string(images.tobytes())
        + b"tb"
    )
    return (
        b"\x80\x02}q\x00("
        + string(b"batch_label")
        + string(b"training batch 1 of 5")
        + string(label_key)
        + labels
        + string(b"data")
        + array
        + string(b"filenames")
        + b"](U\x05a.pngeu."
    )


def as_file(layout: cifar.Layout, form: cifar.Form, images: Any, labels: Any) -> bytes:
    if form.pickled:
        return python2_pickle(images, numbers(labels), layout.label_key)
    coarse = np.full((len(labels), layout.label_bytes - 1), 19, np.uint8)
    return np.hstack([coarse, labels[:, None].astype(np.uint8), images]).tobytes()


def write(root: pathlib.Path, layout: cifar.Layout, form: cifar.Form) -> pathlib.Path:
    folder = root / form.folder
    folder.mkdir(parents=True)
    for name, (images, labels) in made_up(layout, form).items():
        (folder / name).write_bytes(as_file(layout, form, images, labels))
    return folder


def pack(root: pathlib.Path, form: cifar.Form) -> pathlib.Path:
    with tarfile.open(root / form.archive, "w:gz") as tar:
        tar.add(root / form.folder, form.folder)
    for path in (root / form.folder).iterdir():
        path.unlink()
    (root / form.folder).rmdir()
    return root / form.archive


def form_of(layout: cifar.Layout, kind: str) -> cifar.Form:
    return layout.forms[FORMS.index(kind)]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_form_gives_the_same_images(
    tmp_path: pathlib.Path, name: str, kind: str, packed: bool
) -> None:
    layout = LAYOUTS[name]
    form = form_of(layout, kind)
    where = write(tmp_path, layout, form)
    contents = made_up(layout, form)
    if packed:
        where = pack(tmp_path, form)
    assert cifar.find(layout, tmp_path).path == where
    train, test, info = cifar.load_cifar(layout, tmp_path)
    assert info == layout.info
    for dataset, files in ((train, form.train), (test, (form.test,))):
        pixels = np.concatenate([contents[f][0] for f in files]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([contents[f][1] for f in files])
        assert data.labels_of(dataset).tolist() == labels.tolist()
        mean, std = (np.array(v).reshape(3, 1, 1) for v in (info.mean, info.std))
        for index in (0, len(dataset) - 1):
            image, label = dataset[index]
            assert label == labels[index]
            assert image.dtype == torch.float32
            expected = (pixels[index] / 255 - mean) / std
            np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)


def test_batches_cross_the_files(tmp_path: pathlib.Path) -> None:
    write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    train, _, _ = cifar.load_cifar(SMALL10, tmp_path)
    order = np.array([14, 0, 7, 3, 2, 7])
    images, labels = train.take(order)
    for row, index in enumerate(order.tolist()):
        assert torch.equal(images[row], train[index][0])
        assert labels[row] == train[index][1]
    assert torch.equal(train[-1][0], train[14][0])
    with pytest.raises(IndexError):
        train[15]


def test_clients_read_whole_batches(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    train, _, _ = cifar.load_cifar(SMALL10, tmp_path)
    expected = [train[index] for index in (7, 2)]
    monkeypatch.setattr(data.Images, "__getitem__", None)
    reader = Reader(data.subset(train, [3, 2, 7]))
    images, labels = reader.take(np.array([2, 1]))
    assert all(torch.equal(images[row], expected[row][0]) for row in (0, 1))
    assert labels.tolist() == [label.item() for _, label in expected]
    assert reader.labels().tolist() == train.labels()[[3, 2, 7]].tolist()


def test_records_are_mapped_and_not_read(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    train, _, _ = cifar.load_cifar(SMALL10, tmp_path)
    before = train[0][0]
    with (folder / "data_batch_1.bin").open("r+b") as file:
        file.seek(1)
        file.write(bytes(3072))
    assert not torch.equal(train[0][0], before)


def test_files_may_lie_in_the_named_folder_itself(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, SMALL100, form_of(SMALL100, "python"))
    assert cifar.find(SMALL100, folder).path == folder
    assert cifar.find(SMALL100, tmp_path).path == folder


def test_open_files_come_before_archives_and_records_before_pickles(
    tmp_path: pathlib.Path,
) -> None:
    binary, python = SMALL10.forms
    write(tmp_path, SMALL10, binary)
    pack(tmp_path, binary)
    folder = write(tmp_path, SMALL10, python)
    assert cifar.find(SMALL10, tmp_path).path == folder
    write(tmp_path, SMALL10, binary)
    assert cifar.find(SMALL10, tmp_path).form is binary


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_copy_says_its_name(tmp_path: pathlib.Path, packed: bool) -> None:
    form = form_of(SMALL10, "binary")
    beside = write(tmp_path, SMALL10, form)
    if packed:
        beside = pack(tmp_path, form).parent
    (beside / "NAME").write_text("CIFAR-10 (JPEG copy)\n")
    assert cifar.load_cifar(SMALL10, tmp_path)[2].label == "CIFAR-10 (JPEG copy)"
    assert cifar.load_cifar(SMALL10, tmp_path, label="other")[0].info.label == "other"


@pytest.mark.parametrize("text", ["", "two\nlines", "x" * 61, "\x1b[31mred"])
def test_name_must_be_one_short_line(tmp_path: pathlib.Path, text: str) -> None:
    folder = write(tmp_path, SMALL100, form_of(SMALL100, "binary"))
    (folder / "NAME").write_text(text)
    with pytest.raises(ValueError, match="NAME must hold one line"):
        cifar.load_cifar(SMALL100, tmp_path)


def test_other_test_labels_are_called_unofficial(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    path = folder / "test_batch.bin"
    path.write_bytes(bytes([4]) + path.read_bytes()[1:])
    assert cifar.load_cifar(SMALL10, tmp_path)[2].label == "CIFAR-10 (not the official files)"


def test_missing_files_are_named_with_sizes_and_source(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", tmp_path)
    for part in (
        str(tmp_path / "cifar10"),
        "cifar-10-binary.tar.gz",
        "University of Toronto",
        "data_batch_5.bin (30730000 bytes each)",
        "cifar-10-batches-py",
        "SPARSEFL_DATA_DIR",
    ):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"train\.bin \(153700000 bytes each\)"):
        data.locate("cifar100", tmp_path)


def test_registry_loads_by_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CIFAR", LAYOUTS)
    folder = write(tmp_path / "cifar100", SMALL100, form_of(SMALL100, "binary"))
    train, test, info = data.load("cifar100", tmp_path)
    assert (len(train), len(test), info.num_classes) == (7, 5, 100)
    assert data.locate("cifar100", tmp_path) == str(folder)
    assert data.locate("digits") == "shipped"


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + c[-9:], lambda c: b""])
def test_damaged_file_is_named(
    tmp_path: pathlib.Path, kind: str, change: Callable[[bytes], bytes]
) -> None:
    form = form_of(SMALL10, kind)
    folder = write(tmp_path, SMALL10, form)
    path = folder / form.train[2]
    content = path.read_bytes()
    changed = change(content)
    path.write_bytes(changed)
    if kind == "python" and len(changed) > len(content):
        # What follows the end of a pickle is not read.
        assert len(cifar.load_cifar(SMALL10, tmp_path)[0]) == 15
        return
    with pytest.raises(ValueError, match=path.name):
        cifar.load_cifar(SMALL10, tmp_path)


def test_label_out_of_range_is_refused(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    path = folder / "data_batch_1.bin"
    path.write_bytes(bytes([10]) + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"batches-bin: labels exceed 9: 10"):
        cifar.load_cifar(SMALL10, tmp_path)


def test_archive_is_read_up_to_what_it_should_hold(tmp_path: pathlib.Path) -> None:
    form = form_of(SMALL10, "binary")
    with tarfile.open(tmp_path / form.archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"{form.folder}/{form.test}")
        member.size = 10_000_000
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ValueError, match="10000000 bytes, too many"):
        cifar.load_cifar(SMALL10, tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_cut_archive_is_refused(tmp_path: pathlib.Path, keep: float) -> None:
    write(tmp_path, SMALL10, form_of(SMALL10, "binary"))
    path = pack(tmp_path, form_of(SMALL10, "binary"))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=path.name):
        cifar.load_cifar(SMALL10, tmp_path)


def test_archive_of_something_else_lacks_the_files(tmp_path: pathlib.Path) -> None:
    write(tmp_path, SMALL100, form_of(SMALL100, "binary"))
    packed = pack(tmp_path, form_of(SMALL100, "binary"))
    packed.rename(tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(ValueError, match=r"lacks data_batch_1\.bin, .* in cifar-10-batches-bin"):
        cifar.load_cifar(SMALL10, tmp_path)


PIXELS = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
GOOD = python2_pickle(PIXELS, b"](K\x05K\x07e", b"labels")


@dataclasses.dataclass
class Hostile:
    """Pickles as a call that makes a folder."""

    path: str

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_pickle_of_python_2_is_read() -> None:
    images, labels = read_batch(io.BytesIO(GOOD), b"labels")
    assert np.array_equal(images, PIXELS)
    assert labels.tolist() == [5, 7]


def test_columns_first_array_is_read_as_such() -> None:
    stored = GOOD.replace(b"K\x00tb\x89T", b"K\x00tb\x88T")
    images, _ = read_batch(io.BytesIO(stored), b"labels")
    assert np.array_equal(images, PIXELS.reshape(-1).reshape(2, 3072, order="F"))


# The two parts would spell a word that a spelling checker knows better.
ASKS = b"\x80\x02}(U\x04data%b" + b"U\x06labels]u."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ASKS % b"cos\nsystem\nU\x04true\x85R", "asks for os.system"),
        (ASKS % b"cposix\nsystem\n", "asks for posix.system"),
        (ASKS % b"cbuiltins\neval\nU\x011\x85R", "asks for builtins.eval"),
        (ASKS % b"c__builtin__\neval\nU\x011\x85R", "asks for __builtin__.eval"),
        (ASKS % b"(S'true'\nios\nsystem\n", "asks for os.system"),
        (ASKS % b"cnumpy\nload\nU\x01x\x85R", "asks for numpy.load"),
        (ASKS % b"cnumpy.core.multiarray\nfromfile\n", "asks for numpy.core.multiarray.fromfile"),
        (ASKS % b"cnumpy.core.multiarray\n_reconstruct.__globals__\n", "asks for"),
        (ASKS % b"cnumpy\nndarray\nK\x01\x85R", "ndarray is called"),
        (ASKS % b"cnumpy\nndarray\nK\x01\x85\x81", "no pickled CIFAR batch"),
        (ASKS % b"cnumpy\ndtype\nN}U\x05_callNs\x86b", "given a state"),
        (ASKS % b"U\x01xQ", "no pickled CIFAR batch"),
        (GOOD.replace(b"U\x02u1", b"U\x02O8"), "not of unsigned bytes"),
        (GOOD.replace(b"U\x06labels", b"U\x06labelz"), "lacks data or labels"),
        (GOOD.replace(b"K\x07e", b"J\xff\xff\xff\xffe"), "a label is not in"),
        (GOOD.replace(b"K\x07e", b"U\x01xe"), "a label is not in"),
        (pickle.dumps([1, 2], 2), "lacks data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pickle_that_asks_for_more_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_batch(io.BytesIO(content), b"labels")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_hostile_pickle_runs_in_an_ordinary_reader_alone(
    tmp_path: pathlib.Path, protocol: int
) -> None:
    made = tmp_path / "made"
    content = pickle.dumps({b"data": Hostile(str(made)), b"labels": [1]}, protocol)
    with pytest.raises(ValueError, match="no pickled CIFAR batch"):
        read_batch(io.BytesIO(content), b"labels")
    assert not made.exists()
    pickle.loads(content)
    assert made.exists()


@pytest.mark.parametrize("length", [*range(0, 200), len(GOOD) - 1])
def test_pickle_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="no pickled CIFAR batch"):
        read_batch(io.BytesIO(GOOD[:length]), b"labels")
