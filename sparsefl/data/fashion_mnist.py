"""Fashion-MNIST from its four idx files in a local folder.

Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking
machine learning algorithms" (arXiv 1708.07747), MIT licence.
"""

import os
import pathlib

from torch.utils.data import TensorDataset

from sparsefl.data.folders import candidates
from sparsefl.data.idx import read_idx
from sparsefl.data.images import Info, as_dataset

# The Makefile unpacks Debian's package to .data, the package itself to /usr/share/datasets.
FOLDER = "fashion-mnist"
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60000),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10000),
}
_MAX_PIXEL = 255
# Of the training images, pixels scaled to [0, 1].
INFO = Info(in_shape=(1, 28, 28), num_classes=10, mean=0.2860, std=0.3530, label="Fashion-MNIST")


def find_folder(data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Return the folder that holds all four files.

    Args:
        data_dir: The folder, or its parent when the folder is named ``fashion-mnist``; see
            :func:`sparsefl.data.folders.candidates` for where else they are looked for.

    Raises:
        FileNotFoundError: if they are in none of these; it says what to put where.
    """
    folders = candidates(FOLDER, data_dir)
    names = [name for images, labels, _ in FILES.values() for name in (images, labels)]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return folder
    raise FileNotFoundError(
        f"Fashion-MNIST is in neither {' nor '.join(map(str, folders))}: put {', '.join(names)} "
        "there (in a clone, tools/fetch_fashion_mnist.sh does; on Debian, package "
        "dataset-fashion-mnist), or name their folder by data_dir or SPARSEFL_DATA_DIR"
    )


def load_fashion_mnist(
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[TensorDataset, TensorDataset, Info]:
    """Return training data (60,000 images), test data (10,000) and what they are.

    Args:
        data_dir: Where the files are; see :func:`find_folder`.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if a file is damaged or holds something else.
    """
    folder = find_folder(data_dir)
    return _read(folder, "train"), _read(folder, "test"), INFO


def _read(folder: pathlib.Path, part: str) -> TensorDataset:
    images_name, labels_name, count = FILES[part]
    images, labels = read_idx(folder / images_name), read_idx(folder / labels_name)
    for path, array, shape in (
        (folder / images_name, images, (count, *INFO.in_shape[1:])),
        (folder / labels_name, labels, (count,)),
    ):
        if array.shape != shape:
            raise ValueError(f"{path} must hold an array of shape {shape}, got {array.shape}")
    try:
        return as_dataset(images, labels, _MAX_PIXEL, INFO)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
