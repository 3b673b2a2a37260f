"""The computed weight: read as any tensor, never written."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsefl.nn import FrozenLinear, SignLinear, SparseLinear

LAYERS = {
    "sparse": (lambda mask: SparseLinear(6, 4, mask), r"SparseLinear\.weight .*layer\.values"),
    "sign": (lambda mask: SignLinear(6, 4, mask), r"SignLinear\.weight .*layer\.scores"),
    "frozen": (lambda mask: FrozenLinear(6, 4, seed=3), r"FrozenLinear\.weight .*seed"),
}
WRITES = {
    "init": lambda layer: nn.init.xavier_uniform_(layer.weight),
    "init_constant": lambda layer: nn.init.zeros_(layer.weight),
    "data": lambda layer: layer.weight.data.normal_(0.0, 0.02),
    "in_place": lambda layer: layer.weight.mul_(2.0),
    "item": lambda layer: layer.weight.__setitem__(0, 0.0),
    "out": lambda layer: torch.add(layer.weight, 1.0, out=layer.weight),
    "set_data": lambda layer: setattr(layer.weight, "data", torch.zeros(4, 6)),
    "requires_grad": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer_and_message(request, random_mask):
    make, message = request.param
    return make(random_mask((4, 6))), message


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_writing_is_refused_and_changes_nothing(layer_and_message, write):
    layer, message = layer_and_message
    before = layer.weight.detach().clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=f"{message}.*sparsefl.densify"):
        write(layer)
    assert torch.equal(layer.weight, before)


def test_an_initialisation_of_every_module_is_told(random_mask):
    def draw(module):
        if hasattr(module, "weight"):
            nn.init.normal_(module.weight)

    model = nn.Sequential(nn.Linear(6, 6), SparseLinear(6, 4, random_mask((4, 6))))
    with pytest.raises(RuntimeError, match=r"layer\.values .*sparsefl\.densify"):
        model.apply(draw)


def test_what_is_computed_from_it_is_plain(layer_and_message):
    layer, _ = layer_and_message
    weight = layer.weight
    x = torch.randn(3, 6)
    results = [
        weight.detach(),
        weight.t(),
        weight + 1,
        weight.contiguous(),
        weight.float(),
        F.linear(x, weight),
        x @ weight.T,
        weight.abs().max(),
    ]
    assert {type(result) for result in results} == {torch.Tensor}
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))
    torch.testing.assert_close(weight, nn.Parameter(weight.detach()))
    assert weight.detach().numpy().shape == (4, 6)
    nn.Linear(6, 4).weight.data.copy_(weight)
    assert repr(weight).startswith("ComputedWeight(")


def test_it_is_saved_as_a_plain_tensor(layer_and_message):
    layer, _ = layer_and_message
    file = io.BytesIO()
    torch.save({"weight": layer.weight}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["weight"]
    assert type(loaded) is torch.Tensor
    assert torch.equal(loaded, layer.weight)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_may_read_it(random_mask):
    layer = SparseLinear(6, 4, random_mask((4, 6)))
    x = torch.randn(3, 6)
    compiled = torch.compile(lambda x: F.linear(x, layer.weight), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), F.linear(x, layer.weight))
