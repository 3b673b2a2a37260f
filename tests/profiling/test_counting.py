"""Memory and bytes, against sizes known by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import Support, codec, sparsify
from sparsefl.profiling import memory, wire
from sparsefl.profiling.network import LocalStep

FLOAT = 4


def masked(model, density):
    return {
        name: Support.random(tuple(p.shape), density)
        for name, p in model.named_parameters()
        if p.dim() > 1
    }


def counted(model, optimizer, x):
    step = LocalStep.of(model, optimizer, (x,))
    step()
    return memory.count([model], step.optimizer, step.forward, step.inputs)


@pytest.mark.parametrize(("optimizer", "states"), [("sgd", 1), ("adam", 2)])
def test_weights_gradients_and_states_of_a_dense_layer(optimizer, states):
    found = counted(nn.Linear(7, 5), optimizer, torch.randn(3, 7))
    parameters = FLOAT * (7 * 5 + 5)
    steps = FLOAT * 2 if optimizer == "adam" else 0
    assert (found.parameters_bytes, found.gradients_bytes) == (parameters, parameters)
    assert found.optimizer_bytes == states * parameters + steps
    assert found.index_bytes == 0


def test_activations_are_what_the_backward_pass_needs():
    model = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 1))
    # The batch is the user's; the ReLU's output serves it and the next layer; then the output,
    # which the loss squares.
    assert counted(model, "sgd", torch.randn(3, 7)).activations_bytes == FLOAT * (3 * 11 + 3)


def test_a_sparse_layer_counts_what_it_keeps_and_its_indices():
    dense = nn.Linear(63, 65)
    sparse = sparsify(dense, masked(dense, 0.1))
    found = counted(sparse, "sgd", torch.randn(16, 63))
    assert found.parameters_bytes == FLOAT * (sparse.support.nnz + 65)
    assert found.gradients_bytes == found.optimizer_bytes == found.parameters_bytes
    assert found.index_bytes >= sparse.support.packed.nbytes + 8 * sparse.support.nnz
    assert found.total_bytes == sum(vars(found).values())


def test_tied_parameters_count_once():
    one, two = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    two.weight = one.weight
    model = nn.Sequential(one, two)
    assert counted(model, "sgd", torch.randn(2, 5)).parameters_bytes == FLOAT * 25


@pytest.mark.parametrize(
    ("layer", "kind"), [("sparse", codec.Sparse), ("sign", codec.Signs)], ids=["sparse", "sign"]
)
def test_entries_cover_the_dense_model_and_say_what_is_kept(layer, kind):
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    masks = {"0.weight": masked(dense, 0.2)["0.weight"]}
    sparse = sparsify(dense, masks, layer=layer)
    entries = wire.entries_of(sparse)
    assert set(entries) == set(dense.state_dict())
    assert {name for name, entry in entries.items() if isinstance(entry, kind)} == {"0.weight"}
    assert np.array_equal(entries["3.bias"].values, dense[3].bias.detach())
    assert wire.supports_of(entries) == {"0.weight": sparse[0].support}


def test_kept_values_are_sent_row_major():
    dense = nn.Linear(65, 63)
    support = Support.random((63, 65), 0.3)
    entry = wire.entries_of(sparsify(dense, {"weight": support}))["weight"]
    assert np.array_equal(entry.values, dense.weight.detach()[support.to_mask()])


def test_the_bytes_of_the_layers_are_those_of_the_message():
    dense = nn.Sequential(nn.Linear(63, 65), nn.Linear(65, 7))
    sparse = sparsify(dense, masked(dense, 0.1))
    schema = codec.Schema.of(dense)
    for model, numbers in (
        (dense, 63 * 65 + 65 * 7),
        (sparse, sum(layer.support.nnz for layer in sparse)),
    ):
        entries = wire.entries_of(model)
        whole = wire.message_bytes(entries, schema)
        apart = sum(wire.layer_bytes(entries, [name], schema) for name in ("0", "1"))
        assert apart <= whole <= apart + wire.message_bytes({}, schema) + 16
        # An entropy coder takes some of the exponents' bits away.
        assert 0.75 * FLOAT * (numbers + 72) <= apart <= FLOAT * (numbers + 72) + 200


def test_a_layer_of_a_longer_name_is_another():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "ab": nn.Linear(30, 30)})
    schema = codec.Schema.of(model)
    entries = wire.entries_of(model)
    assert wire.layer_bytes(entries, ["a"], schema) < FLOAT * 30 * 30


def test_setup_is_the_supports():
    supports = [Support.random((63, 65), 0.1), Support.random((7, 9), 0.5)]
    assert wire.setup_bytes(supports) == sum(len(codec.encode_support(s)) for s in supports)
