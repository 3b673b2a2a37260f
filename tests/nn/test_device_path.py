"""What layers compute on CUDA devices, run on CPU tensors: the same functions, no GPU needed.

Torch's dispatcher is given the CUDA implementations for CPU tensors, and the layers a plan as such
a device walks it. On a device itself, the same layers are tested in tests/gpu.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

import sparsefl
from sparsefl.ops import _dense, _dispatch
from sparsefl.ops._plan import on_device

CPU = torch.device("cpu")
LAYERS = {
    "linear": (lambda: nn.Linear(300, 17), (9, 300)),
    "linear, one row": (lambda: nn.Linear(7, 5, bias=False), (1, 7)),
    "linear, leading dimensions": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "conv": (lambda: nn.Conv2d(40, 5, 3, padding=1), (6, 40, 7, 8)),
    "stride, no bias": (lambda: nn.Conv2d(4, 3, (2, 3), stride=2, bias=False), (2, 4, 6, 7)),
    "dilated groups": (lambda: nn.Conv2d(6, 4, 3, dilation=2, groups=2), (3, 6, 9, 8)),
    "uneven same": (lambda: nn.Conv2d(3, 4, (2, 4), padding="same"), (2, 3, 5, 6)),
    "pointwise": (lambda: nn.Conv2d(33, 20, 1), (3, 33, 4, 5)),
}


@pytest.fixture
def device_path(monkeypatch, cuda_functions_on_cpu):
    """Lets CPU tensors take the path of a CUDA device's; returns what moves a layer onto it."""
    monkeypatch.setattr(_dispatch, "accelerated", lambda device: True)

    def move(model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if hasattr(layer, "_plan"):
                layer._plan = on_device(layer._plan, CPU)
        return model

    return move


def masked(dense: nn.Module, mask: Tensor, signs: float | Tensor | None) -> nn.Module:
    """Returns the dense layer with the weight that a layer of the mask has."""
    twin = copy.deepcopy(dense)
    with torch.no_grad():
        if signs is not None:
            twin.weight.copy_(torch.where(twin.weight >= 0, 1.0, -1.0) * signs)
        twin.weight.mul_(mask)
    return twin


def crossings(shape: tuple[int, ...]) -> Tensor:
    """Returns a mask that keeps whole rows and columns: two of three, and half."""
    rows, columns = torch.arange(shape[0]) % 3 != 1, torch.arange(shape[1]) % 2 == 0
    mask = rows[:, None] & columns
    return mask.view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)


