"""Own data and own models: what works, and how the rest is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from sparsefl.fl import Schedule


class Converted:
    """A dataset of a user's own: each item of another one, changed."""

    def __init__(self, dataset, label=lambda y: y, x=lambda x: x):
        self.dataset, self.label, self.x = dataset, label, x

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        x, y = self.dataset[index]
        return self.x(x), self.label(y)


def converted(clients, **change):
    return [tuple(Converted(part, **change) for part in parts) for parts in clients]


@pytest.fixture
def play(small, clients, test_data):
    """Returns two rounds of FedAvg on converted data."""

    def run(clients=clients, test=test_data, method="fedavg", **arguments):
        return small(method, **{"clients": clients, "test": test, "rounds": 2, **arguments})

    return run


@pytest.mark.parametrize(
    "change",
    [
        {"label": int},
        {"label": lambda y: np.int32(y)},
        {"label": lambda y: np.uint8(y)},
        {"label": lambda y: np.asarray(int(y))},
        {"label": lambda y: torch.tensor(int(y), dtype=torch.int16)},
        {"x": lambda x: x.numpy()},
        {"x": lambda x: x.numpy().astype(np.float64)},
        {"x": lambda x: x.double()},
    ],
    ids=["int", "int32", "uint8", "0-d array", "0-d int16", "numpy", "numpy float64", "float64"],
)
def test_equal_data_of_any_type_give_the_same_model(change, play, clients, test_data):
    plain = play()
    other = play(converted(clients, **change), Converted(test_data, **change))
    assert other.model_sha256 == plain.model_sha256
    assert other.accuracy == plain.accuracy


