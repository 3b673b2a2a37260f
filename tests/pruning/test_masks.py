import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import sparsefl
from sparsefl import models
from sparsefl.pruning import erdos_renyi, left_dense, magnitude, random, synflow


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 50))


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def test_magnitude_keeps_the_largest_of_all_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[0.1, -5.0], [2.0, 0.2]])
    model[1].weight.data = torch.tensor([[3.0, -0.3]])
    masks = magnitude(model, 0.5)
    assert masks["0.weight"].tolist() == [[False, True], [True, False]]
    assert masks["1.weight"].tolist() == [[True, False]]


def test_magnitude_by_layer_keeps_the_share_of_each():
    masks = magnitude(net(), 0.25, scope="layer")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "0.weight": round(0.25 * 216),
        "3.weight": round(0.25 * 14400),
    }


def test_random_masks_repeat_with_the_seed_and_differ_without():
    a, b, c = random(net(), 0.1, seed=4), random(net(), 0.1, seed=4), random(net(), 0.1, seed=5)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["3.weight"], c["3.weight"])
    assert int(a["3.weight"].sum()) == 1440


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kernel", [True, False], ids=["erk", "er"])
def test_erdos_renyi_meets_the_density_and_keeps_small_layers_denser(density, kernel):
    masks = erdos_renyi(net(), density, kernel=kernel)
    total = sum(mask.numel() for mask in masks.values())
    assert kept(masks) == round(density * total)
    share = {name: mask.float().mean().item() for name, mask in masks.items()}
    assert share["0.weight"] >= share["3.weight"]


def test_erdos_renyi_layer_counts_follow_the_formula():
    model = nn.Sequential(nn.Linear(100, 300), nn.Linear(300, 10))
    masks = erdos_renyi(model, 0.02)
    first, second = (int(mask.sum()) for mask in masks.values())
    assert first / second == pytest.approx(400 / 310, rel=0.01)


def test_what_a_full_layer_cannot_take_goes_to_the_others():
    model = nn.Sequential(nn.Linear(100, 300), nn.Linear(300, 10), nn.Linear(10, 2))
    first, second, third = (int(mask.sum()) for mask in erdos_renyi(model, 0.1).values())
    assert third == 20
    assert first + second == round(0.1 * 33020) - 20
    assert first / second == pytest.approx(400 / 310, rel=0.01)


def test_erdos_renyi_by_magnitude_keeps_the_largest_of_each_layer():
    model = net()
    drawn = erdos_renyi(model, 0.1)
    for name, mask in erdos_renyi(model, 0.1, select="magnitude").items():
        weight = model.get_parameter(name).detach().abs()
        assert int(mask.sum()) == int(drawn[name].sum())
        assert bool(mask.all()) or weight[mask].min() >= weight[~mask].max()


def test_bad_scope_and_density_are_named():
    with pytest.raises(ValueError, match="scope"):
        magnitude(net(), 0.5, scope="row")
    with pytest.raises(ValueError, match="density"):
        random(net(), 0.0)
    with pytest.raises(ValueError, match="select"):
        erdos_renyi(net(), 0.5, select="largest")


def test_depthwise_layers_stay_dense_and_are_named():
    model = models.mobilenet(width=0.125)
    left = left_dense(model)
    assert left == {f"block{i}.depthwise": "depthwise" for i in range(1, 14)}
    assert not set(random(model, 0.5)) & {f"{name}.weight" for name in left}
    assert "block1.pointwise.weight" in random(model, 0.5)


def test_grouped_and_single_channel_convolutions_are_pruned():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, groups=2))
    assert left_dense(model) == {}
    assert list(random(model, 0.5)) == ["0.weight", "1.weight"]


class Odd(nn.Module):
    """Weights of kinds that pruning does not know, norms, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.memory = nn.LSTM(3, 4)
        self.norm = nn.LayerNorm([3, 4])
        self.scales = nn.BatchNorm1d(4)
        self.hooked = parametrizations.weight_norm(nn.Linear(4, 4))
        self.pruned = prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)
        self.fc = nn.Linear(4, 2)


def test_layers_that_cannot_be_pruned_are_named():
    model = Odd()
    assert left_dense(model) == {
        "table": "Embedding unsupported",
        "memory": "LSTM unsupported",
        "hooked": "its weight is computed by a parametrization or a hook",
        "pruned": "pruned by torch.nn.utils.prune already: call prune.remove first",
    }
    assert list(random(model, 0.5)) == ["fc.weight"]


def test_nothing_to_prune_says_what_there_is():
    with pytest.raises(ValueError, match=r"no linear .*; left dense: 0 \(Embedding unsupported\)"):
        random(nn.Sequential(nn.Embedding(3, 2)), 0.5)
    with pytest.raises(TypeError, match="model must be an nn"):
        left_dense("cnn")


def test_lazy_layer_is_named():
    with pytest.raises(ValueError, match="layer '0' is uninitialised"):
        random(nn.Sequential(nn.LazyLinear(3)), 0.5)


class OwnLinear(nn.Linear):
    """A user's layer, whose forward sparsefl cannot know."""


def only_masked_once() -> nn.Sequential:
    """A model of one layer that becomes sparse, and two that are masked once."""
    return nn.Sequential(nn.ConvTranspose1d(2, 6, 3), nn.Linear(6, 5), OwnLinear(5, 4))


RULES = {
    "magnitude": magnitude,
    "random": random,
    "erdos_renyi": erdos_renyi,
    "synflow": lambda model, density, **options: synflow(
        model, density, torch.zeros(1, 2, 4), iterations=3, **options
    ),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_no_density_is_spent_where_nothing_gets_faster_unless_asked_for(rule):
    masks = rule(only_masked_once(), 0.5)
    assert list(masks) == ["1.weight"]
    assert kept(masks) == 15
    every = rule(only_masked_once(), 0.5, include_dense=True)
    assert list(every) == ["0.weight", "1.weight", "2.weight"]
    assert abs(kept(every) - (36 + 30 + 20) / 2) <= len(every)


class SharesItsWeight(nn.Module):
    """A linear layer tied to an embedding, one that a module holds, and one that is free."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.table.weight
        self.free = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.position = nn.Parameter(torch.zeros(3, 4))


@pytest.mark.parametrize(
    "make",
    [
        only_masked_once,
        SharesItsWeight,
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding_mode="circular"), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3, dtype=torch.float64)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 3), nn.Conv3d(2, 2, 1)),
    ],
    ids=["types", "ties", "padding_mode", "dtype", "recurrent"],
)
def test_what_pruning_leaves_dense_sparsify_does_for_the_same_reasons(make):
    model = make()
    sparse = sparsefl.sparsify(model, random(model, 0.5))
    assert dict(sparsefl.nn.report(sparse).left_dense) == left_dense(model)


def test_pruning_and_sparsify_make_the_same_of_a_tied_weight():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    masks = random(model, 0.5)
    assert list(masks) == ["0.weight"]
    assert sparsefl.nn.report(sparsefl.sparsify(model, masks)).sparsified == ("0", "1")