def differentiate(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Returns output and gradients of input and bias, and the layer with its weight's."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    y.backward(grad)
    return y.detach(), x.grad, x.grad if layer.bias is None else layer.bias.grad


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0, "crossings"], ids="density={}".format)
@pytest.mark.parametrize("kind", ["sparse", "sign", "sign, magnitudes"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_layers_equal_masked_dense_ones(
    name, kind, density, device_path, random_mask, convert, assert_matches
):
    make, size = LAYERS[name]
    dense, x = make(), torch.randn(size)
    if density == "crossings":
        mask = crossings(dense.weight.shape)
    else:
        mask = random_mask(dense.weight.shape, density)
    magnitude, factor = None, torch.ones(())
    options = {}
    if kind != "sparse":
        factor = torch.rand(dense.weight.shape) if "magnitudes" in kind else torch.tensor(0.25)
        magnitude = factor if factor.dim() else float(factor)
        options = {"magnitude": magnitude}
    layer = device_path(convert(dense, mask, kind.split(",")[0], **options))
    plain = masked(dense, mask, None if kind == "sparse" else factor)
    if len(size) == 4:
        x = x.to(memory_format=torch.channels_last)
    exact = copy.deepcopy(plain).double()
    results = [
        differentiate(m, x.to(m.bias.dtype if m.bias is not None else w))
        for m, w in ((layer, torch.float32), (exact, torch.float64), (plain, torch.float32))
    ]
    for what, ours, ref, same in zip(("output", "x", "bias"), *results, strict=True):
        assert_matches(ours, ref, same, what)
    latent = layer._latent.grad
    scale = factor.expand(mask.shape)[mask]
    kept = [(m.weight.grad[mask] * scale.to(m.weight.dtype)) for m in (exact, plain)]
    assert_matches(layer.row_major(latent), *kept, "stored gradient")


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_whole_rows_and_columns_need_no_scratch_weight(name, device_path, convert, monkeypatch):
    make, size = LAYERS[name]
    dense = make()
    layer = device_path(convert(dense, crossings(dense.weight.shape)))
    monkeypatch.delattr(_dense, "fill_weight")
    monkeypatch.delattr(_dense, "kept_gradient")
    layer(torch.randn(size, requires_grad=True)).sum().backward()
    assert layer.values.grad.any()


@pytest.mark.parametrize("needs_x", [False, True])
def test_a_layer_asks_for_what_is_differentiated_alone(needs_x, device_path, random_mask, convert):
    dense = nn.Conv2d(5, 4, 3)
    layer = device_path(convert(dense, random_mask(dense.weight.shape)))
    x = torch.randn(2, 5, 6, 7, requires_grad=needs_x)
    layer.values.requires_grad_(not needs_x)
    layer(x).sum().backward()
    assert (x.grad is None, layer.values.grad is None) == (not needs_x, needs_x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes_are_not_widened(dtype, device_path, random_mask, convert, assert_matches):
    dense = nn.Linear(40, 9)
    mask = random_mask(dense.weight.shape)
    plain = masked(dense, mask, None).to(dtype)
    layer = device_path(convert(dense, mask).to(dtype))
    x = torch.randn(6, 40).to(dtype)
    ours, same = differentiate(layer, x), differentiate(plain, x)
    exact = differentiate(copy.deepcopy(plain).double(), x.double())
    for what, mine, ref, theirs in zip(("output", "x", "bias"), ours, exact, same, strict=True):
        assert_matches(mine, ref, theirs, what)


@pytest.mark.parametrize("name", ["linear", "conv", "pointwise"])
def test_autocast_computes_in_its_dtype_and_trains_float32(
    name, device_path, random_mask, convert, assert_matches
):
    make, size = LAYERS[name]
    dense, x = make(), torch.randn(size)
    mask = random_mask(dense.weight.shape, 0.4)
    layer, plain = device_path(convert(dense, mask)), masked(dense, mask, None)
    with torch.autocast("cpu", torch.bfloat16):
        ours, same = differentiate(layer, x), differentiate(plain, x)
    exact = differentiate(copy.deepcopy(plain).double(), x.double())
    assert ours[0].dtype == torch.bfloat16
    assert layer.values.grad.dtype == ours[1].dtype == torch.float32
    for what, mine, ref, theirs in zip(("output", "x", "bias"), ours, exact, same, strict=True):
        assert_matches(mine, ref, theirs, what)


def test_a_channels_last_image_meets_a_channels_last_weight(device_path, random_mask, convert):
    dense = nn.Conv2d(8, 6, 3)
    layer = device_path(convert(dense, random_mask(dense.weight.shape)))
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last)
    weights = []

    def seen(function, types, args=(), kwargs=None):
        weights.append(args[1])
        return torch.zeros(2, 6, 3, 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsefl.ops._conv2d.conv2d", lambda *args: seen(None, None, args))
        layer(x)
    (weight,) = weights
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, masked(dense, layer.support.to_mask(), None).weight)


@pytest.mark.parametrize("stats", ["active", "all"])
@pytest.mark.parametrize("training", [True, False])
def test_gated_layers_equal_their_formula(stats, training, device_path, assert_matches):
    def make(kind, dtype):
        torch.manual_seed(4)
        layer = kind(nn.Conv2d(5, 12, 3), nn.BatchNorm2d(12), 0.4, stats)
        nn.init.normal_(layer.bn.weight)
        return layer.to(dtype).train(training)

    x = torch.randn(6, 5, 7, 6)
    results = []
    for kind, dtype in (
        (sparsefl.nn.GatedConvBN2d, torch.float32),
        (sparsefl.nn.PlainGatedConvBN2d, torch.float64),
        (sparsefl.nn.PlainGatedConvBN2d, torch.float32),
    ):
        layer, inputs = make(kind, dtype), x.detach().to(dtype).requires_grad_()
        y = layer(inputs)
        y.square().sum().backward()
        parameters = (p.grad for p in layer.parameters())
        results.append((y.detach(), inputs.grad, *parameters, *layer.bn.buffers()))
    for ours, ref, same in zip(*results, strict=True):
        if ours.is_floating_point():
            assert_matches(ours, ref, same)
        else:
            assert torch.equal(ours, ref)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_model_compiles_whole_and_trains(device_path, random_mask):
    conv = sparsefl.nn.SparseConv2d(5, 4, 3, random_mask((4, 5, 3, 3)))
    linear = sparsefl.nn.SignLinear(64, 6, random_mask((6, 64)))
    model = device_path(nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, 6, 6)
    for module in (model, compiled):
        module(x).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_packed_signs_say_where_they_run(device_path):
    model = nn.Sequential(sparsefl.nn.SignLinear(6, 4, torch.ones(4, 6, dtype=torch.bool)))
    packed = sparsefl.export_sign(model)
    with pytest.raises(NotImplementedError, match=r"CPU only.*densify"), torch.inference_mode():
        packed(torch.randn(2, 6))


def test_a_moved_plan_returns_to_what_it_was(random_mask, convert):
    dense = nn.Conv2d(5, 4, 3)
    plan = convert(dense, random_mask(dense.weight.shape)).plan
    moved = on_device(plan, torch.device("meta"))
    assert moved.order.is_meta
    assert moved.to("cpu") is plan
