"""The tables of whole networks, on networks small enough for a test."""

import pytest
import torch
from torch import nn

from sparsefl import models
from sparsefl.bench import goals, networks, rows
from sparsefl.timing import Effort

DESCRIBED = dict.fromkeys(rows.CONTEXT, "here")


@pytest.fixture
def tiny(monkeypatch):
    """Put a small network in ResNet-18's place, and take two steps of it."""

    def small(density: float) -> nn.Module:
        torch.manual_seed(0)
        dense = models.build("lenet", networks.IMAGE, networks.CLASSES)
        if density == 1:
            return dense
        return networks.sparsify(dense, networks.pruning.random(dense, density))

    monkeypatch.setattr(networks, "resnet18", small)
    for effort in ("STEP_EFFORT", "FROZEN_EFFORT"):
        monkeypatch.setattr(networks, effort, Effort(warmup=0, timed=2, probes=1))
    monkeypatch.setattr(networks, "BATCH", 4)
    monkeypatch.setattr(networks, "FROZEN_BATCH", 4)


@pytest.mark.usefixtures("tiny")
def test_step_table_has_every_density_and_both_peers():
    cells = list(goals.cells(networks.step_rows(DESCRIBED)))
    assert {(c.peer, c.density) for c in cells} == {
        (peer, density)
        for peer in ("torch_dense", "torch_bf16")
        for density in (0.2, 0.1, 0.05, 0.01)
    }


@pytest.mark.usefixtures("tiny")
def test_frozen_table_compares_time_and_activations(monkeypatch):
    monkeypatch.setattr(networks, "FROZEN_LAYERS", {"vgg11": ("conv5,conv7",)})
    plain, ours = networks.frozen_rows(DESCRIBED)
    assert (plain["provider"], ours["provider"]) == ("torch_dense", "sparsefl")
    assert set(ours["ratios"]) == {"step", "activations"}
    # Both lie behind a pool, whose output nothing else keeps.
    assert ours["activation_bytes"] < plain["activation_bytes"]


def test_frozen_pair_differs_in_the_layer_alone():
    plain, ours, share = networks.frozen_pair("cnn", "fc1")
    assert not plain.get_parameter("fc1.weight").requires_grad
    assert type(ours.get_submodule("fc1")).__name__ == "FrozenLinear"
    assert torch.equal(plain.get_parameter("conv1.weight"), ours.get_parameter("conv1.weight"))
    assert 0.9 < share < 1


def test_peak_is_of_a_fresh_process(monkeypatch):
    monkeypatch.setattr(networks, "peak_elsewhere", lambda density, threads: int(1000 * density))
    cells = list(goals.cells(networks.memory_rows(DESCRIBED)))
    assert [(c.density, round(c.mean, 6)) for c in cells] == [(0.1, 0.1), (0.01, 0.01)]
