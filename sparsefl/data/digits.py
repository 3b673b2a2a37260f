"""The UCI digits, shipped with the package: what runs where nothing can be downloaded.

Never tune on them: rankings of methods move with the data.

Source: Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0; see DIGITS.md.
"""

import importlib.resources

import numpy as np
from torch.utils.data import TensorDataset

from sparsefl.data.images import Info, as_dataset, shuffled

TEST_EXAMPLES = 360
_MAX_PIXEL = 16
# Of the training images, pixels scaled to [0, 1].
INFO = Info(in_shape=(1, 8, 8), num_classes=10, mean=0.3051, std=0.3756, label="UCI digits")


def load_digits() -> tuple[TensorDataset, TensorDataset, Info]:
    """Return training data (1437 images), test data (360) and what they are.

    The source has no split of its own: the test images are the first 360 in the order of the stream
    ``digits-split`` of seed 0, the same for every user.
    """
    path = importlib.resources.files(__package__) / "digits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    order = shuffled(len(labels), 0, "digits-split")
    train, test = (
        as_dataset(images[part], labels[part], _MAX_PIXEL, INFO)
        for part in (np.sort(order[TEST_EXAMPLES:]), np.sort(order[:TEST_EXAMPLES]))
    )
    return train, test, INFO
