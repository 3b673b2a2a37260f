"""Local training: small clients, dropout, batch norm, data that augment."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import Schedule
from sparsefl.fl.batches import stream
from sparsefl.fl.training import seeded_model, train


def flat_norm_net():
    # Batch norm of vectors refuses a batch of one in training mode.
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("sizes", [(1, 40), (1, 1), (2, 33), (17, 5)], ids=str)
def test_clients_of_few_examples_take_part(method, sizes, federation, toy):
    run = federation(method, factory=flat_norm_net, datasets=[toy.clusters(n, n) for n in sizes])
    entry = run.play(1)
    assert (entry.clients, entry.lost) == (2, 0)
    assert entry.uplink_bytes > 0


def test_a_single_example_leaves_the_running_statistics(federation, toy):
    run = federation("fedavg", factory=flat_norm_net, datasets=[toy.clusters(1, 3)])
    before = {name: value.clone() for name, value in run.state.tensors.items()}
    run.play(1)
    after = run.state.tensors
    assert torch.equal(before["2.running_mean"], after["2.running_mean"])
    assert int(after["2.num_batches_tracked"]) == 0
    assert not torch.equal(before["4.weight"], after["4.weight"])


def test_the_next_client_trains_its_batch_norm_again(federation, toy):
    run = federation("fedavg", factory=flat_norm_net)
    run.datasets = [toy.clusters(1, 3), toy.clusters(30, 4), toy.clusters(1, 5)]
    run.play(1)
    # The mean by examples of 0, 2 and 0 batches.
    assert int(run.state.tensors["2.num_batches_tracked"]) == 2
    assert not torch.equal(run.state.tensors["2.running_mean"], torch.zeros(8))


def test_batch_norm_buffers_are_counted_in_every_message(federation):
    run, plain = federation("fedavg", factory=flat_norm_net), federation("fedavg", factory=bare_net)
    for r in (run, plain):
        r.play(1)
    names = [set(codec.decode(r.broadcast(2), r.wire.schema)) for r in (run, plain)]
    added = {name.rpartition(".")[2] for name in names[0] - names[1]}
    assert {"running_mean", "running_var", "num_batches_tracked"} <= added
    uplink = [r.ledger.rounds[0].uplink_bytes for r in (run, plain)]
    assert uplink[0] - uplink[1] > 3 * 5 * (24 + 16)  # descriptors and directories alone


def bare_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


class Recorder(nn.Module):
    """Keeps the masks that dropout drew."""

    masks: list[torch.Tensor] = []  # noqa: RUF012 - one list for the model and its copies

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        mask = nn.functional.dropout(torch.ones(64), training=self.training)
        if self.training:
            self.masks.append(mask)
        return self.linear(x.flatten(1) * mask)


def test_dropout_depends_on_seed_round_and_client_alone(toy):
    data = toy.clusters(8, 1)

    def masks(seed, round, client):
        Recorder.masks.clear()
        torch.rand(seed + 3 * round + client)  # what the user drew before does not matter
        model = Recorder()
        train(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            data,
            batch_size=4,
            epochs=1,
            max_steps=None,
            generator=stream(seed, round, client),
        )
        return torch.stack(Recorder.masks)

    first = masks(0, 1, 2)
    assert torch.equal(first, masks(0, 1, 2))
    assert not torch.equal(first[0], first[1])
    others = [masks(*key) for key in [(1, 1, 2), (0, 2, 2), (0, 1, 3)]]
    assert not any(torch.equal(first, other) for other in others)


class Augmented:
    """A dataset of a user's own that draws from a global generator at each read."""

    def __init__(self, dataset, draw):
        self.dataset, self.draw = dataset, draw

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return x + self.draw(), y


DRAWS = {
    "python": random.random,
    "numpy": lambda: np.random.rand(),  # noqa: NPY002 - what users' datasets do
    "torch": lambda: torch.rand(()),
}


@pytest.mark.parametrize("source", DRAWS)
def test_one_seed_one_result_with_data_that_augment(source, small, clients, test_data):
    def play(before, noise=DRAWS[source]):
        random.seed(before)
        np.random.seed(before)  # noqa: NPY002
        torch.manual_seed(before)
        augmented = [(Augmented(train, noise), Augmented(dev, noise)) for train, dev in clients]
        result = small("fedavg", clients=augmented, test=Augmented(test_data, noise), rounds=2)
        states = (random.random(), np.random.rand(), torch.rand(()))  # noqa: NPY002
        return result, tuple(map(float, states))

    (first, drawn), (second, others) = play(1), play(2)
    assert first.model_sha256 == second.model_sha256
    assert first.accuracy == second.accuracy
    assert first.accuracy_per_client == second.accuracy_per_client
    assert drawn == play(1)[1] != others
    assert first.model_sha256 != small("fedavg", rounds=2).model_sha256


@pytest.mark.parametrize("source", DRAWS)
def test_a_factory_that_draws_from_any_generator_is_seeded(source):
    drawn = []

    def factory():
        drawn.append(float(DRAWS[source]()))
        return nn.Linear(1, 2)

    for seed in (0, 0, 2**64 - 1):
        seeded_model(factory, seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_update_that_is_not_finite_is_dropped_and_counted(small, toy, clients):
    def diverging(x, y):
        data = toy.clusters(x, y)
        data.tensors[0][0] = float("nan")
        return data

    poisoned = [*clients[:2], (diverging(20, 1), clients[2][1])]
    result = small("fedavg", clients=poisoned, schedule=Schedule(batch_size=16))
    assert [(entry.clients, entry.lost) for entry in result.ledger.rounds] == [(2, 1)] * 3
    assert all(torch.isfinite(p).all() for p in result.model.parameters())
    alone = small("fedavg", clients=[*clients[:2]], schedule=Schedule(batch_size=16))
    assert result.model_sha256 == alone.model_sha256
