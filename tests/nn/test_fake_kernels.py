"""The Triton kernels' operators on fake CUDA tensors, and under the compiler: none is launched.

As in test_fake_cuda.py, backward passes are called by hand: autograd's engine needs a device.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import sparsefl
from sparsefl import Support
from sparsefl.ops import _dispatch, _kernel_conv2d, _kernel_linear, _passes, _verified
from sparsefl.ops._conv2d import DenseConv2dFunction
from sparsefl.ops._linear import DenseLinearFunction
from sparsefl.ops._magnitude import Magnitude

pytest.importorskip("triton")
CUDA = torch.device("cuda:0")
BLOCKS = Support.random((64, 96), 0.4, seed=1, structure=(16, 32))
ANY = Support.random((64, 96), 0.4, seed=1)
CHANNELS = Support.random((64, 96, 3, 3), 0.4, seed=1, structure=(16, 32))
ONE, EACH = Magnitude(None, 0.5), Magnitude(torch.rand(BLOCKS.nnz), 1.0)
# Support, rows, magnitude, and what computes output, input gradient and stored gradient.
CASES = {
    "blocks": (BLOCKS, 7, None, ("block_linear", "block_linear_dx", "block_dw")),
    "signs": (BLOCKS, 7, ONE, ("sign_linear", "sign_linear_dx", "block_dw")),
    "signs, magnitudes": (BLOCKS, 7, EACH, ("block_linear", "block_linear_dx", "block_dw")),
    "few rows": (ANY, 7, None, ("masked_linear", "masked_linear_dx", "masked_dw")),
    "many rows": (ANY, 70, ONE, (None, None, "masked_dw")),
}


@pytest.fixture
def every_kernel(monkeypatch):
    """Lets every kernel be chosen, at any density, and none be launched."""
    monkeypatch.setenv(_verified.OVERRIDE, "all")
    monkeypatch.setenv("SPARSEFL_LAYOUT", "sparse")
    _dispatch.forget()
    for module in (_kernel_linear, _kernel_conv2d):
        monkeypatch.delattr(module, "launcher")
    yield
    monkeypatch.undo()
    _dispatch.forget()


class Context(SimpleNamespace):
    """What a function of autograd is given."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_results_have_shape_dtype_and_device(case, dtype, every_kernel, request):
    support, rows, magnitude, expected = CASES[case]
    layer = sparsefl.nn.SparseLinear(96, 64, support).to(dtype)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    if magnitude is not None and magnitude.each is not None:
        magnitude = Magnitude(torch.empty(support.nnz, device=CUDA, dtype=dtype), 1.0)
    x = torch.empty(rows, 96, device=CUDA, dtype=dtype)
    one = magnitude is not None and magnitude.each is None
    passes = _passes.passes_of(layer.plan, x, rows, one)
    assert passes == expected
    context = Context(needs_input_grad=(True, True, True, False, False, False))
    given = (x, layer.values, layer.bias, magnitude, layer.plan, passes)
    y = DenseLinearFunction.forward(context, *given)
    assert (y.shape, y.dtype, y.device, y.is_contiguous()) == ((rows, 64), dtype, CUDA, True)
    gradients = DenseLinearFunction.backward(context, torch.empty_like(y))
    for gradient, tensor in zip(gradients, (x, layer.values, layer.bias), strict=False):
        assert (gradient.shape, gradient.dtype) == (tensor.shape, dtype)
        assert (gradient.device, gradient.is_contiguous()) == (CUDA, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [None, ONE], ids=["values", "signs"])
def test_convolutions_have_shape_dtype_device_and_order(magnitude, dtype, every_kernel, request):
    layer = sparsefl.nn.SparseConv2d(96, 64, 3, CHANNELS, stride=2, padding=1).to(dtype)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    # A copy between memory formats would ask for the device's guard.
    x = torch.empty(5, 9, 8, 96, device=CUDA, dtype=dtype).permute(0, 3, 1, 2)
    passes = _passes.passes_of(layer.plan, x, 5 * 5 * 4, magnitude is not None)
    prefix = "block" if magnitude is None else "sign"
    assert passes == (f"{prefix}_conv2d", f"{prefix}_conv2d_dx", "block_conv2d_dw")
    context = Context(needs_input_grad=(True, True, True, False, False, False, False))
    given = (x, layer.values, layer.bias, magnitude, layer.plan, (1, 1), passes)
    y = DenseConv2dFunction.forward(context, *given)
    assert (y.shape, y.dtype, y.device) == ((5, 64, 5, 4), dtype, CUDA)
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradients = DenseConv2dFunction.backward(context, torch.empty_like(y))
    for gradient, tensor in zip(gradients, (x, layer.values, layer.bias), strict=False):
        assert (gradient.shape, gradient.dtype, gradient.device) == (tensor.shape, dtype, CUDA)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["SparseConv2d", "SignConv2d"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_convolution_compiles_whole(kind, every_kernel, request):
    layer = getattr(sparsefl.nn, kind)(96, 64, 3, CHANNELS, padding=1)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    x = torch.empty(7, 6, 5, 96, device=CUDA).permute(0, 3, 1, 2)
    y = torch.compile(layer, fullgraph=True, backend="eager")(x)
    assert (y.shape, y.device) == ((7, 64, 6, 5), CUDA)


@pytest.mark.parametrize("kind", ["sparse", "sign"])
@pytest.mark.parametrize("support", [BLOCKS, ANY], ids=["blocks", "any"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_layer_compiles_whole(support, kind, every_kernel, request):
    if kind == "sparse":
        layer = sparsefl.nn.SparseLinear(96, 64, support)
    else:
        layer = sparsefl.nn.SignLinear(96, 64, support, magnitude=0.5)
    moved = request.getfixturevalue("moved_to_fake_cuda")
    moved(layer)
    assert layer.plan.kernels is not None
    y = torch.compile(layer, fullgraph=True, backend="eager")(torch.empty(7, 96, device=CUDA))
    assert (y.shape, y.device) == ((7, 64), CUDA)
