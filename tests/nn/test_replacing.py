"""What sparsify carries over from a model that its user has changed, and what it names as dense."""

import copy

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.nn import SparseLinear, report


def sparsified(model, random_mask, density=0.5):
    """Returns the model with every Linear and Conv2d masked."""
    masks = {
        f"{name}.weight": random_mask(module.weight.shape, density)
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d)
    }
    return sparsefl.sparsify(model, masks)


class Elsewhere(nn.Module):
    """A model whose forward reaches its layers through a list, a dict and an attribute."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.named = nn.ModuleDict({"head": nn.Linear(6, 4)})
        self.order = [self.body[1], self.body[0]]
        self.table = {"head": (self.named["head"],)}
        object.__setattr__(self, "hidden", self.body[0])

    def forward(self, x):
        for layer in self.order:
            x = layer(x).relu()
        return self.table["head"][0](self.hidden(x))


def test_layers_are_replaced_wherever_the_model_refers_to_them(random_mask):
    model = Elsewhere()
    sparse = sparsified(model, random_mask)
    assert sparse.order == [sparse.body[1], sparse.body[0]]
    assert sparse.table["head"][0] is sparse.named["head"]
    assert sparse.hidden is sparse.body[0]
    assert all(type(layer) is SparseLinear for layer in (*sparse.order, sparse.named["head"]))
    plain = sparsefl.densify(sparse)
    assert plain.order == [plain.body[1], plain.body[0]]
    x = torch.randn(3, 6)
    torch.testing.assert_close(plain(x), sparse(x))
    assert not torch.equal(model(x), sparse(x))


class Recorder(nn.Module):
    """A model whose hook is a method of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.seen = []
        self.layer.register_forward_hook(self.record)

    def record(self, module, inputs, output):
        self.seen.append(module)

    def forward(self, x):
        return self.layer(x)


def test_a_hook_that_is_a_method_records_into_the_copy(random_mask):
    model = Recorder()
    sparse = sparsified(model, random_mask)
    sparse(torch.randn(2, 6))
    assert sparse.seen == [sparse.layer]
    assert model.seen == []
    plain = sparsefl.densify(sparse)
    plain(torch.randn(2, 6))
    assert plain.seen[-1] is plain.layer


def test_attributes_that_the_user_has_set_are_kept(random_mask):
    model = nn.Sequential(nn.Linear(6, 4))
    model[0].learning_rate_scale = 0.1
    model[0]._tags = ["head"]
    sparse = sparsified(model, random_mask)
    plain = sparsefl.densify(sparse)
    for twin in (sparse, plain):
        assert twin[0].learning_rate_scale == 0.1
        assert twin[0]._tags == ["head"]
        assert twin[0]._tags is not model[0]._tags
    assert set(vars(plain[0])) == set(vars(model[0]))


def with_new_forward():
    layer = nn.Linear(6, 4)
    layer.forward = lambda x: 2 * nn.functional.linear(x, layer.weight)
    return layer


def with_adapter():
    layer = nn.Linear(6, 4)
    layer.lora_A = nn.Parameter(torch.zeros(2, 6))
    return layer


LEFT_DENSE = {
    "conv_transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), {"0": "ConvTranspose2d unsupported"}),
    "conv_1d": (lambda: nn.Conv1d(3, 4, 3), {"0": "Conv1d unsupported"}),
    "embedding": (lambda: nn.Embedding(9, 4), {"0": "Embedding unsupported"}),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), {"0": "Bilinear unsupported"}),
    "lstm": (lambda: nn.LSTM(4, 5, num_layers=2), {"0": "LSTM unsupported"}),
    "gru_cell": (lambda: nn.GRUCell(4, 5), {"0": "GRUCell unsupported"}),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2),
        {
            "0": "MultiheadAttention unsupported",
            "0.out_proj": "NonDynamicallyQuantizableLinear unsupported",
        },
    ),
    "lazy": (
        lambda: nn.LazyLinear(4),
        {"0": "LazyLinear is uninitialised: run the model once first"},
    ),
    "own_parameters": (
        lambda: nn.ParameterDict({"position": nn.Parameter(torch.zeros(3, 4))}),
        {"0.position": "a parameter of ParameterDict, not of a layer"},
    ),
    "weight_norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        {"0": "its weight is computed by a parametrization or a hook"},
    ),
    "own_forward": (with_new_forward, {"0": "its forward is replaced"}),
    "adapter": (with_adapter, {"0": "it holds more than weight and bias: lora_A"}),
}


