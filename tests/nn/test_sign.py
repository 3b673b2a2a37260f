"""SignLinear and SignConv2d: signs, magnitudes, straight-through gradients."""

import math

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import random as streams
from sparsefl.nn import SignConv2d, SignLinear

MAGNITUDES = {
    "signed_const": lambda shape: "signed_const",
    "kaiming": lambda shape: "kaiming",
    "constant": lambda shape: 0.25,
    "tensor": lambda shape: torch.rand(shape) + 0.1,
}


@pytest.fixture(params=MAGNITUDES.values(), ids=MAGNITUDES.keys())
def magnitude(request):
    return request.param


def dense_twin(layer):
    """Returns the dense layer with the same effective weights, in float32 and in float64."""
    return layer.to_dense(), layer.to_dense().double()


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0], ids="density={}".format)
def test_layer_is_the_dense_layer_of_its_signs(
    case, magnitude, density, random_mask, convert, assert_matches
):
    dense = case.make()
    shape = dense.weight.shape
    mask = random_mask(shape, density)
    layer = convert(dense, mask, "sign", magnitude=magnitude(shape))
    x = torch.randn(case.input_shape)
    results = []
    for module in (layer, *dense_twin(layer)):
        inputs = x.to(module.weight.dtype, copy=True).requires_grad_()
        out = module(inputs)
        out.square().sum().backward()
        results.append((module, out.detach(), inputs.grad))
    (_, ours, grad), (plain, same, same_grad), (exact, ref, ref_grad) = results
    assert_matches(ours, ref, same, "output")
    assert_matches(grad, ref_grad, same_grad, "input gradient")
    scale = plain.weight.detach().abs()
    assert_matches(
        layer.row_major(layer.scores.grad),
        (exact.weight.grad * scale.double())[mask],
        (plain.weight.grad * scale)[mask],
        "straight-through gradient",
    )
    assert bool((plain.weight[~mask] == 0).all())


def test_signs_follow_the_scores_and_zero_is_positive():
    mask = torch.ones(2, 3, dtype=torch.bool)
    layer = SignLinear(3, 2, mask, bias=False, magnitude=0.5)
    scores = torch.tensor([0.0, -0.0, -1e-30, 2.0, -3.0, 1e-30])
    with torch.no_grad():
        layer.scores.copy_(layer.from_row_major(scores))
    expected = torch.tensor([1, 1, -1, 1, -1, 1], dtype=torch.int8)
    assert layer.signs().dtype == torch.int8
    assert torch.equal(layer.signs(), expected)
    assert torch.equal(layer.weight.detach().flatten(), 0.5 * expected)
    assert torch.equal(layer(torch.eye(3)), 0.5 * expected.view(2, 3).t())


def test_scores_start_at_the_dense_weights(random_mask):
    dense = nn.Conv2d(3, 4, 3)
    mask = random_mask(dense.weight.shape)
    layer = SignConv2d.from_dense(dense, mask)
    assert torch.equal(layer.row_major(layer.scores), dense.weight[mask])


@pytest.mark.parametrize("density", [0.1, 1.0], ids="density={}".format)
def test_signed_constant_is_kaimings_deviation_at_the_density(density, random_mask):
    mask = random_mask((40, 50), density)
    layer = SignLinear(50, 40, mask)
    assert layer.magnitude == pytest.approx(math.sqrt(2 / 50) / math.sqrt(mask.float().mean()))
    grouped = SignConv2d(6, 4, 3, torch.ones(4, 3, 3, 3, dtype=torch.bool), groups=2)
    assert grouped.magnitude == pytest.approx(math.sqrt(2 / 27))


def test_kaiming_magnitudes_come_from_the_named_stream(random_mask):
    mask = random_mask((30, 300))
    layer = SignLinear(300, 30, mask, magnitude="kaiming", seed=5, name="fc.weight")
    std = math.sqrt(2 / 300) / math.sqrt(layer.support.density)
    drawn = torch.from_numpy(streams.normal(5, "fc.weight", (30, 300), std)).abs()
    assert torch.equal(layer.row_major(layer.magnitude), drawn[mask])
    other = SignLinear(300, 30, mask, magnitude="kaiming", seed=5, name="other")
    assert not torch.equal(layer.magnitude, other.magnitude)


def test_magnitudes_are_not_trained_and_move_with_the_layer(random_mask):
    layer = SignLinear(300, 30, random_mask((30, 300)), magnitude="kaiming")
    assert {name for name, _ in layer.named_parameters()} == {"scores", "bias"}
    assert layer.double().magnitude.dtype == torch.float64


def test_weight_is_differentiable_straight_through(random_mask):
    layer = SignLinear(4, 3, random_mask((3, 4), 0.7), magnitude=0.5)
    layer.weight.sum().backward()
    assert torch.equal(layer.scores.grad, torch.full_like(layer.scores, 0.5))


def test_set_support_follows_the_rule_of_the_magnitude(random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.2, 2)
    for rule in ("signed_const", "kaiming"):
        layer, fresh = (SignLinear(300, 30, mask, magnitude=rule) for mask in (old, new))
        layer.set_support(new)
        assert torch.equal(torch.as_tensor(layer.magnitude), torch.as_tensor(fresh.magnitude))


