"""CIFAR-10 and CIFAR-100 from their official files in a local folder, packed or not.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", technical report,
University of Toronto. The page of the data sets offers a "binary version (suitable for C programs)"
and a "Python version"; both hold the same images.
"""

import io
import pathlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sparsefl.data._restricted_pickle import read_batch
from sparsefl.data.folders import Path, candidates, name_in
from sparsefl.data.images import Images, Info

Bytes = npt.NDArray[np.uint8]

_PIXELS = 3 * 32 * 32
# A pickle holds file names beside the pixels: more than this share is something else.
_PICKLE_OVERHEAD = 1.25


@dataclass(frozen=True)
class Form:
    """One of the two forms of a data set.

    Attributes:
        folder: Folder that the archive holds.
        archive: Name of the archive.
        train: Files of the training images.
        test: File of the test images.
        pickled: Whether they are pickles, else records of labels and pixels.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    pickled: bool

    @property
    def files(self) -> tuple[str, ...]:
        """All files."""
        return (*self.train, self.test)


@dataclass(frozen=True)
class Layout:
    """A data set and its files.

    Attributes:
        name: Its name here, and of its folder.
        info: Shape, classes, mean and standard deviation of the training images.
        forms: Its forms, the preferred one first.
        train_images: Images in each training file.
        test_images: Images in the test file.
        label_bytes: Bytes before the pixels of a record; the last of them is the label.
        label_key: Key of the labels in a pickle.
        first_test_labels: By which the official files are known, where we know them ourselves.
    """

    name: str
    info: Info
    forms: tuple[Form, Form]
    train_images: int
    test_images: int
    label_bytes: int
    label_key: bytes
    first_test_labels: tuple[int, ...] = ()

    def images_in(self, form: Form, file: str) -> int:
        """Return how many images one of the files holds."""
        return self.test_images if file == form.test else self.train_images


CIFAR10 = Layout(
    name="cifar10",
    info=Info(
        in_shape=(3, 32, 32),
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        label="CIFAR-10",
    ),
    forms=(
        Form(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test_batch.bin",
            pickled=False,
        ),
        Form(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            "test_batch",
            pickled=True,
        ),
    ),
    train_images=10000,
    test_images=10000,
    label_bytes=1,
    label_key=b"labels",
    first_test_labels=(3, 8, 8, 0, 6, 6, 1, 6, 3, 1),
)
# The fine labels; a record has the coarse one before it.
CIFAR100 = Layout(
    name="cifar100",
    info=Info(
        in_shape=(3, 32, 32),
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        label="CIFAR-100",
    ),
    forms=(
        Form("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), "test.bin", False),
        Form("cifar-100-python", "cifar-100-python.tar.gz", ("train",), "test", True),
    ),
    train_images=50000,
    test_images=10000,
    label_bytes=2,
    label_key=b"fine_labels",
)


@dataclass(frozen=True)
class Found:
    """Where a data set is.

    Attributes:
        path: The folder that holds the files, or the archive.
        form: What is in it.
    """

    path: pathlib.Path
    form: Form


def find(layout: Layout, data_dir: Path | None = None) -> Found:
    """Return where the files are: those in the open before archives, records before pickles.

    Args:
        layout: The data set.
        data_dir: A folder that holds the files, their official folder or the archive, or its
            parent when it is named ``cifar10`` or ``cifar100``; see
            :func:`sparsefl.data.folders.candidates` for where else they are looked for.

    Raises:
        FileNotFoundError: if they are in none of these; it says what to put where.
    """
    roots = candidates(layout.name, data_dir)
    for root in roots:
        for form in layout.forms:
            for folder in (root, root / form.folder):
                if all((folder / name).is_file() for name in form.files):
                    return Found(folder, form)
        for form in layout.forms:
            if (root / form.archive).is_file():
                return Found(root / form.archive, form)
    binary, python = layout.forms
    record = layout.label_bytes + _PIXELS
    raise FileNotFoundError(
        f"{layout.info.label} is in neither {' nor '.join(map(str, roots))}: put there the archive "
        f"{binary.archive} or {python.archive} of Krizhevsky's page at the University of Toronto "
        f"(about 170 MB, it need not be unpacked), or the folder {binary.folder} with "
        f"{', '.join(binary.train)} ({layout.train_images * record} bytes each) and {binary.test} "
        f"({layout.test_images * record} bytes), or {python.folder} with "
        f"{', '.join(python.files)}; or name their folder by data_dir or SPARSEFL_DATA_DIR"
    )


def load_cifar(
    layout: Layout, data_dir: Path | None = None, label: str | None = None
) -> tuple[Images, Images, Info]:
    """Return training data (50,000 images), test data (10,000) and what they are.

    Files of records are mapped into memory, all else is read.

    Args:
        layout: ``CIFAR10`` or ``CIFAR100``.
        data_dir: Where the files are; see :func:`find`.
        label: What reports call the data. Without it the line in a file ``NAME`` beside them, and
            without that the data set's name, marked as no official copy where its test labels are
            not the known ones.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if a file is damaged or holds something else.
    """
    found = find(layout, data_dir)
    parts = _read(layout, found)
    form = found.form
    label = label or name_in(found.path if found.path.is_dir() else found.path.parent)
    if label is None:
        label = layout.info.label
        known = layout.first_test_labels
        if known and tuple(parts[form.test][1][: len(known)]) != known:
            label += " (not the official files)"
    info = replace(layout.info, label=label)
    try:
        train, test = (
            Images([parts[f][0] for f in files], np.concatenate([parts[f][1] for f in files]), info)
            for files in (form.train, (form.test,))
        )
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from error
    return train, test, info


def _read(layout: Layout, found: Found) -> dict[str, tuple[Bytes, Bytes]]:
    """Return pixels ``[n, 3072]`` and labels ``[n]`` of each file."""
    parts: dict[str, tuple[Bytes, Bytes]] = {}
    for name, size, file in _open_files(layout, found):
        count = layout.images_in(found.form, name)
        try:
            if found.form.pickled:
                parts[name] = read_batch(file, layout.label_key)
            else:
                parts[name] = _records(layout, file, size, count)
            images, labels = parts[name]
            if images.shape != (count, _PIXELS) or labels.shape != (count,):
                raise ValueError(
                    f"holds images {list(images.shape)} and {len(labels)} labels, expected {count} "
                    f"of {_PIXELS} bytes"
                )
        except ValueError as error:
            raise ValueError(f"{found.path}: {name}: {error}") from error
    return parts


def _open_files(layout: Layout, found: Found) -> Iterator[tuple[str, int, BinaryIO]]:
    """Yield name, size in bytes and content of each file, in the archive's order."""
    form = found.form
    if found.path.is_dir():
        for name in form.files:
            path = found.path / name
            with path.open("rb") as file:
                yield name, path.stat().st_size, file
        return
    missing = set(form.files)
    try:
        with tarfile.open(found.path, "r:gz") as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if folder != form.folder or name not in missing or not member.isreg():
                    continue
                most = (layout.label_bytes + _PIXELS) * layout.images_in(form, name)
                if member.size > _PICKLE_OVERHEAD * most:
                    raise ValueError(f"{found.path}: {name} has {member.size} bytes, too many")
                content = tar.extractfile(member)
                assert content is not None
                missing.remove(name)
                yield name, member.size, io.BytesIO(content.read())
                if not missing:
                    return
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{found.path}: {error}") from error
    raise ValueError(f"{found.path} lacks {', '.join(sorted(missing))} in {form.folder}")


def _records(layout: Layout, file: BinaryIO, size: int, count: int) -> tuple[Bytes, Bytes]:
    """Return pixels and labels of a file of records: labels, then red, green and blue planes."""
    record = layout.label_bytes + _PIXELS
    if size != count * record:
        raise ValueError(f"has {size} bytes, expected {count * record}: {count} of {record}")
    rows: Bytes
    if isinstance(file, io.BytesIO):
        rows = np.frombuffer(file.getbuffer(), np.uint8)
    else:
        rows = np.memmap(file, np.uint8, "r")
    rows = rows.reshape(count, record)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1].copy()
