"""The data sets by name."""

import os

from torch.utils.data import TensorDataset

from sparsefl.data.digits import load_digits
from sparsefl.data.fashion_mnist import load_fashion_mnist
from sparsefl.data.images import Info

NAMES = ("fashion-mnist", "digits")


def load(
    name: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[TensorDataset, TensorDataset, Info]:
    """Return training data, test data and what they are.

    Args:
        name: One of ``NAMES``.
        data_dir: Where the files are; see :func:`sparsefl.data.fashion_mnist.find_folder`. The
            digits ship with the package and need none.

    Raises:
        FileNotFoundError: if the files are not there; it says what to put where.
        ValueError: if there is no such data set, or a file is damaged.
    """
    if name == "digits":
        return load_digits()
    if name == "fashion-mnist":
        return load_fashion_mnist(data_dir)
    raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
