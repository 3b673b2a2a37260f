"""Changing a support: numbers, gradients and optimizer state that move along."""

import pytest
import torch
from torch import nn

from sparsefl import Support
from sparsefl.nn import SparseLinear

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
}


def dense_of(layer, stored):
    """Returns ``[nnz]`` numbers in stored order as a dense tensor."""
    out = torch.zeros(layer.support.shape)
    out[layer.support.to_mask()] = layer.row_major(stored.detach())
    return out


def step(layer, optimizer, x):
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("new_density", [0.0, 0.1, 0.3, 1.0], ids="density={}".format)
def test_kept_numbers_stay_and_new_ones_are_zero(
    case, kind, new_density, random_mask, convert, latent
):
    dense = case.make()
    shape = dense.weight.shape
    old, new = random_mask(shape, 0.5, 1), random_mask(shape, new_density, 2)
    layer = convert(dense, old, kind)
    before = dense_of(layer, latent(layer))
    layer.set_support(new)
    assert torch.equal(layer.support.to_mask(), new)
    assert torch.equal(dense_of(layer, latent(layer)), before * new)
    layer(torch.randn(case.input_shape)).sum().backward()
    assert latent(layer).grad.shape == latent(layer).shape


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_optimizer_state_moves_along(make, random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.4, 2)
    layer = SparseLinear(300, 30, old)
    optimizer = make(layer.parameters())
    x = torch.randn(7, 300)
    step(layer, optimizer, x)
    parameter = layer.values
    before = {k: v.clone() for k, v in optimizer.state[parameter].items() if v is not None}
    flat = {k: dense_of(layer, v) for k, v in before.items() if v.shape == parameter.shape}
    layer.set_support(new, optimizer=optimizer)
    assert parameter not in optimizer.state
    after = optimizer.state[layer.values]
    for name, value in before.items():
        if name in flat:
            assert torch.equal(dense_of(layer, after[name]), flat[name] * new), name
        else:
            assert torch.equal(after[name], value), name
    assert any(p is layer.values for p in optimizer.param_groups[0]["params"])
    weights = layer.weight.detach().clone()
    step(layer, optimizer, x)
    assert not torch.equal(layer.weight, weights)


def test_a_gradient_moves_along(random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.4, 2)
    layer = SparseLinear(300, 30, old)
    layer(torch.randn(7, 300)).sum().backward()
    before = dense_of(layer, layer.values.grad)
    layer.set_support(new)
    assert torch.equal(dense_of(layer, layer.values.grad), before * new)


def test_a_step_after_the_change_equals_dense_masked_training(random_mask):
    old, new = random_mask((9, 11), 0.6, 1), random_mask((9, 11), 0.5, 2)
    dense = nn.Linear(11, 9)
    layer = SparseLinear.from_dense(dense, old)
    with torch.no_grad():
        dense.weight.mul_(old)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (layer, dense)]
    for mask in (old, new):
        layer.set_support(mask, optimizers[0])
        with torch.no_grad():
            dense.weight.mul_(mask)
            for state in optimizers[1].state.values():
                if state["momentum_buffer"].shape == mask.shape:
                    state["momentum_buffer"].mul_(mask)
        for _ in range(3):
            x = torch.randn(5, 11)
            optimizers[1].zero_grad()
            dense(x).square().sum().backward()
            dense.weight.grad.mul_(mask)
            optimizers[1].step()
            step(layer, optimizers[0], x)
    torch.testing.assert_close(layer.weight, dense.weight)


def test_the_same_support_changes_nothing(random_mask):
    mask = random_mask((4, 6))
    layer = SparseLinear(6, 4, mask)
    parameter, plan = layer.values, layer.plan
    layer.set_support(Support.from_mask(mask))
    assert layer.values is parameter
    assert layer.plan is plan


def test_a_frozen_layer_stays_frozen(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6), seed=1))
    layer.values.requires_grad_(False)
    layer.set_support(random_mask((4, 6), seed=2))
    assert not layer.values.requires_grad


def test_a_forgotten_optimizer_is_told(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6), seed=1))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.set_support(random_mask((4, 6), seed=2))
    for call in (optimizer.zero_grad, optimizer.step):
        with pytest.raises(RuntimeError, match=r"replaced by set_support.*optimizer=optimizer"):
            call()


def test_an_optimizer_of_another_model_is_refused_and_nothing_changes(random_mask):
    dense = nn.Linear(6, 4)
    layer = SparseLinear.from_dense(dense, random_mask((4, 6), seed=1))
    support = layer.support
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer does not hold this layer's values.*sparsify"):
        layer.set_support(random_mask((4, 6), seed=2), optimizer)
    assert layer.support == support


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        (torch.ones(6, 4, dtype=torch.bool), ValueError, r"\(6, 4\).*\(4, 6\)"),
        (torch.ones(4, 6), TypeError, "support must be a Support or a bool tensor"),
    ],
    ids=["shape", "dtype"],
)
def test_bad_supports_are_named(support, error, message, random_mask):
    with pytest.raises(error, match=message):
        SparseLinear(6, 4, random_mask((4, 6))).set_support(support)
