"""Candidate masks: layer densities around the wanted one, the largest weights of each layer."""

import pytest
import torch
from torch import nn

from sparsefl import models
from sparsefl.pruning import candidate, candidates, erdos_renyi

KINDS = pytest.mark.parametrize("kind", ["noise_uniform", "erdos_renyi"])


def shares(masks):
    return [mask.double().mean().item() for mask in masks.values()]


def density_of(masks):
    return sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


@KINDS
@pytest.mark.parametrize("density", [0.01, 0.1])
def test_candidates_have_the_density_and_a_dense_first_layer(kind, density):
    model = models.resnet32(width=0.5)
    for masks in candidates(model, density, 3, seed=2, kind=kind):
        assert abs(density_of(masks) - density) < 0.02 * density
        first, *others = shares(masks)
        assert first == 1.0
        assert all(0 < share < 1 for share in others)
        assert "fc.weight" not in masks


def test_noise_stays_within_half_of_the_density():
    masks = candidate(models.vgg11(width=0.25), 0.1, 0, first_dense=False)
    assert 0.049 < min(shares(masks)) < 0.09
    assert 0.11 < max(shares(masks)) < 0.151


def test_erdos_renyi_noise_multiplies_its_densities():
    model = models.vgg11(width=0.25)
    plain = shares(erdos_renyi(model, 0.1))[:-1]
    drawn = shares(candidate(model, 0.1, 0, kind="erdos_renyi", first_dense=False))
    factors = [d / p for d, p in zip(drawn, plain, strict=True)]
    assert all(factor < 2.3 for factor in factors)
    assert max(factors) > 2 * min(factors)


@KINDS
def test_a_pool_holds_what_its_numbers_name(kind):
    model = models.cnn(width=0.5)
    pool = list(candidates(model, 0.1, 4, seed=7, kind=kind))
    again = candidate(model, 0.1, 2, seed=7, kind=kind)
    assert all(torch.equal(again[name], pool[2][name]) for name in again)
    others = [pool[3], candidate(model, 0.1, 2, seed=8, kind=kind)]
    for other in others:
        assert any(not torch.equal(again[name], other[name]) for name in again)


def test_counts_are_the_same_on_every_machine():
    model = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 80), nn.Linear(80, 10))
    masks = candidate(model, 0.1, 1, seed=3, first_dense=False, output=True)
    assert [int(mask.sum()) for mask in masks.values()] == [245, 475, 70]


def test_the_largest_weights_of_each_layer_are_kept():
    model = models.cnn(width=0.5)
    for name, mask in candidate(model, 0.1, 0).items():
        weight = model.get_parameter(name).detach().abs()
        if not bool(mask.all()):
            assert weight[mask].min() >= weight[~mask].max()


def test_every_layer_keeps_a_weight():
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 1), nn.Linear(1, 2))
    masks = candidate(model, 0.001, 0, first_dense=False)
    assert int(masks["1.weight"].sum()) == 1


def test_a_first_layer_that_leaves_nothing_is_named():
    model = nn.Sequential(nn.Linear(90, 100), nn.Linear(100, 10), nn.Linear(10, 2))
    with pytest.raises(ValueError, match=r"first layer has 9000 of 10000 .* prune the first layer"):
        candidate(model, 0.1, 0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m: candidates(m, 0.1, 0), ValueError, "count must be at least 1"),
        (lambda m: candidates(m, 0.1, 2.0), TypeError, "count must be an int"),
        (lambda m: candidates(m, 0.0, 2), ValueError, "density"),
        (lambda m: candidates(m, 0.1, 2, kind="er"), ValueError, "kind must be"),
        (lambda m: candidate(m, 0.1, -1), ValueError, "index must not be negative"),
        (lambda m: candidate(nn.Linear(3, 4), 0.5, 0), ValueError, "output=True"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_drawn(call, error, match):
    with pytest.raises(error, match=match):
        call(models.cnn(width=0.25))