@pytest.mark.parametrize(("make", "expected"), LEFT_DENSE.values(), ids=LEFT_DENSE.keys())
def test_what_stays_dense_is_named(make, expected):
    found = dict(report(sparsefl.sparsify(nn.Sequential(make()))).left_dense)
    assert {name: found.get(name) for name in expected} == expected


def test_norms_are_not_named():
    norms = nn.Sequential(nn.LayerNorm((3, 4)), nn.BatchNorm2d(3), nn.GroupNorm(1, 3))
    assert report(sparsefl.sparsify(norms)).left_dense == ()


def test_the_report_is_in_the_order_of_the_model(random_mask):
    model = nn.Sequential(nn.LSTM(4, 6), nn.Embedding(6, 6), nn.Linear(6, 6), nn.Conv1d(6, 4, 1))
    model.position = nn.Parameter(torch.zeros(3, 4))
    said = str(report(sparsified(model, random_mask)))
    assert said == (
        "sparsified 1 of 5 layers; left dense: position (a parameter of Sequential, not of a "
        "layer), 0 (LSTM unsupported), 1 (Embedding unsupported), 3 (Conv1d unsupported)"
    )


REFUSED = {
    "attention": (
        lambda: nn.MultiheadAttention(8, 2),
        "in_proj_weight",
        r"masks\['in_proj_weight'\]: only a layer's weight.*MultiheadAttention.*leave it out",
    ),
    "lazy": (
        lambda: nn.LazyLinear(4),
        "weight",
        r"masks\['weight'\]: the layer is uninitialised; run",
    ),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        "weight",
        r"masks\['weight'\] cannot be applied: .*parametrization.*leave it out",
    ),
}


@pytest.mark.parametrize(("make", "name", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_masks_that_cannot_be_applied_are_refused(make, name, message):
    with pytest.raises(ValueError, match=message):
        sparsefl.sparsify(make(), {name: torch.ones(4, 6, dtype=torch.bool)})


def test_a_lazy_model_is_sparsified_once_it_has_run(random_mask):
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(5))
    x = torch.randn(2, 3, 6, 6)
    model(x)
    sparse = sparsified(model, random_mask)
    assert report(sparse).sparsified == ("0", "2")
    torch.testing.assert_close(sparse(x), sparsefl.densify(sparse)(x))


def test_a_trained_pruned_layer_is_converted_as_it_would_run():
    layer = nn.Linear(6, 4)
    nn.utils.prune.random_unstructured(layer, "weight", 0.5)
    with torch.no_grad():
        layer.weight_orig.add_(1.0)
    expected = layer.weight_orig * layer.weight_mask
    assert torch.equal(SparseLinear.from_dense(layer, layer.weight_mask.bool()).weight, expected)
    assert torch.equal(sparsefl.sparsify(nn.Sequential(layer))[0].weight, expected)
    assert torch.equal(sparsefl.sparsify(nn.Sequential(layer), min_numel=99)[0].weight, expected)


def test_sparsify_leaves_a_pruned_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 4))
    nn.utils.prune.random_unstructured(model[0], "weight", 0.5)
    before = copy.deepcopy(model[0].state_dict())
    attribute = model[0].weight
    sparsefl.sparsify(model)
    assert model[0].weight is attribute
    assert all(torch.equal(v, before[k]) for k, v in model[0].state_dict().items())