def test_set_support_carries_given_magnitudes(random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.2, 2)
    given = torch.rand(30, 300) + 0.1
    layer = SignLinear(300, 30, old, magnitude=given)
    layer.set_support(new)
    assert torch.equal(layer.row_major(layer.magnitude), (given * old)[new])


@pytest.mark.parametrize("plain", [False, True], ids=["metadata", "no_metadata"])
def test_loaded_magnitudes_are_carried_not_computed_by_the_layers_own_rule(plain, random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.2, 2)
    given = torch.rand(30, 300) + 0.1
    state = SignLinear(300, 30, old, magnitude=given).state_dict()
    for rule in ("signed_const", "kaiming", 0.5):
        layer = SignLinear(300, 30, old, magnitude=rule)
        layer.load_state_dict(dict(state) if plain else state)
        layer.set_support(new)
        assert torch.equal(layer.row_major(layer.magnitude), (given * old)[new])


@pytest.mark.parametrize("plain", [False, True], ids=["metadata", "no_metadata"])
@pytest.mark.parametrize("rule", ["signed_const", "kaiming"])
def test_a_loaded_layer_keeps_the_rule_that_made_its_magnitudes(rule, plain, random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.2, 2)
    options = {"magnitude": rule, "seed": 3, "name": "fc"}
    saved, fresh = (SignLinear(300, 30, mask, **options) for mask in (old, new))
    # Without metadata the layer's own rule is all that there is to go by.
    layer = SignLinear(300, 30, old, **(options if plain else {"magnitude": 0.5}))
    layer.load_state_dict(dict(saved.state_dict()) if plain else saved.state_dict())
    layer.set_support(new)
    assert torch.equal(torch.as_tensor(layer.magnitude), torch.as_tensor(fresh.magnitude))


def test_a_magnitude_edited_in_the_checkpoint_stays_as_it_was_edited(random_mask):
    old, new = random_mask((30, 300), 0.5, 1), random_mask((30, 300), 0.2, 2)
    state = SignLinear(300, 30, old).state_dict()
    state["magnitude"] = torch.tensor(0.125)
    layer = SignLinear(300, 30, old)
    layer.load_state_dict(state)
    layer.set_support(new)
    assert layer.magnitude == 0.125


@pytest.mark.parametrize("damaged", ["scores", "bias", "support"])
def test_a_refused_load_changes_nothing_of_the_layer(damaged, random_mask):
    mask = random_mask((4, 6))
    layer = SignLinear(6, 4, mask)
    before = layer.state_dict()
    state = SignLinear(6, 4, mask, magnitude=0.125).state_dict()
    state[damaged] = state[damaged][:-1]
    with pytest.raises(RuntimeError, match=damaged):
        layer.load_state_dict(state)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


REFUSED = {
    "unknown_rule": ("constant", ValueError, "'signed_const', 'kaiming'.*got 'constant'"),
    "negative": (-1.0, ValueError, "not negative"),
    "infinite": (math.inf, ValueError, "finite"),
    "negative_tensor": (-torch.ones(4, 8), ValueError, "not negative"),
    "tensor_shape": (torch.ones(8, 4), ValueError, r"magnitude has shape \(8, 4\).*\(4, 8\)"),
    "type": ([1.0], TypeError, "magnitude must be .* got list"),
}


@pytest.mark.parametrize(("magnitude", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_magnitudes_are_named(magnitude, error, message):
    with pytest.raises(error, match=message):
        SignLinear(8, 4, torch.ones(4, 8, dtype=torch.bool), magnitude=magnitude)


def test_repr_shows_the_magnitude():
    mask = torch.ones(4, 8, dtype=torch.bool)
    assert "magnitude=signed_const 0.5" in repr(SignLinear(8, 4, mask))
    assert "magnitude=kaiming [nnz]" in repr(SignLinear(8, 4, mask, magnitude="kaiming"))


def test_sparsify_passes_magnitudes_on(random_mask):
    model = nn.Sequential(nn.Linear(300, 30), nn.Linear(30, 300))
    masks = {"0.weight": random_mask((30, 300)), "1.weight": random_mask((300, 30))}
    each = {"0.weight": torch.ones(30, 300), "1.weight": 0.5}
    sign = sparsefl.sparsify(model, masks, layer="sign", magnitude=each)
    assert torch.equal(sign[0].magnitude, torch.ones(sign[0].support.nnz))
    assert sign[1].magnitude == 0.5
    drawn = sparsefl.sparsify(model, masks, layer="sign", magnitude="kaiming", seed=3)
    alone = SignLinear.from_dense(model[1], masks["1.weight"], "kaiming", seed=3, name="1.weight")
    assert torch.equal(drawn[1].magnitude, alone.magnitude)
    with pytest.raises(KeyError, match=r"no '1\.weight'"):
        sparsefl.sparsify(model, masks, layer="sign", magnitude={"0.weight": 1.0})
