"""sparsify and densify: which layers change, what stays, and what is refused."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import sparsefl
from sparsefl.nn import SignConv2d, SignLinear, SparseConv2d, SparseLinear, report
from sparsefl.ops._dispatch import DENSE_ABOVE


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, padding="same"),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


@pytest.fixture
def model():
    return small_cnn()


@pytest.fixture
def masks(model, random_mask):
    return {f"{i}.weight": random_mask(model[i].weight.shape, 0.4, i) for i in (0, 4, 7)}


@pytest.fixture
def images():
    return torch.randn(9, 3, 8, 8)


def masked(model, masks):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


def assert_same_outputs(first, second, x):
    for training in (True, False):
        torch.testing.assert_close(first.train(training)(x), second.train(training)(x))


def assert_plain(model):
    assert not [m for m in model.modules() if type(m).__module__.startswith("sparsefl")]
    assert not [name for name in vars(model) if "sparsefl" in name]


def test_outputs_are_those_of_the_masked_model(model, masks, images):
    sparse = sparsefl.sparsify(model, masks)
    assert [type(sparse[i]) for i in (0, 4, 7)] == [SparseConv2d, SparseConv2d, SparseLinear]
    assert_same_outputs(sparse, masked(model, masks), images)


def test_original_and_random_state_are_untouched(model, masks):
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    random_state = torch.get_rng_state()
    sparse = sparsefl.sparsify(model, masks)
    sparsefl.densify(sparse)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [type(module) for module in model.modules()] == kinds
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        for tensor in (*sparse.parameters(), *sparse.buffers()):
            tensor.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_densify_gives_plain_torch_with_the_same_outputs(model, masks, images, kind, training):
    sparse = sparsefl.sparsify(model.train(training), masks, layer=kind)
    plain = sparsefl.densify(sparse)
    assert_plain(plain)
    assert [type(module) for module in plain.modules()] == [type(m) for m in model.modules()]
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [m.training for m in plain.modules()] == [m.training for m in model.modules()]
    assert_same_outputs(plain, sparse, images)
    with torch.no_grad():
        plain[7].weight.zero_()
    assert sparse[7].weight.count_nonzero() > 0


def test_densified_model_exports(model, masks, images):
    plain = sparsefl.densify(sparsefl.sparsify(model, masks)).eval()
    exported = torch.export.export(plain, (images,))
    torch.testing.assert_close(exported.module()(images), plain(images))


@pytest.mark.parametrize("kinds", [("sparse", SparseConv2d), ("sign", SignConv2d)], ids=str)
def test_layer_chooses_the_kind(model, masks, kinds):
    layer, expected = kinds
    sparse = sparsefl.sparsify(model, masks, layer=layer)
    assert type(sparse[0]) is expected
    assert torch.equal(sparse[0].support.to_mask(), masks["0.weight"])


def test_masks_of_torch_prune_are_found(model, images):
    prune.l1_unstructured(model[4], "weight", amount=0.7)
    model(images)
    with torch.no_grad():
        model[4].weight_orig.add_(0.5)
    sparse = sparsefl.sparsify(model)
    assert type(sparse[4]) is SparseConv2d
    assert torch.equal(sparse[4].support.to_mask(), model[4].weight_mask.bool())
    assert type(sparse[7]) is nn.Linear
    assert_same_outputs(sparse, model, images)
    assert dict(report(sparse).left_dense) == {"0": "no pruned weight", "7": "no pruned weight"}
    copy.deepcopy(sparse)


def test_a_pruned_layer_that_stays_dense_stays_pruned(model, images):
    prune.l1_unstructured(model[7], "weight", amount=0.7)
    sparse = sparsefl.sparsify(model, min_numel=10_000)
    assert type(sparse[7]) is nn.Linear
    assert_same_outputs(copy.deepcopy(sparse), model, images)
    F.cross_entropy(sparse(images), torch.arange(9)).backward()
    assert sparse[7].weight_orig.grad[model[7].weight_mask == 0].count_nonzero() == 0


def test_zeros_in_the_weights_are_found(model, masks):
    zeroed = masked(model, {"4.weight": masks["4.weight"]})
    sparse = sparsefl.sparsify(zeroed)
    assert report(sparse).sparsified == ("4",)
    assert torch.equal(sparse[4].support.to_mask(), masks["4.weight"])


def test_an_explicit_full_mask_makes_a_sparse_layer(model, images):
    full = torch.ones_like(model[7].weight, dtype=torch.bool)
    sparse = sparsefl.sparsify(model, {"7.weight": full})
    assert type(sparse[7]) is SparseLinear
    assert_same_outputs(sparse, model, images)


def test_report_and_log_name_what_stays_dense(masks, caplog):
    model = nn.Sequential(
        small_cnn(), nn.ConvTranspose2d(2, 2, 2), nn.Embedding(5, 3), nn.LayerNorm((3, 3))
    )
    with caplog.at_level(logging.INFO, "sparsefl"):
        sparse = sparsefl.sparsify(model, {f"0.{name}": mask for name, mask in masks.items()})
    said = (
        "sparsified 3 of 5 layers; left dense: 1 (ConvTranspose2d unsupported), "
        "2 (Embedding unsupported)"
    )
    assert str(report(sparse)) == said
    assert caplog.messages == [said]
    assert report(sparse).batch_last == ("0.1", "0.3", "0.5")
    assert report(copy.deepcopy(sparse)) == report(sparse)
    with pytest.raises(ValueError, match="not made by sparsify"):
        report(model)


@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_report_names_what_computes_densely_inside(kind, random_mask):
    model = nn.Sequential(*(nn.Linear(20, 20) for _ in range(4)), nn.Embedding(5, 3))
    masks = {f"{i}.weight": random_mask((20, 20), d) for i, d in enumerate((0.1, 0.9, 0.4, 1.0))}
    found = report(sparsefl.sparsify(model, masks, layer=kind))
    assert found.dense_inside == ("1", "3")
    assert str(found) == (
        f"sparsified 4 of 5 layers, 2 of them dense inside (density above {DENSE_ABOVE}): 1, 3; "
        "left dense: 4 (Embedding unsupported)"
    )


def test_norms_and_pools_stay_where_no_convolution_is_sparse(model, masks):
    sparse = sparsefl.sparsify(model, {"7.weight": masks["7.weight"]})
    assert type(sparse[1]) is nn.BatchNorm2d
    assert report(sparse).batch_last == ()


class OwnLinear(nn.Linear):
    """A user's layer, whose forward sparsefl cannot know."""


