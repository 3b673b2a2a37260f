import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from sparsefl.fl.batches import Reader, batch_indices, concatenated, stream


def batches(examples, batch_size, epochs=1, max_steps=None):
    return list(batch_indices(examples, batch_size, epochs, max_steps, stream(0, 1, 2)))


@pytest.mark.parametrize(
    ("examples", "batch_size", "sizes"),
    [
        (0, 4, []),
        (1, 4, [1]),
        (4, 4, [4]),
        (5, 4, [5]),
        (6, 4, [4, 2]),
        (9, 4, [4, 5]),
        (3, 1, [1, 1, 1]),
        (2, 1, [1, 1]),
    ],
)
def test_a_last_batch_of_one_joins_the_one_before(examples, batch_size, sizes):
    found = batches(examples, batch_size)
    assert [len(batch) for batch in found] == sizes
    assert sorted(np.concatenate([*found, []]).tolist()) == list(range(examples))


def test_max_steps_stops_across_epochs():
    assert len(batches(10, 4, epochs=3, max_steps=4)) == 4
    assert len(batches(10, 4, epochs=3)) == 9


def test_order_depends_on_seed_round_and_client():
    orders = {
        (seed, round, client): stream(seed, round, client).permutation(50).tolist()
        for seed, round, client in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]
    }
    assert len({tuple(order) for order in orders.values()}) == 5
    assert orders[0, 1, 2] == stream(0, 1, 2).permutation(50).tolist()


class Squares:
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index * index


@pytest.mark.parametrize("kind", ["tensors", "subset of a subset", "own class"])
def test_take_reads_any_map_style_dataset(kind):
    whole = TensorDataset(torch.arange(7.0)[:, None], torch.arange(7) ** 2)
    dataset = {
        "tensors": whole,
        "subset of a subset": Subset(Subset(whole, [6, 5, 4, 3, 2, 1, 0]), [6, 5, 4, 3, 2, 1, 0]),
        "own class": Squares(),
    }[kind]
    inputs, labels = Reader(dataset).take(np.array([3, 0, 6]))
    assert inputs.tolist() == [[3.0], [0.0], [6.0]]
    assert labels.tolist() == [9, 0, 36]


def test_take_refuses_items_that_are_no_pairs():
    with pytest.raises(TypeError, match="pairs"):
        Reader(TensorDataset(torch.zeros(3, 2))).take(np.array([0]))


def test_concatenated_gives_everything_in_order():
    parts = list(concatenated(Squares(), 3))
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.cat([labels for _, labels in parts]).tolist() == [n * n for n in range(7)]