def without_seconds(value):
    """Returns a report without what is measured."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if not k.endswith("_s")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_numbers_of_numpy_are_those_of_python(play, tmp_path):
    def numbers(whole, real):
        return {
            "rounds": whole(2),
            "seed": whole(3),
            "evaluate_every": whole(1),
            "timed_steps": whole(0),
            "threads": whole(1),
            "checkpoint_every": whole(2),
            "density": real(0.25),
            "capabilities": np.array([1.0, 0.5, 0.5], real)
            if real is np.float32
            else [1, 0.5, 0.5],
            "options": {"lr": real(0.125), "pool_size": whole(2), "iterations": whole(5)},
            "schedule": Schedule(whole(2), whole(16), local_epochs=whole(1), local_steps=whole(3)),
        }

    plain = play(method="fedtiny", **numbers(int, float))
    given = numbers(np.int64, np.float32)
    other = play(method="fedtiny", **given, checkpoint=tmp_path / "checkpoint")
    assert other.model_sha256 == plain.model_sha256
    other.save(tmp_path)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert without_seconds(saved) == without_seconds(plain.report())
    play(method="fedtiny", **given, checkpoint=tmp_path / "checkpoint", resume=True)


def test_half_precision_inputs_become_the_models(play, clients):
    result = play(converted(clients, x=lambda x: x.half()))
    assert result.accuracy > 0.3


def test_a_float64_model_gets_float64_inputs(play, toy):
    result = play(model=lambda: toy.cnn().double())
    assert next(result.model.parameters()).dtype == torch.float64


def chained(dataset):
    half = len(dataset) // 2
    return ConcatDataset(
        [Subset(dataset, range(half)), Converted(Subset(dataset, range(half, len(dataset))))]
    )


def shuffled_back(dataset):
    """Returns the same examples in the same order, through two subsets and tensors."""
    order = np.random.Generator(np.random.Philox(3)).permutation(len(dataset))
    return Subset(Subset(dataset, order.tolist()), np.argsort(order).tolist())


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        chained,
        shuffled_back,
        lambda data: ConcatDataset([data]),
        lambda data: TensorDataset(data.tensors[0], data.tensors[1].int()),
    ],
    ids=["list", "chain", "subsets", "chain of one", "int32 labels"],
)
def test_equal_examples_in_any_container_give_the_same_model(wrap, play, clients, test_data):
    wrapped = [tuple(wrap(part) for part in parts) for parts in clients]
    assert play(wrapped, wrap(test_data)).model_sha256 == play().model_sha256


def test_a_subset_that_transforms_is_read_by_its_items(play, clients):
    class Negated(Subset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return -x, y

        def __getitems__(self, indices):
            return [self[index] for index in indices]

    negated = [(Negated(train, range(len(train))), dev) for train, dev in clients]
    explicit = [(TensorDataset(-train.tensors[0], train.tensors[1]), dev) for train, dev in clients]
    assert play(negated).model_sha256 == play(explicit).model_sha256


def test_tokens_reach_an_embedding_as_integers(play):
    def tokens(examples, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(20, (examples, 5), generator=generator)
        return TensorDataset(x, (x[:, 0] > 9).long())

    def net():
        return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(40, 8), nn.Linear(8, 2))

    result = play([(tokens(40, 1), tokens(9, 2))], tokens(50, 3), model=net, rounds=8)
    assert result.accuracy > 0.6


def test_a_model_that_reads_pixels_gets_them(play, toy, clients, test_data):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toy.cnn()

        def forward(self, x):
            return self.net(x.float() / 32)

    def pixels(x):
        return (x * 32).round().clamp(0, 255).to(torch.uint8)

    result = play(
        converted(clients, x=pixels), Converted(test_data, x=pixels), model=Scaled, rounds=4
    )
    assert result.ledger.rounds[-1].loss < result.ledger.rounds[0].loss


def test_pixels_are_refused_with_the_remedy(play, clients):
    with pytest.raises(ValueError, match=r"uint8 \[1, 1, 8, 8\].*x.float\(\) / 255"):
        play(converted(clients, x=lambda x: x.to(torch.uint8)))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])

    def __len__(self):
        return 4


def replaced(clients, number, part, dataset):
    changed = [list(parts) for parts in clients]
    changed[number][part] = dataset
    return changed


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda data: Stream(), TypeError, r"clients\[1\] train is an IterableDataset \(Stream\)"),
        (lambda data: iter(data), TypeError, r"clients\[1\] train must be a map-style dataset"),
        (lambda data: data.tensors, TypeError, r"clients\[1\] train: .*TensorDataset\(inputs, lab"),
        (
            lambda data: TensorDataset(data.tensors[0]),
            TypeError,
            r"clients\[1\] train: dataset items must be \(input, label\) pairs",
        ),
        (
            lambda data: TensorDataset(data.tensors[0], data.tensors[1] + 1),
            ValueError,
            r"clients\[1\] train has label 3, the model's classes are 0..2",
        ),
        (
            lambda data: Subset(TensorDataset(data.tensors[0], data.tensors[1] - 1), range(20)),
            ValueError,
            r"clients\[1\] train has label -1",
        ),
        (
            lambda data: Converted(data, label=lambda y: 7),
            ValueError,
            r"clients\[1\] train has label 7",
        ),
        (
            lambda data: TensorDataset(data.tensors[0], data.tensors[1].float()),
            TypeError,
            r"clients\[1\] train: labels must be integers.*float32",
        ),
        (
            lambda data: Converted(data, label=lambda y: nn.functional.one_hot(y, 3)),
            ValueError,
            r"one class number an example, got shape \[3\]",
        ),
    ],
    ids=["stream", "iterator", "arrays", "no label", "3", "-1", "7", "float", "one-hot"],
)
def test_data_that_cannot_serve_are_refused_by_name(make, error, says, play, clients):
    with pytest.raises(error, match=says):
        play(replaced(clients, 1, 0, make(clients[1][0])))


@pytest.mark.parametrize("part", ["dev", "test", "server's dev", "server's test"])
def test_labels_of_held_out_data_are_checked_too(part, play, clients, toy):
    good = toy.clusters(9, 1)
    wrong = TensorDataset(good.tensors[0], good.tensors[1] + 9)
    arguments = {
        "dev": {"clients": replaced(clients, 2, 1, wrong)},
        "test": {"clients": [(*clients[0], wrong)]},
        "server's dev": {"dev": wrong},
        "server's test": {"test": wrong},
    }[part]
    with pytest.raises(ValueError, match=rf"{part.split()[-1]} has label \d+, the model's"):
        play(**arguments)


ONE = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("net", "error", "says"),
    [
        (lambda: nn.Conv2d(1, 3, 8), ValueError, r"\[1, 3, 1, 1\] for inputs \[1, 1, 8, 8\]"),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(64, 3)), ValueError, r"it gave \[3\]"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), ValueError, "at least two classes"),
        (
            lambda: nn.Linear(5, 3),
            ValueError,
            r"cannot take .*, float32 \[1, 1, 8, 8\]",
        ),
        (Pair, TypeError, "tensor of scores, it gave tuple"),
        (lambda: 3, TypeError, "factory of nn.Module"),
        (lambda: ONE, ValueError, "model must build a new module .* gave the same module twice"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 1), ONE),
            ValueError,
            "model must build a new module .* gave the same parameter '1.1.weight' twice",
        ),
    ],
    ids=["map", "no batch", "one class", "shape", "tuple", "no module", "one module", "one layer"],
)
def test_models_that_cannot_serve_are_refused_by_name(net, error, says, play):
    with pytest.raises(error, match=says):
        play(model=net)


def test_a_client_whose_disk_is_gone_is_lost_and_not_the_run(play, clients, caplog):
    def gone(_):
        raise OSError("disk gone")

    result = play(replaced(clients, 2, 0, Converted(clients[2][0], x=gone)))
    assert [(entry.clients, entry.lost) for entry in result.ledger.rounds] == [(2, 1), (2, 1)]
    assert "clients[2] train: its first example cannot be read: disk gone" in caplog.text


def test_clients_are_judged_by_their_test_data_where_they_have_any(play, clients, toy):
    class Solved(nn.Module):
        """Gives away the label that the first pixel holds."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(1, 1)

        def forward(self, x):
            guess = nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).float()
            return guess + 0 * self.scale(x[:, 0, 0, :1])

    def labelled(dataset, shift):
        x, y = (tensor.clone() for tensor in dataset.tensors)
        x[:, 0, 0, 0] = (y + shift) % 3
        return TensorDataset(x, y)

    right, wrong = labelled(clients[0][1], 0), labelled(clients[0][1], 1)
    train = labelled(clients[0][0], 0)
    clients = [(train, right), (train, wrong), (train, wrong, right), (train, right, wrong)]
    judged = [play([parts], right, model=Solved).accuracy_per_client["mean"] for parts in clients]
    assert judged == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("count", [1, 4])
def test_clients_have_two_or_three_datasets(count, play, clients):
    with pytest.raises(ValueError, match=r"\(train, dev\) or \(train, dev, test\)"):
        play([[clients[0][0]] * count])
