from typing import Any

import numpy as np
import pytest

from sparsefl import data

LABELS = np.random.Generator(np.random.Philox(9)).integers(0, 7, 211)


@pytest.mark.parametrize("size", [1, 2, 3, 9, 10, 30, 211])
@pytest.mark.parametrize(("dev", "test"), [(0.1, 0.0), (0.1, 0.1), (0.3, 0.6), (0.0, 0.0)])
def test_every_example_is_in_one_part(size: int, dev: float, test: float) -> None:
    split = data.local_split(LABELS[:size], dev, test, seed=4)
    parts = (split.train, split.dev, split.test)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(size))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert split.train.size
    assert (split.dev.size, split.test.size) == (
        int(size * round(10 * dev)) // 10,
        int(size * round(10 * test)) // 10,
    )


def test_classes_are_divided_alike() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 30, 20])
    split = data.local_split(labels, dev=0.1, test=0.2, seed=1)
    assert np.bincount(labels[split.dev]).tolist() == [10, 5, 3, 2]
    assert np.bincount(labels[split.test]).tolist() == [20, 10, 6, 4]
    assert np.bincount(labels[split.train]).tolist() == [70, 35, 21, 14]


def test_remainders_go_to_the_classes_that_lack_most() -> None:
    # Quotas of 3 examples: 1.5, .9, .6.
    labels = np.repeat([5, 2, 9], [15, 9, 6])
    dev = data.local_split(labels, dev=0.1, seed=0).dev
    assert np.bincount(labels[dev], minlength=10)[[5, 2, 9]].tolist() == [1, 1, 1]


def test_shares_of_all_classes_stay_within_one_example() -> None:
    split = data.local_split(LABELS, dev=0.25, seed=2)
    quotas = np.bincount(LABELS) * 52 / 211
    assert (abs(np.bincount(LABELS[split.dev]) - quotas) < 1).all()


def test_seed_decides() -> None:
    first, again, other = (data.local_split(LABELS, 0.2, 0.2, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.dev, again.dev)
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.dev, other.dev)


def test_split_is_the_same_on_every_machine() -> None:
    assert data.local_split(LABELS[:30], 0.1, 0.1, seed=0).dev.tolist() == [0, 8, 13]


@pytest.mark.parametrize(
    ("labels", "shares", "error", "message"),
    [
        ([], (0.1, 0.1), ValueError, "at least one example"),
        ([0.5, 1.0], (0.1, 0.1), TypeError, "one row of ints"),
        ([[1, 2]], (0.1, 0.1), TypeError, "one row of ints"),
        ([1, 2], (0.5, 0.5), ValueError, "below 1 together"),
        ([1, 2], (-0.1, 0.5), ValueError, "in \\[0, 1\\)"),
        ([1, 2], (float("nan"), 0.5), ValueError, "in \\[0, 1\\)"),
    ],
)
def test_bad_arguments_are_named(
    labels: Any, shares: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        data.local_split(labels, *shares)
