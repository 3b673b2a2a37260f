"""load_supports changes every layer or none."""

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.nn import load_supports


@pytest.fixture
def make(random_mask):
    """Makes a model of two sparse layers, the supports drawn by a seed."""

    def two_layers(seed: int, hidden: int = 5) -> nn.Module:
        shapes = {"0.weight": (hidden, 6), "1.weight": (4, hidden)}
        masks = {name: random_mask(shape, 0.5, seed) for name, shape in shapes.items()}
        return sparsefl.sparsify(nn.Sequential(nn.Linear(6, hidden), nn.Linear(hidden, 4)), masks)

    return two_layers


def with_another_second_shape(state):
    state["1.support_shape"] = state["1.support_shape"].flip(0)
    return state


def with_a_damaged_second_bitmap(state):
    state["1.support"] = state["1.support"][:-1]
    return state


@pytest.mark.parametrize(
    ("damage", "holds", "message"),
    [
        (with_another_second_shape, slice(0, 2), r"1\.support covers shape \(5, 4\).*\(4, 5\)"),
        (with_a_damaged_second_bitmap, slice(0, 2), r"1\.support: packed must be"),
        (lambda state: state, slice(0, 1), r"optimizer does not hold 1\.values"),
    ],
    ids=["shape", "bitmap", "optimizer"],
)
def test_a_fault_in_the_second_layer_leaves_the_first(make, damage, holds, message):
    model = make(1)
    optimizer = torch.optim.SGD(model[holds].parameters(), lr=0.1)
    before = [(layer.support, layer.values) for layer in model]
    with pytest.raises(ValueError, match=message):
        load_supports(model, damage(make(2).state_dict()), optimizer)
    for layer, (support, values) in zip(model, before, strict=True):
        assert layer.support == support
        assert layer.values is values
    optimizer.step()


@pytest.fixture
def tied(random_mask):
    """Two layers with one latent, and the state of a model with another support."""
    dense = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    dense[1].weight = dense[0].weight
    models = [
        sparsefl.sparsify(dense, {"0.weight": random_mask((6, 6), 0.5, seed)}) for seed in (1, 2)
    ]
    return models[0], models[1].state_dict()


def test_different_supports_of_a_tied_weight_are_refused_and_nothing_changes(tied, random_mask):
    model, state = tied
    support, values = model[0].support, model[0].values
    third = sparsefl.Support.from_mask(random_mask((6, 6), 0.5, 3))
    state["1.support"] = torch.tensor(third.packed)
    with pytest.raises(ValueError, match=r"different supports .*: 0\.support, 1\.support"):
        load_supports(model, state)
    assert model[0].support == model[1].support == support
    assert model[0].values is model[1].values is values


def test_a_layer_tied_to_one_in_the_state_follows_it(tied):
    model, state = tied
    load_supports(model, {name: value for name, value in state.items() if name.startswith("0.")})
    assert model[0].values is model[1].values
    assert model[0].support == model[1].support
    model(torch.randn(3, 6)).sum().backward()


def test_a_layer_left_behind_takes_the_checkpoints_support_too(tied, random_mask):
    model, state = tied
    model[1].set_support(random_mask((6, 6), 0.5, 3))
    load_supports(model, state)
    assert model[0].values is model[1].values
    model.load_state_dict(state)
