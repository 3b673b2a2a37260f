"""torch.func and forward mode are refused by name; torch.compile, checkpoints and clones work."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn
from torch._dynamo.exc import Unsupported
from torch.utils.checkpoint import checkpoint

import sparsefl
from sparsefl.nn import (
    BatchLastAdaptiveAvgPool2d,
    BatchLastAvgPool2d,
    BatchLastBatchNorm2d,
    BatchLastMaxPool2d,
    FrozenConv2d,
    FrozenLinear,
    SignConv2d,
    SignLinear,
    SparseConv2d,
    SparseLinear,
)

# Raised inside torch when dynamo traces any autograd function.
DYNAMO = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def mask(*shape, density=0.3):
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) < density


LAYERS = {
    "sparse_linear": (lambda: SparseLinear(6, 4, mask(4, 6)), (5, 6)),
    "sparse_linear_dense_inside": (lambda: SparseLinear(6, 4, mask(4, 6, density=0.9)), (5, 6)),
    "sign_linear": (lambda: SignLinear(6, 4, mask(4, 6)), (5, 6)),
    "sparse_conv": (lambda: SparseConv2d(3, 4, 3, mask(4, 3, 3, 3)), (5, 3, 6, 6)),
    "sign_conv": (lambda: SignConv2d(3, 4, 3, mask(4, 3, 3, 3)), (5, 3, 6, 6)),
    "frozen_conv": (lambda: FrozenConv2d(3, 4, 3), (5, 3, 6, 6)),
    "frozen_linear_regenerated": (lambda: FrozenLinear(6, 4, regenerate=True), (5, 6)),
}
TRANSFORMS = {
    "vmap": lambda layer, x: torch.func.vmap(layer)(x[:, None]),
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).sum())(x),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "dual": lambda layer, x: dual(layer, x),
    "functional_jacobian": lambda layer, x: torch.func.jacrev(layer)(x),
}


def dual(layer, x):
    with forward_ad.dual_level():
        return layer(forward_ad.make_dual(x, x))


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer_and_input(request):
    make, shape = request.param
    return make(), torch.randn(shape)


# torch's own forward mode of dense layers scripts its formulas.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_transforms_are_refused_by_name(layer_and_input, transform):
    layer, x = layer_and_input
    kind = type(layer).__name__
    with pytest.raises(NotImplementedError, match=rf"{kind} does not support.*sparsefl\.densify"):
        transform(layer, x)
    plain = sparsefl.densify(nn.Sequential(layer))[0]
    transform(plain, x)


def test_a_frozen_linear_layer_with_its_weight_kept_is_plain_torch():
    layer, x = FrozenLinear(6, 4), torch.randn(5, 6)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


def test_shapes_are_computed_on_the_meta_device(layer_and_input):
    layer, x = layer_and_input
    expected = layer(x).shape
    assert layer.to("meta")(x.to("meta")).shape == expected


def test_functional_call_works(layer_and_input):
    layer, x = layer_and_input
    doubled = {name: 2 * p for name, p in layer.named_parameters()}
    expected = torch.func.functional_call(layer, doubled, (x,))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(expected, layer(x))


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not_reentrant"])
def test_checkpointing_gives_the_same_gradients(layer_and_input, reentrant):
    layer, x = layer_and_input
    x.requires_grad_()
    results = []
    for call in (lambda: layer(x), lambda: checkpoint(layer, x, use_reentrant=reentrant)):
        layer.zero_grad()
        call().square().sum().backward()
        results.append([x.grad, *(p.grad for p in layer.parameters())])
        x.grad = None
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


class Residual(nn.Module):
    """A block that adds in place, one of its convolutions dense inside."""

    def __init__(self):
        super().__init__()
        self.first = SparseConv2d(4, 4, 3, mask(4, 4, 3, 3), padding=1)
        self.norm = BatchLastBatchNorm2d(4)
        self.second = SparseConv2d(4, 4, 3, mask(4, 4, 3, 3, density=0.9), padding=1)

    def forward(self, x):
        out = self.second(F.relu(self.norm(self.first(x)), inplace=True))
        out += x
        return out


@DYNAMO
def test_a_model_of_all_kinds_compiles_without_graph_breaks():
    model = nn.Sequential(
        SparseConv2d(3, 4, 3, mask(4, 3, 3, 3), padding="same"),
        nn.ReLU(inplace=True),
        Residual(),
        SignConv2d(4, 4, 3, mask(4, 4, 3, 3), padding=1),
        BatchLastAvgPool2d(1),
        BatchLastMaxPool2d(1),
        FrozenConv2d(4, 4, 3, stride=2),
        nn.ReLU(inplace=True),
        BatchLastAdaptiveAvgPool2d(2),
        nn.Flatten(),
        SparseLinear(16, 8, mask(8, 16)),
        nn.BatchNorm1d(8),
        SignLinear(8, 8, mask(8, 8)),
        SignLinear(8, 8, mask(8, 8, density=0.9)),
        FrozenLinear(8, 5),
    )
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    x = torch.randn(7, 3, 6, 6)
    for module in (compiled, model):
        model.zero_grad()
        loss = F.cross_entropy(module(x), torch.arange(7) % 5)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@DYNAMO
def test_a_regenerated_weight_breaks_the_graph_and_says_why():
    layer, x = FrozenLinear(6, 4, regenerate=True), torch.randn(5, 6)
    with pytest.raises(Unsupported, match=r"regenerate=True draws .* use regenerate=False"):
        torch.compile(layer, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x), layer(x))


@DYNAMO
def test_a_compiled_model_takes_other_batches_and_a_new_support():
    model = nn.Sequential(SparseLinear(6, 8, mask(8, 6)), nn.ReLU(), SparseLinear(8, 4, mask(4, 8)))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for batch in (3, 5, 1):
        x = torch.randn(batch, 6)
        torch.testing.assert_close(compiled(x), model(x))
    model[0].set_support(mask(8, 6, density=0.5))
    torch.testing.assert_close(compiled(x), model(x))


def test_a_sparse_model_exports_too(layer_and_input):
    layer, x = layer_and_input
    if isinstance(layer, FrozenLinear):
        pytest.skip("a draw cannot be traced")
    layer(x)
    exported = torch.export.export(nn.Sequential(layer), (x,))
    torch.testing.assert_close(exported.module()(x), layer(x))
