"""The step without its convolutions, on a network small enough for a test."""

import pytest
import torch
from torch import nn

from sparsefl import models
from sparsefl.bench import cap, rows
from sparsefl.nn import SparseConv2d, sparsify
from sparsefl.nn.fused import FusedForward, holds
from sparsefl.pruning import random
from sparsefl.timing import Effort

DESCRIBED = {"commit": "0" * 40, "isa": "avx2"}


def small(density: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    # Of fewer than 8 channels, oneDNN's backward pass of a strided 1x1 convolution in channels_last
    # writes beyond its scratch on AVX2 (torch 2.13): it crashes, or waits for ever.
    dense = models.build("resnet18", (3, 32, 32), 10, width=0.125)
    return dense if density == 1 else sparsify(dense, random(dense, density))


def shapes_at(names, model):
    """Lists what children give, from the model's next call on."""
    shapes = {}

    def watch(name):
        def note(module, x, y):
            shapes[name] = y.shape

        model.get_submodule(name).register_forward_hook(note)

    for name in names:
        watch(name)
    return shapes


def test_free_convolutions_give_what_autograd_and_the_norms_take():
    model = cap.without_convolutions(cap.one_weight(small()))
    assert not [m for m in model.modules() if isinstance(m, SparseConv2d)]
    plain = small()
    free = [name for name, m in model.named_modules() if isinstance(m, cap.FreeConv2d)]
    shapes = [shapes_at(free, each) for each in (model, plain)]
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    plain(torch.randn(4, 3, 32, 32))
    assert len(shapes[0]) == 20
    assert shapes[0] == shapes[1]
    fused = [m for m in model.modules() if isinstance(vars(m).get("forward"), FusedForward)]
    assert len(fused) == 9
    assert all(holds(m.forward._plan, m) for m in fused)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.weight.grad.abs().max() > 0


def test_one_weight_is_kept_a_layer():
    model = cap.one_weight(small())
    layers = [m for m in model.modules() if isinstance(m, SparseConv2d)]
    assert len(layers) == 20
    assert {layer.support.nnz for layer in layers} == {1}


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(cap, "resnet18", small)
    monkeypatch.setattr(cap, "EFFORT", Effort(warmup=0, timed=1, probes=1))
    return cap.rows(DESCRIBED)


def test_the_table_sets_what_is_reached_beside_the_cap(measured):
    assert len(list(map(rows.line, rows.by_variant(measured)))) == 6
    lines = cap.table(measured).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "convolutions that cost nothing",
        "one kept weight a layer",
        "density 0.1",
        "density 0.01",
    ]
    ratios = [row["ratio_to_dense"] for row in measured if row["provider"] != "torch_dense"]
    assert lines[4].split("|")[4].strip() == f"{ratios[2] / ratios[0]:.2f}"


def test_nothing_measured_is_said():
    assert cap.table([]) == "Not measured yet.\n"
