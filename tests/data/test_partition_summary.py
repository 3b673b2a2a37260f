import numpy as np
import pytest

from sparsefl import data

LABELS = [2, 0, 2, 2, 1, 0]
PARTS = [np.array([0, 2, 4]), np.array([1]), np.array([3, 5])]


def test_counts_of_each_label_at_each_client() -> None:
    counts = data.label_counts(LABELS, PARTS)
    assert counts.tolist() == [[0, 1, 2], [1, 0, 0], [1, 0, 1]]


def test_counts_add_up_to_the_whole() -> None:
    labels = data.labels_of(data.load("digits")[0])
    parts = data.partition.dirichlet(labels, 13, 0.1, seed=2)
    assert data.label_counts(labels, parts).sum(axis=0).tolist() == np.bincount(labels).tolist()


def test_summary_shows_every_count() -> None:
    assert data.summarise(LABELS, PARTS).splitlines() == [
        "client  examples  label 0  label 1  label 2",
        "     0         3        0        1        2",
        "     1         1        1        0        0",
        "     2         2        1        0        1",
        "3 clients, 6 examples: 1 to 3 a client, median 2; 1 to 2 labels, the most frequent one "
        "72% of a client's examples on average",
    ]


def test_many_labels_and_clients_are_shortened() -> None:
    labels = np.arange(100)
    parts = data.partition.iid(labels, 25, seed=0)
    lines = data.summarise(labels, parts, most_clients=3).splitlines()
    assert lines[0].split() == ["client", "examples", "labels", "largest"]
    assert lines[1].split() == ["0", "4", "4", "25%"]
    assert lines[4] == "and 22 more clients"
    assert len(lines) == 6


def test_client_without_examples_is_shown() -> None:
    assert data.summarise(LABELS, [[], range(6)]).splitlines()[1].split() == ["0"] * 5


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="one row of ints"):
        data.label_counts([0.5], PARTS)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        data.label_counts([0, -1], PARTS)
    with pytest.raises(ValueError, match="at least one client"):
        data.summarise(LABELS, [])
