"""What autograd does with a layer's outputs: changed in place, differentiated once, traced."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefl
from sparsefl.nn import (
    FrozenConv2d,
    FrozenLinear,
    SignConv2d,
    SignLinear,
    SparseConv2d,
    SparseLinear,
)


def mask(*shape, density=0.3):
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) < density


LAYERS = {
    "sparse_linear": (lambda: SparseLinear(6, 4, mask(4, 6)), (5, 6)),
    "sparse_linear_deep": (lambda: SparseLinear(6, 4, mask(4, 6)), (2, 5, 6)),
    "sparse_linear_dense_inside": (lambda: SparseLinear(6, 4, mask(4, 6, density=0.9)), (5, 6)),
    "sign_linear": (lambda: SignLinear(6, 4, mask(4, 6)), (5, 6)),
    "sparse_conv": (lambda: SparseConv2d(3, 4, 3, mask(4, 3, 3, 3)), (5, 3, 6, 6)),
    "sparse_conv_unbatched": (lambda: SparseConv2d(3, 4, 3, mask(4, 3, 3, 3)), (3, 6, 6)),
    "sparse_conv_pointwise": (lambda: SparseConv2d(3, 4, 1, mask(4, 3, 1, 1)), (5, 3, 6, 6)),
    "sparse_conv_dense_inside": (
        lambda: SparseConv2d(3, 4, 3, mask(4, 3, 3, 3, density=0.9)),
        (5, 3, 6, 6),
    ),
    "sign_conv": (lambda: SignConv2d(3, 4, 3, mask(4, 3, 3, 3)), (5, 3, 6, 6)),
}
FROZEN = {
    "frozen_linear": (lambda: FrozenLinear(6, 4), (5, 6)),
    "frozen_conv": (lambda: FrozenConv2d(3, 4, 3), (5, 3, 6, 6)),
    "frozen_conv_unbatched": (lambda: FrozenConv2d(3, 4, 3), (3, 6, 6)),
    "regenerated_linear": (lambda: FrozenLinear(6, 4, regenerate=True), (5, 6)),
    "regenerated_linear_one": (lambda: FrozenLinear(6, 4, regenerate=True), (6,)),
    "regenerated_linear_deep": (lambda: FrozenLinear(6, 4, regenerate=True), (2, 5, 6)),
    "regenerated_conv": (lambda: FrozenConv2d(3, 4, 3, regenerate=True), (5, 3, 6, 6)),
}
EVERY = LAYERS | FROZEN
IN_PLACE = {
    "relu": lambda out: F.relu(out, inplace=True),
    "relu_module": nn.ReLU(inplace=True),
    "add": lambda out: out.add_(torch.ones_like(out)),
    "chain": lambda out: out.mul_(2).sub_(1).clamp_(-1, 1),
    "item": lambda out: out.index_fill_(-1, torch.tensor([0]), 0.0),
    "dropout": lambda out: F.dropout(out, 0.0, inplace=True),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer_and_input(request):
    make, shape = request.param
    return make(), torch.randn(shape)


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE.keys())
@pytest.mark.parametrize("layer_and_input", EVERY.values(), ids=EVERY.keys(), indirect=True)
def test_an_output_may_be_changed_in_place(layer_and_input, change):
    layer, x = layer_and_input
    results = []
    for module in (layer, sparsefl.densify(nn.Sequential(layer))[0]):
        inputs = x.clone().requires_grad_()
        out = change(module(inputs))
        out.square().sum().backward()
        results.append((out.detach(), inputs.grad, module.bias.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_second_derivative_is_refused(layer_and_input):
    layer, x = layer_and_input
    message = r"first derivatives only.*sparsefl\.densify"
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=message):
        grad.square().sum().backward()
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.functional.hessian(lambda x: layer(x).square().sum(), x)


def test_a_first_derivative_may_keep_its_graph(layer_and_input):
    layer, x = layer_and_input
    x.requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (plain,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert torch.equal(grad, plain)


# Raised inside torch when dynamo traces any autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_layer_that_has_not_run_compiles_without_graph_breaks(layer_and_input):
    layer, x = layer_and_input
    torch.compiler.reset()
    model = nn.Sequential(layer, nn.ReLU(inplace=True))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for module in (compiled, model):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        out = module(inputs)
        out.square().sum().backward()
        results.append([out.detach(), inputs.grad, *(p.grad for p in layer.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
