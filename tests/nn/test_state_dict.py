"""What a layer writes into a state_dict and what it takes back, and its copies and pickles."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.nn import SignLinear, SparseConv2d, SparseLinear, load_supports


@pytest.fixture
def layer(case, kind, random_mask, convert):
    """A layer of either kind, with magnitudes of its own where it is a sign layer."""
    dense = case.make()
    shape = dense.weight.shape
    options = {} if kind == "sparse" else {"magnitude": torch.rand(shape) + 0.1}
    return convert(dense, random_mask(shape), kind, **options)


@pytest.fixture
def twin(layer):
    """A copy of the layer with other numbers."""
    other = copy.deepcopy(layer)
    other.reset_parameters()
    assert not torch.equal(other.weight, layer.weight)
    return other


def saved(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_equal_layers(first, second):
    assert torch.equal(first.weight, second.weight)
    assert first.support == second.support
    assert (first.bias is None) == (second.bias is None)
    assert first.bias is None or torch.equal(first.bias, second.bias)


def test_numbers_are_row_major_with_their_support(layer, latent):
    state = layer.state_dict()
    mask = layer.support.to_mask()
    expected = {layer.latent_name, "support", "support_shape"}
    expected |= {"bias"} if layer.bias is not None else set()
    expected |= {"magnitude"} if layer.latent_name == "scores" else set()
    assert set(state) == expected
    dense = torch.zeros(mask.shape)
    dense[mask] = state[layer.latent_name]
    assert torch.equal(dense[mask], layer.row_major(latent(layer).detach()))
    if layer.latent_name == "values":
        assert torch.equal(dense, layer.weight)
    assert tuple(state["support_shape"]) == tuple(mask.shape)
    bits = torch.from_numpy(layer.support.packed.copy())
    assert torch.equal(state["support"], bits)


@pytest.mark.parametrize("shape", [(17, 300), (5, 40, 3, 3)], ids=str)
def test_stored_order_is_not_row_major(shape, random_mask):
    # Else the tests here could not see a forgotten conversion.
    kind = SparseLinear if len(shape) == 2 else SparseConv2d
    layer = kind(shape[1], shape[0], *shape[2:3], random_mask(shape))
    assert not torch.equal(layer.plan.order, torch.arange(layer.support.nnz))


def test_conversions_undo_each_other(layer, latent):
    numbers = torch.arange(layer.support.nnz)
    assert torch.equal(layer.row_major(layer.from_row_major(numbers)), numbers)
    assert torch.equal(layer.from_row_major(layer.row_major(numbers)), numbers)


def test_round_trip_through_a_file(layer, twin):
    result = twin.load_state_dict(saved(layer.state_dict()))
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert_equal_layers(twin, layer)


def test_round_trip_inside_a_model(layer, twin):
    model, other = nn.Sequential(nn.ReLU(), layer), nn.Sequential(nn.ReLU(), twin)
    other.load_state_dict(saved(model.state_dict()))
    assert_equal_layers(twin, layer)


def test_assign_onto_a_meta_layer(layer, twin):
    twin.to("meta").load_state_dict(layer.state_dict(), assign=True)
    assert_equal_layers(twin, layer)


def test_dense_state_loads_by_masking(case, layer, caplog):
    dense = case.make()
    with caplog.at_level("INFO"):
        layer.load_state_dict(dense.state_dict())
    mask = layer.support.to_mask()
    expected = dense.weight * mask
    if layer.latent_name == "scores":
        assert torch.equal(layer.row_major(layer.scores), dense.weight[mask])
        expected = torch.where(dense.weight >= 0, 1.0, -1.0) * layer.weight.abs()
    assert torch.equal(layer.weight, expected)
    assert layer.bias is None or torch.equal(layer.bias, dense.bias)
    assert f"dropped {int((~mask).sum())} nonzero weights off the support" in caplog.text


def test_a_constant_magnitude_is_exact_in_a_file():
    mask = torch.ones(3, 5, dtype=torch.bool)
    first, second = SignLinear(5, 3, mask, magnitude=0.1), SignLinear(5, 3, mask)
    second.load_state_dict(saved(first.state_dict()))
    assert second.magnitude == 0.1
    per_weight = SignLinear(5, 3, mask, magnitude=torch.rand(3, 5))
    second.load_state_dict(saved(per_weight.state_dict()))
    assert torch.equal(second.magnitude, per_weight.magnitude)
    second.load_state_dict(saved(first.state_dict()))
    assert second.magnitude == 0.1


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not_strict"])
def test_another_support_is_refused_and_nothing_is_loaded(strict, random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6), seed=1))
    other = SparseLinear(6, 4, random_mask((4, 6), seed=2))
    before = layer.weight.detach().clone()
    with pytest.raises(
        RuntimeError, match=r"checkpoint's support.*nnz.*set_support.*load_supports"
    ):
        layer.load_state_dict(other.state_dict(), strict=strict)
    assert torch.equal(layer.weight, before)


def test_load_supports_then_values(random_mask):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    first, second = (
        sparsefl.sparsify(
            model,
            {
                "0.weight": random_mask((5, 6), 0.3, seed),
                "2.weight": random_mask((4, 5), 0.5, seed),
            },
        )
        for seed in (1, 2)
    )
    optimizer = torch.optim.SGD(second.parameters(), lr=0.1)
    load_supports(second, first.state_dict(), optimizer)
    second.load_state_dict(first.state_dict())
    assert_equal_layers(second[0], first[0])
    assert_equal_layers(second[2], first[2])
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in second.parameters()}


def broken(name, value):
    def damage(state):
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name])

    return damage


DAMAGE = {
    "values_length": (broken("values", lambda t: t[:-1]), r"values: flat must have shape"),
    "values_type": (broken("values", lambda t: [1.0]), r"values: flat must be a tensor, got list"),
    "no_support": (broken("support", None), 'Missing key.* "support"'),
    "no_values": (broken("values", None), 'Missing key.* "values"'),
    "support_type": (broken("support", lambda t: t.float()), "support must be a 1-d torch.uint8"),
    "support_length": (broken("support", lambda t: t[:-1]), r"support: packed must be \[3\]"),
    "support_shape": (broken("support_shape", lambda t: t.flip(0)), r"shape \(6, 4\)"),
    "extra": (broken("support", lambda t: t), None),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_states_are_named(damage, message, random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    state = layer.state_dict()
    damage(state)
    if message is None:
        state["extra"] = torch.zeros(1)
        message = 'Unexpected key.* "extra"'
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(state)


def test_a_dense_weight_of_another_shape_is_named(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    with pytest.raises(RuntimeError, match=r"weight has shape \(6, 4\), the support \(4, 6\)"):
        layer.load_state_dict(nn.Linear(4, 6).state_dict())


def test_not_strict_forgives_missing_keys(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    state = layer.state_dict()
    del state["support"], state["bias"]
    state["values"] += 1.0
    before = layer.weight.detach().clone()
    assert set(layer.load_state_dict(state, strict=False).missing_keys) == {"support", "bias"}
    assert torch.equal(layer.weight, before + layer.support.to_mask())


def test_writing_into_a_state_dict_leaves_the_numbers(layer, latent):
    before = latent(layer).detach().clone()
    layer.state_dict()[layer.latent_name].zero_()
    assert torch.equal(latent(layer), before)


def test_deepcopy_is_independent_and_shares_the_plan(layer, latent):
    twin = copy.deepcopy(layer)
    assert_equal_layers(twin, layer)
    assert twin.plan is layer.plan
    with torch.no_grad():
        latent(twin).add_(1.0)
    assert not torch.equal(latent(twin), latent(layer))


def test_pickle_round_trip(layer):
    data = pickle.dumps(layer)
    twin = pickle.loads(data)
    assert_equal_layers(twin, layer)
    assert torch.equal(twin.plan.order, layer.plan.order)


def test_pickle_of_another_order_is_refused(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    state = layer.__getstate__()
    state["_plan"] += 1
    with pytest.raises(ValueError, match=r"pickled by a sparsefl.*state_dict"):
        SparseLinear.__new__(SparseLinear).__setstate__(state)


def test_moves_and_casts_carry_the_plan(layer, case):
    moved = layer.to("meta").to_empty(device="cpu").double()
    moved.reset_parameters()
    assert moved.weight.dtype == torch.float64
    assert moved(torch.randn(case.input_shape, dtype=torch.float64)).dtype == torch.float64


def test_weight_cannot_be_set(layer):
    for value in (torch.zeros_like(layer.weight), nn.Parameter(layer.weight.detach()), None):
        with pytest.raises(AttributeError, match=r"weight is computed.*set_support.*densify"):
            layer.weight = value


def test_weight_is_differentiable(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    layer.weight.square().sum().backward()
    assert torch.equal(layer.values.grad, 2 * layer.values)


def test_conversions_name_bad_arguments(layer):
    with pytest.raises(ValueError, match=r"stored must have shape \(\d+,\), got \(1, 1\)"):
        layer.row_major(torch.zeros(1, 1))
    with pytest.raises(TypeError, match="flat must be a tensor, got list"):
        layer.from_row_major([1.0])


def test_dense_state_shapes_are_those_of_the_dense_layer(case, layer):
    expected = {
        name: (tuple(tensor.shape), "float32") for name, tensor in case.make().state_dict().items()
    }
    assert layer.dense_state_shapes() == expected
    assert list(layer.dense_state_shapes()) == list(expected)
