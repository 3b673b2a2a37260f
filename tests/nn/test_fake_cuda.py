"""Layers on fake CUDA tensors: devices, shapes and dtypes, and nothing that waits for the device.

Without a GPU autograd's engine refuses CUDA tensors even where they are fake (seen with torch 2.11
and 2.13), so forward passes run without gradients here and backward passes are called by hand; both
with autograd, and compiled, are tested on CPU tensors in test_device_path.py. A part needs a torch
that is built with CUDA, with a device or without.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import sparsefl
from sparsefl.ops import _cuda_dense, _cuda_gated
from sparsefl.ops._conv2d import DenseConv2dFunction
from sparsefl.ops._linear import DenseLinearFunction
from sparsefl.ops._magnitude import Magnitude

CUDA = torch.device("cuda:0")
# Copies between memory formats and some of torch's decompositions ask for the device's guard.
GUARDED = pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="torch is built without CUDA, even for fake tensors"
)
CONV = nn.Conv2d(6, 8, (3, 2), stride=2, padding=1)
LINEAR = nn.Linear(30, 7)


def kept(layer: nn.Module) -> Tensor:
    return torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4


def kept_lines(layer: nn.Module, structure: str) -> sparsefl.Support:
    return sparsefl.Support.random(tuple(layer.weight.shape), 0.4, structure=structure)


def norm_block(norm: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(6, 8, 3), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return sparsefl.sparsify(model, {"0.weight": kept(model[0])})


MODELS = {
    "SparseLinear": (lambda: sparsefl.nn.SparseLinear.from_dense(LINEAR, kept(LINEAR)), (5, 30)),
    "SparseConv2d": (lambda: sparsefl.nn.SparseConv2d.from_dense(CONV, kept(CONV)), (4, 6, 9, 8)),
    "SparseLinear of rows": (
        lambda: sparsefl.nn.SparseLinear.from_dense(LINEAR, kept_lines(LINEAR, "rows")),
        (5, 30),
    ),
    "SparseConv2d of columns": (
        lambda: sparsefl.nn.SparseConv2d.from_dense(CONV, kept_lines(CONV, "columns")),
        (4, 6, 9, 8),
    ),
    "SignLinear": (lambda: sparsefl.nn.SignLinear(30, 7, kept(LINEAR)), (2, 5, 30)),
    "SignConv2d": (
        lambda: sparsefl.nn.SignConv2d(6, 8, (3, 2), kept(CONV), magnitude="kaiming"),
        (4, 6, 9, 8),
    ),
    "GatedConvBN2d": (
        lambda: sparsefl.nn.GatedConvBN2d(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)),
        (4, 6, 9, 8),
    ),
    "FrozenLinear": (lambda: sparsefl.nn.FrozenLinear(30, 7), (5, 30)),
    "FrozenConv2d": (lambda: sparsefl.nn.FrozenConv2d(6, 8, 3, padding="same"), (4, 6, 9, 8)),
    "FrozenLinear, regenerated": (
        lambda: sparsefl.nn.FrozenLinear(30, 7, regenerate=True),
        (5, 30),
    ),
    "batch norm, ReLU, pooling": (lambda: norm_block(nn.BatchNorm2d(8)), (4, 6, 9, 8)),
    "group norm, ReLU, pooling": (lambda: norm_block(nn.GroupNorm(2, 8)), (4, 6, 9, 8)),
    "BitReLU": (sparsefl.nn.BitReLU, (5, 30)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=GUARDED if name[:5] in ("Gated", "batch") else ())
        for name in MODELS
    ],
)
def test_forward_stays_on_the_device(name, request):
    make, size = MODELS[name]
    model = make()
    expected = model(torch.randn(size)).shape
    moved = request.getfixturevalue("moved_to_fake_cuda")
    y = moved(model)(torch.empty(size, device=CUDA))
    assert (y.device, y.dtype, y.shape) == (CUDA, torch.float32, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_keep_their_dtype(dtype, request):
    layer = sparsefl.nn.SparseConv2d.from_dense(CONV, kept(CONV)).to(dtype)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    assert moved(layer)(torch.empty(2, 6, 5, 5, device=CUDA, dtype=dtype)).dtype == dtype


def test_a_plan_on_the_device_holds_positions_alone(request):
    layer = sparsefl.nn.SparseLinear.from_dense(LINEAR, kept(LINEAR))
    host, nnz = layer.plan, layer.support.nnz
    moved = request.getfixturevalue("moved_to_fake_cuda")
    plan = moved(layer).plan
    assert (plan.order.device, plan.forward.columns.device) == (CUDA, CUDA)
    assert (plan.forward.columns.shape, plan.forward.begin.numel()) == ((nnz,), 0)
    assert plan.host is host


class Context(SimpleNamespace):
    """What a function of autograd is given."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


@pytest.mark.parametrize("magnitude", [None, Magnitude(None, 0.5)], ids=["values", "signs"])
@pytest.mark.parametrize("kind", ["linear", pytest.param("conv", marks=GUARDED)])
@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False), (True, False, True)])
def test_backward_stays_on_the_device(needs, kind, magnitude, request):
    dense, size = (LINEAR, (5, 30)) if kind == "linear" else (CONV, (4, 6, 9, 8))
    layers = sparsefl.nn.SparseLinear, sparsefl.nn.SparseConv2d
    layer = layers[kind == "conv"].from_dense(dense, kept(dense))
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    x, context = torch.empty(size, device=CUDA), Context(needs_input_grad=(*needs, False, False))
    function, geometry = DenseLinearFunction, ()
    if kind == "conv":
        function, geometry = DenseConv2dFunction, ((1, 1),)
        context.needs_input_grad += (False,)
    y = function.forward(context, x, layer.values, layer.bias, magnitude, layer.plan, *geometry)
    gradients = function.backward(context, torch.empty_like(y))
    of = (x, layer.values, layer.bias)
    for gradient, tensor, needed in zip(gradients, of, needs, strict=False):
        assert (gradient is not None) == needed
        if needed:
            assert (gradient.shape, gradient.device) == (tensor.shape, CUDA)


@GUARDED
def test_implementations_need_no_data(moved_to_fake_cuda):
    dense, at = torch.empty(6, 4, device=CUDA), torch.empty(9, device=CUDA, dtype=torch.int64)
    stored = torch.empty(9, device=CUDA)
    view = (at[:0], at, None, at[:0], 0)
    assert _cuda_dense.dense_weight(stored, None, 2.0, True, *view, dense) is None
    assert _cuda_dense.kept_gradient(dense, stored, 0.0, True, *view).shape == (9,)
    assert _cuda_dense.transpose(dense).stride() == (6, 1)
    channels = [torch.empty(4, device=CUDA) for _ in range(4)]
    _cuda_gated.gated_update(*channels, at[:4], 25, 0.1)


def test_a_tensor_elsewhere_is_refused(request):
    layer = sparsefl.nn.SparseLinear.from_dense(LINEAR, kept(LINEAR))
    x = torch.randn(2, 30)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    with pytest.raises(ValueError, match="values: expected the input's device cpu, got cuda:0"):
        moved(layer)(x)


@GUARDED
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_layer_compiles_whole(request):
    layer = sparsefl.nn.SparseConv2d.from_dense(CONV, kept(CONV))
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    x = torch.empty(4, 6, 9, 8, device=CUDA)
    y = torch.compile(layer, fullgraph=True, backend="eager")(x)
    assert y.device == CUDA
