"""Federated runs whose clients compute on a CUDA device, beside the same on the CPU."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl.fl import METHODS, Schedule, run
from sparsefl.nn import FrozenLinear

pytestmark = pytest.mark.gpu

CLASSES = 3
OPTIONS = {"hidenseek": {"iterations": 10}, "fedtiny": {"adjust_every": 1, "iterations": 10}}


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, CLASSES)),
    )


def clusters(examples: int, seed: int) -> TensorDataset:
    centres = torch.randn(CLASSES, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    noise = torch.randn(examples, 1, 8, 8, generator=generator)
    return TensorDataset(centres[labels] + 0.3 * noise, labels)


def play(method: str, device: str):
    return run(
        method,
        network,
        [(clusters(64, seed), clusters(16, 50 + seed)) for seed in range(3)],
        clusters(300, 99),
        density=0.5,
        rounds=4,
        options=OPTIONS.get(method),
        schedule=Schedule(batch_size=16, local_epochs=2),
        public=clusters(60, 98),
        timed_steps=2,
        device=device,
    )


@pytest.mark.parametrize("method", METHODS)
def test_clients_learn_on_the_device_what_they_learn_on_the_cpu(method):
    here, there = play(method, "cpu"), play(method, "cuda")
    assert (here.config["device"], there.config["device"]) == ("cpu", "cuda")
    assert not any(entry.lost for entry in there.ledger.rounds)
    assert {p.device.type for p in there.model.parameters()} == {"cpu"}
    assert there.accuracy > 0.5  # a third by chance
    assert abs(there.accuracy - here.accuracy) < 0.15
    down = [run.ledger.sums()["downlink_bytes"] for run in (here, there)]
    assert 0.9 * down[0] < down[1] < 1.1 * down[0]
    assert there.costs.client_step is not None


def test_one_seed_is_one_result_on_the_device():
    assert play("fedavg", "cuda").model_sha256 == play("fedavg", "cuda").model_sha256


def test_frozen_weights_have_the_bits_of_the_cpu():
    layer = FrozenLinear(70, 33, seed=5, name="fc.weight")
    assert torch.equal(layer.weight, layer.cuda().weight.cpu())
