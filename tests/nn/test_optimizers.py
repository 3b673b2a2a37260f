"""Optimizers around a change of support: groups, ties, saved states, schedules."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefl
from sparsefl.nn import SignLinear, SparseLinear, load_supports


@pytest.fixture
def masks(random_mask):
    return [random_mask((30, 300), 0.3, seed) for seed in range(3)]


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


def test_every_layer_of_a_model_moves_within_its_own_group(masks, random_mask):
    model = nn.Sequential(
        SparseLinear(300, 30, masks[0]), SparseLinear(30, 8, random_mask((8, 30)))
    )
    groups = [
        {"params": [model[0].bias, model[1].bias], "weight_decay": 0.0},
        {"params": [model[1].values], "lr": 0.5},
        {"params": [model[0].values]},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    x = torch.randn(4, 300)
    step(model, optimizer, x)
    state = dict(optimizer.state[model[0].bias])
    model[0].set_support(masks[1], optimizer)
    model[1].set_support(random_mask((8, 30), 0.6, 5), optimizer)
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert held == [[id(model[0].bias), id(model[1].bias)], [id(model[1].values)],
                    [id(model[0].values)]]  # fmt: skip
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.1]
    assert optimizer.state[model[0].bias] == state
    assert optimizer.state[model[1].values]["step"] == 1
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, x)
    assert all(
        not torch.equal(v, before[k]) for k, v in model.state_dict().items() if "support" not in k
    )


@pytest.mark.parametrize("kind", [SparseLinear, SignLinear])
def test_the_optimizers_state_dict_survives_a_change_of_support(kind, masks):
    layer = kind(300, 30, masks[0])
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    x = torch.randn(4, 300)
    step(layer, optimizer, x)
    layer.set_support(masks[1], optimizer)
    step(layer, optimizer, x)
    twin = kind(300, 30, masks[1])
    twin.load_state_dict(saved(layer.state_dict()))
    resumed = torch.optim.Adam(twin.parameters(), lr=0.01)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    for module, trained_by in ((layer, optimizer), (twin, resumed)):
        step(module, trained_by, x)
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


def test_a_schedule_goes_on_after_a_change_of_support(masks):
    layer = SparseLinear(300, 30, masks[0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    x = torch.randn(4, 300)
    for mask in masks[1:]:
        step(layer, optimizer, 0.01 * x)
        layer.set_support(mask, optimizer)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["params"][0] is layer.values


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(30, 30)
        self.second = nn.Linear(30, 30)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def tied(random_mask):
    model = sparsefl.sparsify(Tied(), {"first.weight": random_mask((30, 30), 0.5, 1)})
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def test_tied_layers_stay_tied_over_a_change_of_support(tied, random_mask, kind):
    model, optimizer = tied
    x = torch.randn(4, 30)
    step(model, optimizer, x)
    new = random_mask((30, 30), 0.4, 2)
    expected = model.first.weight * new
    for layer in (model.first, model.second):
        layer.set_support(new, optimizer)
    assert model.first.values is model.second.values
    assert torch.equal(model.second.weight, expected)
    assert len(optimizer.state) == len(list(model.parameters())) == 3
    step(model, optimizer, x)
    plain = sparsefl.densify(model)
    assert plain.first.weight is plain.second.weight
    torch.testing.assert_close(plain(x), model(x))


def test_load_supports_keeps_layers_tied(tied, random_mask):
    model, optimizer = tied
    other = sparsefl.sparsify(Tied(), {"first.weight": random_mask((30, 30), 0.4, 2)})
    load_supports(model, other.state_dict(), optimizer)
    model.load_state_dict(other.state_dict())
    assert model.first.values is model.second.values
    assert torch.equal(model.first.weight, other.first.weight)
    step(model, optimizer, torch.randn(4, 30))


def test_a_tied_layer_that_was_left_behind_is_told(tied, random_mask):
    model, optimizer = tied
    model.first.set_support(random_mask((30, 30), 0.4, 2), optimizer)
    with pytest.raises(RuntimeError, match="tied to it needs set_support with the same support"):
        model(torch.randn(4, 30))
    with pytest.raises(ValueError, match=r"support must be that of the layer .* tied"):
        model.second.set_support(random_mask((30, 30), 0.4, 3), optimizer)
    model.second.set_support(model.first.support)
    model(torch.randn(4, 30))


def test_a_dense_optimizers_state_does_not_fit_and_says_so(masks):
    dense = nn.Linear(300, 30)
    layer = SparseLinear.from_dense(dense, masks[0])
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold this layer's values.*before sparsify"):
        layer.set_support(masks[1], optimizer)
    with pytest.raises(ValueError, match=r"does not hold 0\.values: .*before sparsify"):
        load_supports(
            nn.Sequential(layer), nn.Sequential(copy.deepcopy(layer)).state_dict(), optimizer
        )


def test_gradients_accumulate_and_are_clipped_as_dense_ones(masks):
    dense = nn.Linear(300, 30)
    layer = SparseLinear.from_dense(dense, masks[0])
    with torch.no_grad():
        dense.weight.mul_(masks[0])
    norms = []
    for module in (layer, dense):
        for batch in torch.randn(3, 5, 300, generator=torch.Generator().manual_seed(1)):
            F.mse_loss(module(batch), torch.ones(5, 30)).backward()
        if module is dense:
            dense.weight.grad.mul_(masks[0])
        norms.append(nn.utils.clip_grad_norm_(module.parameters(), 0.1))
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(layer.row_major(layer.values.grad), dense.weight.grad[masks[0]])


def test_load_supports_reaches_frozen_layers_too(masks):
    layers = [SparseLinear(300, 30, mask) for mask in masks[:2]]
    for held in ("all", "trained"):
        model = nn.Sequential(copy.deepcopy(layers[0]))
        model[0].values.requires_grad_(False)
        parameters = [p for p in model.parameters() if held == "all" or p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        load_supports(model, nn.Sequential(layers[1]).state_dict(), optimizer)
        assert model[0].support == layers[1].support
        step(model, optimizer, torch.randn(4, 300))
