"""Small federations: three clusters in a plane of pixels, a few clients, tiny models."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl import codec
from sparsefl.fl import METHODS, Federation, Result, Schedule, Task, load_method, run
from sparsefl.fl.pool import Mean, Pool

PIXELS = (1, 8, 8)
CLASSES = 3


def clusters(examples: int, seed: int) -> TensorDataset:
    prototypes = torch.randn(CLASSES, *PIXELS, generator=torch.Generator().manual_seed(77))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    noise = 0.4 * torch.randn(examples, *PIXELS, generator=generator)
    return TensorDataset(prototypes[labels] + noise, labels)


def tiny_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 24),
        nn.ReLU(),
        nn.Linear(24, CLASSES),
    )


def tiny_norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(384, CLASSES),
    )


@pytest.fixture
def toy() -> SimpleNamespace:
    return SimpleNamespace(
        pixels=PIXELS, classes=CLASSES, clusters=clusters, cnn=tiny_cnn, norm_net=tiny_norm_net
    )


@pytest.fixture
def clients() -> list[tuple[TensorDataset, TensorDataset]]:
    """Clients of uneven size; the third has a single example left over in its last batch."""
    return [(clusters(n, seed), clusters(9, 100 + seed)) for seed, n in enumerate((40, 24, 33))]


@pytest.fixture
def test_data() -> TensorDataset:
    return clusters(200, 999)


# ADP has nothing to gate in these networks; test_adp.py plays it on one of its own.
@pytest.fixture(params=[name for name in METHODS if name != "adp"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def federation(clients) -> Callable[..., Federation]:
    """Returns a builder of federations that can be played round by round."""

    def build(method: str, factory=tiny_cnn, seed: int = 0, datasets=None, **options) -> Federation:
        chosen = load_method(method)
        # SynFlow's hundred steps are its own test's matter.
        options = ({"iterations": 10} if method == "hidenseek" else {}) | options
        example = torch.zeros(1, *PIXELS)
        task = Task(factory, example, seed, 0.3, chosen.with_defaults(options), rounds=20)
        data = [train for train, _ in clients] if datasets is None else datasets
        return Federation(chosen, task, data, Schedule(batch_size=16))

    return build


@pytest.fixture
def mean_of() -> Callable[[Federation, list[tuple[float, codec.Update]]], Mean]:
    """Returns what makes the mean of clients' updates as a server gets it, from messages."""

    def pooled(run: Federation, updates: list[tuple[float, codec.Update]]) -> Mean:
        wire = run.wire
        pool = Pool(wire.schema, wire.supports, ())
        for weight, update in updates:
            message = codec.encode(update, wire.schema, base=wire.supports)
            pool.add(message, weight, wire.supports)
        return pool.mean()

    return pooled


@pytest.fixture
def small(toy, clients, test_data) -> Callable[..., Result]:
    """Returns a run of three clients, three rounds, one seed; arguments change it."""

    def play(method: str, **arguments) -> Result:
        defaults = {
            "model": toy.cnn,
            "clients": clients,
            "test": test_data,
            "density": 0.3,
            "rounds": 3,
            "timed_steps": 0,
            "schedule": Schedule(batch_size=16),
        }
        return run(method, **(defaults | arguments))

    return play


@pytest.fixture
def fedtiny_run(toy, clients):
    """Returns a builder of FedTiny federations; every client takes part."""

    def build(
        factory=toy.cnn,
        density=0.3,
        public=True,
        schedule=None,
        datasets=None,
        capabilities=(),
        **options,
    ):
        method = load_method("fedtiny")
        task = Task(
            factory,
            torch.zeros(1, *toy.pixels),
            0,
            density,
            method.with_defaults(options),
            rounds=20,
            public=toy.clusters(40, 55) if public else None,
        )
        trains, devs = zip(*(clients if datasets is None else datasets), strict=True)
        schedule = schedule or Schedule(batch_size=16)
        return Federation(method, task, trains, schedule, devs=devs, capabilities=capabilities)

    return build