UNSUPPORTED = {
    "subclass": (lambda: OwnLinear(6, 4), "OwnLinear unsupported"),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 1), "ConvTranspose2d unsupported"),
    "float64": (lambda: nn.Linear(6, 4, dtype=torch.float64), "torch.float64 unsupported"),
    "padding_mode": (
        lambda: nn.Conv2d(6, 4, 1, padding_mode="circular"),
        "padding_mode='circular' unsupported",
    ),
    "min_numel": (lambda: nn.Linear(5, 4), "20 weights, min_numel=24"),
}


@pytest.mark.parametrize(("make", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_the_mask_of_an_unsupported_layer_is_applied_once(make, reason, random_mask, caplog):
    model = nn.Sequential(make())
    mask = random_mask(model[0].weight.shape, 0.5)
    sparse = sparsefl.sparsify(model, {"0.weight": mask}, min_numel=24)
    assert type(sparse[0]) is type(model[0])
    assert report(sparse).left_dense == (("0", reason),)
    assert torch.equal(sparse[0].weight, model[0].weight * mask)
    assert any("masked once, training may undo it: 0" in text for text in caplog.messages)


def test_computed_weights_stay_dense(random_mask):
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Linear(5, 4), nn.Linear(4, 3)
    )
    prune.l1_unstructured(model[1], "bias", amount=0.5)
    with torch.no_grad():
        model[1].weight[0] = 0.0
        model[2].weight[0] = 0.0
    x = torch.randn(7, 6)
    sparse = sparsefl.sparsify(model)
    reasons = dict(report(sparse).left_dense)
    assert report(sparse).sparsified == ("2",)
    assert reasons["0"] == "its weight is computed by a parametrization or a hook"
    assert reasons["1"] == "its bias is computed by pruning, a parametrization or a hook"
    assert_same_outputs(sparse, model, x)
    with pytest.raises(ValueError, match=r"masks\['0.weight'\] cannot be applied"):
        sparsefl.sparsify(model, {"0.weight": random_mask((5, 6))})


class Tied(nn.Module):
    """Two layers with one weight, a layer used twice, and a bias of two layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.third = nn.Linear(6, 6)
        self.again = self.third
        self.third.bias = self.first.bias

    def forward(self, x):
        return self.again(self.third(self.second(self.first(x).relu()).relu()).relu())


def test_tied_weights_stay_tied(random_mask):
    model = Tied()
    masks = {"second.weight": random_mask((6, 6), 0.5, 1), "again.weight": random_mask((6, 6), 0.5)}
    sparse = sparsefl.sparsify(model, masks)
    assert report(sparse).sparsified == ("first", "second", "third")
    assert sparse.first.values is sparse.second.values
    assert sparse.third is sparse.again
    assert sparse.third.bias is sparse.first.bias
    plain = sparsefl.densify(sparse)
    assert_plain(plain)
    assert plain.first.weight is plain.second.weight
    assert plain.third is plain.again
    assert plain.third.bias is plain.first.bias
    assert len(list(plain.parameters())) == len(list(model.parameters()))
    x = torch.randn(5, 6)
    for output in (sparse(x), plain(x)):
        output.sum().backward()
    torch.testing.assert_close(plain(x), sparse(x))
    expected = plain.first.weight.grad[sparse.first.support.to_mask()]
    torch.testing.assert_close(sparse.first.row_major(sparse.first.values.grad), expected)


def test_tied_masks_must_agree(random_mask):
    masks = {f"{n}.weight": random_mask((6, 6), 0.5, i) for i, n in enumerate(("first", "second"))}
    with pytest.raises(ValueError, match=r"masks differ.*first.weight, second.weight"):
        sparsefl.sparsify(Tied(), masks)


def test_a_weight_tied_to_an_embedding_stays_dense(random_mask):
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9, bias=False))
    model[1].weight = model[0].weight
    mask = random_mask((9, 6))
    sparse = sparsefl.sparsify(model, {"1.weight": mask})
    assert dict(report(sparse).left_dense) == {"0": "Embedding unsupported", "1": "tied to 0"}
    assert sparse[0].weight is sparse[1].weight
    assert torch.equal(sparse[0].weight, model[0].weight * mask)


def test_a_weight_used_outside_layers_stays_dense():
    model = nn.Sequential(nn.Linear(6, 4))
    model.register_parameter("alias", model[0].weight)
    with torch.no_grad():
        model[0].weight[0] = 0.0
    assert dict(report(sparsefl.sparsify(model)).left_dense) == {"0": "tied to alias"}


def test_hooks_and_frozen_parameters_are_kept(model, masks, images):
    seen = []
    model[7].register_forward_hook(lambda *_: seen.append("forward"))
    model[7].register_full_backward_hook(lambda *_: seen.append("backward"))
    model[4].weight.requires_grad_(False)
    sparse = sparsefl.sparsify(model, masks)
    assert not sparse[4].values.requires_grad
    sparse(images).sum().backward()
    assert seen == ["forward", "backward"]
    sparsefl.densify(sparse)(images).sum().backward()
    assert seen == ["forward", "backward"] * 2


def test_a_single_layer_is_a_model(random_mask):
    dense = nn.Linear(6, 4)
    mask = random_mask((4, 6))
    sparse = sparsefl.sparsify(dense, {"weight": mask}, layer="sign")
    assert type(sparse) is SignLinear
    assert str(report(sparse)) == "sparsified 1 of 1 layers"
    plain = sparsefl.densify(sparse)
    assert_plain(plain)
    torch.testing.assert_close(plain.weight, sparse.weight)


def test_sparse_layers_stay_when_sparsified_again(model, masks, images):
    once = sparsefl.sparsify(model, {"4.weight": masks["4.weight"]})
    twice = sparsefl.sparsify(once, {"7.weight": masks["7.weight"]})
    assert torch.equal(twice[4].values, once[4].values)
    assert report(twice).sparsified == ("7",)
    assert_same_outputs(twice, masked(once, {"7.weight": masks["7.weight"]}), images)


def test_densify_takes_frozen_layers_out():
    model = nn.Sequential(sparsefl.nn.FrozenLinear(6, 4, seed=3), nn.ReLU())
    plain = sparsefl.densify(model)
    assert_plain(plain)
    x = torch.randn(5, 6)
    torch.testing.assert_close(plain(x), model(x))


REFUSED = {
    "unknown": ({"nope.weight": torch.ones(1) > 0}, KeyError, r"nope.weight.*0.weight, 4.weight"),
    "bias": ({"7.bias": torch.ones(10) > 0}, ValueError, r"masks\['7.bias'\].*two or more"),
    "norm": ({"1.weight": torch.ones(8) > 0}, ValueError, r"masks\['1.weight'\].*two or more"),
    "shape": (
        {"7.weight": torch.ones(24, 10) > 0},
        ValueError,
        r"masks\['7.weight'\] covers shape \(24, 10\), the weight has \(10, 24\)",
    ),
    "dtype": ({"7.weight": torch.ones(10, 24)}, TypeError, r"masks\['7.weight'\].*bool.*float32"),
    "type": ([torch.ones(1)], TypeError, "masks must be a mapping.*got list"),
}


@pytest.mark.parametrize(("masks", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_masks_are_named(model, masks, error, message):
    with pytest.raises(error, match=message):
        sparsefl.sparsify(model, masks)


def test_bad_arguments_are_named(model, masks):
    with pytest.raises(ValueError, match="'sparse' or 'sign', got 'dense'"):
        sparsefl.sparsify(model, masks, layer="dense")
    with pytest.raises(ValueError, match="min_numel must not be negative, got -1"):
        sparsefl.sparsify(model, masks, min_numel=-1)
    with pytest.raises(TypeError, match="min_numel must be an int, got float"):
        sparsefl.sparsify(model, masks, min_numel=1.0)
    for call in (sparsefl.sparsify, sparsefl.densify):
        with pytest.raises(TypeError, match=r"model must be an nn\.Module, got dict"):
            call({})
    sparse = sparsefl.sparsify(model, masks)
    with pytest.raises(ValueError, match=r"SparseLinear already.*set_support"):
        sparsefl.sparsify(sparse, {"7.weight": masks["7.weight"]})


# Raised inside torch when dynamo traces any autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_model_compiles_without_graph_breaks(model, masks, images, kind):
    sparse = sparsefl.sparsify(model, masks, layer=kind)
    twin = copy.deepcopy(sparse)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    for module in (compiled, twin):
        F.cross_entropy(module(images), torch.arange(9)).backward()
    torch.testing.assert_close(compiled(images), twin(images))
    for (name, ours), theirs in zip(sparse.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
