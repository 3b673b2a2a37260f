"""How a client divides its own examples into training, development and test data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsefl import random

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LocalSplit:
    """Positions among a client's examples: sorted, in no part twice, together all.

    Attributes:
        train: To train on; never empty.
        dev: To choose settings and statistics by.
        test: To report a personalised model's accuracy on.
    """

    train: IndexArray
    dev: IndexArray
    test: IndexArray


def local_split(
    labels: npt.ArrayLike, dev: float = 0.1, test: float = 0.0, seed: int = 0
) -> LocalSplit:
    """Divide a client's examples, each class alike as far as whole examples allow.

    Development and test data are ``floor(dev * n)`` and ``floor(test * n)`` examples; the classes
    get these by largest remainder. So a client of few examples keeps them all for training: below
    ``1 / dev`` it has no development data, and a single example is always trained on.

    Args:
        labels: Labels of the client's own examples, ``[n]`` of ints, ``n >= 1``.
        dev: Share of the development data.
        test: Share of the test data.
        seed: One seed, one split; give each client its own.

    Raises:
        TypeError: if labels are no ints.
        ValueError: if there are none, or the shares are not in [0, 1) with a sum below 1.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise TypeError(f"labels must be one row of ints, got {array.dtype} {list(array.shape)}")
    if not array.size:
        raise ValueError("labels must be those of at least one example, got none")
    if not (0 <= dev < 1 and 0 <= test < 1 and dev + test < 1):
        raise ValueError(f"dev and test must be in [0, 1) and below 1 together, got {dev}, {test}")
    generator = random.generator(seed, "local split")
    classes = [generator.permutation(np.flatnonzero(array == c)) for c in np.unique(array)]
    parts = {}
    for name, share in (("test", test), ("dev", dev)):
        # Of the whole, in integers where .1 of 30 is 2.9999999999999996.
        total = int(np.floor(share * array.size + 1e-9))
        counts = _apportion(total, [len(members) for members in classes])
        taken = [members[:count] for members, count in zip(classes, counts, strict=True)]
        classes = [members[count:] for members, count in zip(classes, counts, strict=True)]
        parts[name] = _joined(taken)
    return LocalSplit(_joined(classes), parts["dev"], parts["test"])


def _apportion(total: int, sizes: list[int]) -> list[int]:
    """Divide ``total <= sum(sizes)`` in proportion to ``sizes``, by largest remainder.

    Of equal remainders the larger class comes first, then the one of the lower label.
    """
    everything = sum(sizes)
    counts = [total * size // everything for size in sizes]
    order = sorted(
        range(len(sizes)), key=lambda i: (-(total * sizes[i] % everything), -sizes[i], i)
    )
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _joined(pieces: list[IndexArray]) -> IndexArray:
    return np.sort(np.concatenate(pieces)).astype(np.int64)
