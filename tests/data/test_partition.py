from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsefl.data import partition

LABELS = np.random.Generator(np.random.Philox(5)).integers(0, 10, 1009)
SPECS = ["iid", "shards:2", "shards:7", "dirichlet:0.1", "dirichlet:.5", "dirichlet:100"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("num_clients", [1, 2, 13])
def test_every_example_falls_to_exactly_one_client(spec: str, num_clients: int) -> None:
    parts = partition.split(spec, LABELS, num_clients, seed=3)
    assert len(parts) == num_clients
    assert all(part.dtype == np.int64 and part.size for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(LABELS.size))


@pytest.mark.parametrize("spec", SPECS)
def test_seed_decides_the_partition(spec: str) -> None:
    first, again, other = (partition.split(spec, LABELS, 7, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [part.size for part in partition.iid(LABELS, 13, seed=1)]
    assert max(sizes) - min(sizes) <= 1


def test_shards_give_few_classes() -> None:
    labels = np.repeat(np.arange(10), 60)
    parts = partition.shards(labels, 10, 2, seed=1)
    assert all(np.unique(labels[part]).size <= 2 and part.size == 60 for part in parts)


def test_small_alpha_skews_and_large_alpha_balances() -> None:
    labels = np.repeat(np.arange(10), 1000)

    def share_of_largest_class(alpha: float) -> float:
        parts = partition.dirichlet(labels, 10, alpha, seed=2)
        return float(np.mean([np.bincount(labels[p]).max() / p.size for p in parts]))

    assert share_of_largest_class(1000.0) < 0.13
    assert 0.2 < share_of_largest_class(0.5) < 0.6
    assert share_of_largest_class(0.05) > 0.55


@pytest.mark.parametrize("min_samples", [1, 20, 60])
def test_every_client_gets_min_samples(min_samples: int) -> None:
    parts = partition.dirichlet(LABELS, 10, 0.5, seed=2, min_samples=min_samples)
    assert min(part.size for part in parts) >= min_samples


def test_dirichlet_leaves_absent_labels_alone() -> None:
    labels = np.array([7, 7, 7, 3, 3, 3, 900])
    parts = partition.dirichlet(labels, 2, 1.0, seed=0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(7))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: partition.iid(LABELS, 0), ValueError, "num_clients must lie"),
        (lambda: partition.iid([1, 2], 3), ValueError, "num_clients must lie"),
        (lambda: partition.iid([], 1), TypeError, "labels must be"),
        (lambda: partition.iid([0.5, 1.5], 1), TypeError, "labels must be one row of ints"),
        (lambda: partition.iid(LABELS[None], 1), TypeError, "labels must be one row of ints"),
        (lambda: partition.iid(LABELS, 2.0), TypeError, "num_clients must be an int"),
        (lambda: partition.shards([1, 2, 3], 2, 2), ValueError, "shards_per_client must lie"),
        (lambda: partition.shards(LABELS, 2, 0), ValueError, "shards_per_client must lie"),
        (lambda: partition.dirichlet(LABELS, 2, 0.0), ValueError, "alpha must be positive"),
        (lambda: partition.dirichlet(LABELS, 2, float("nan")), ValueError, "alpha must be"),
        (lambda: partition.dirichlet(LABELS, 5, 0.5, 0, 999), ValueError, "cannot give 5 clients"),
        (lambda: partition.dirichlet(LABELS, 10, 0.01, 0, 100), ValueError, "none of 1000 draws"),
        (lambda: partition.by_owner(LABELS, 999), ValueError, "num_clients must be at most"),
        (lambda: partition.split("dirichlet", LABELS, 2), ValueError, "dirichlet:ALPHA"),
        (lambda: partition.split("dirichlet:-1", LABELS, 2), ValueError, "dirichlet:ALPHA"),
        (lambda: partition.split("dirichlet:0", LABELS, 2), ValueError, "alpha must be positive"),
        (lambda: partition.split("shards:2x", LABELS, 2), ValueError, "shards:PER_CLIENT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_shards_are_those_of_mcmahan() -> None:
    labels = np.random.Generator(np.random.Philox(6)).permutation(np.repeat(np.arange(10), 6000))
    parts = partition.shards(labels, 100, 2, seed=0)
    counts = np.array([np.bincount(labels[part], minlength=10) for part in parts])
    # 200 shards of 300 images, none of two digits, as each digit fills 20 shards.
    assert set(counts.ravel().tolist()) == {0, 300, 600}
    assert (counts.sum(axis=1) == 600).all()
    assert ((counts > 0).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_dirichlet_shares_have_its_mean_and_variance(alpha: float) -> None:
    clients, classes = 10, 400
    labels = np.repeat(np.arange(classes), 1000)
    parts = partition.dirichlet(labels, clients, alpha, seed=1)
    shares = np.array([np.bincount(labels[part], minlength=classes) for part in parts]) / 1000
    # A component of Dirichlet(a, ..., a) in K dimensions has variance (K - 1) / (K^2 (K a + 1)).
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert shares.mean() == pytest.approx(1 / clients)
    assert shares.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("spec", ["iid", "shards:1", "dirichlet:1"])
def test_as_many_clients_as_examples_or_nearly(spec: str) -> None:
    parts = partition.split(spec, np.arange(3), 3 if spec != "dirichlet:1" else 2, seed=0)
    assert all(part.size >= 1 for part in parts)
