"""The data sets by name."""

from torch.utils.data import TensorDataset

from sparsefl.data import cifar
from sparsefl.data.digits import load_digits
from sparsefl.data.fashion_mnist import find_folder, load_fashion_mnist
from sparsefl.data.folders import Path
from sparsefl.data.images import Images, Info
from sparsefl.data.shakespeare import NAME as SHAKESPEARE
from sparsefl.data.shakespeare import find_text, load_shakespeare

_CIFAR = {layout.name: layout for layout in (cifar.CIFAR10, cifar.CIFAR100)}
NAMES = ("fashion-mnist", *_CIFAR, SHAKESPEARE, "digits")
# Where the data that ship with the package are.
SHIPPED = "shipped"


def load(
    name: str, data_dir: Path | None = None
) -> tuple[TensorDataset | Images, TensorDataset | Images, Info]:
    """Return training data, test data and what they are.

    Args:
        name: One of ``NAMES``.
        data_dir: Where the files are; see :func:`sparsefl.data.folders.candidates`. The digits
            ship with the package and need none.

    Raises:
        FileNotFoundError: if the files are not there; it says what to put where.
        ValueError: if there is no such data set, or a file is damaged.
    """
    _check_name(name)
    if name == "digits":
        return load_digits()
    if name == "fashion-mnist":
        return load_fashion_mnist(data_dir)
    if name == SHAKESPEARE:
        return load_shakespeare(data_dir)
    return cifar.load_cifar(_CIFAR[name], data_dir)


def locate(name: str, data_dir: Path | None = None) -> str:
    """Return the folder or archive that :func:`load` reads, ``"shipped"`` for the digits.

    Args:
        name: One of ``NAMES``.
        data_dir: As in :func:`load`.

    Raises:
        FileNotFoundError: if the files are not there; it says what to put where.
        ValueError: if there is no such data set.
    """
    _check_name(name)
    if name == "digits":
        return SHIPPED
    if name == "fashion-mnist":
        return str(find_folder(data_dir))
    if name == SHAKESPEARE:
        return str(find_text(data_dir))
    return str(cifar.find(_CIFAR[name], data_dir).path)


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
