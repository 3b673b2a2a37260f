"""Packed sign layers: the outputs of the model they come from, small files, no gradients."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefl
from sparsefl import Support
from sparsefl.nn import PackedSignConv2d, PackedSignLinear, SignConv2d, SignLinear


def sign_linear(density: float = 0.1, **options: Any) -> SignLinear:
    return SignLinear(300, 200, Support.random((200, 300), density, seed=1), **options)


def sign_conv(density: float = 0.1, **options: Any) -> SignConv2d:
    return SignConv2d(16, 24, 3, Support.random((24, 16, 3, 3), density, seed=1), **options)


MAKERS = pytest.mark.parametrize(
    ("make", "shape"),
    [
        pytest.param(sign_linear, (5, 300), id="linear"),
        pytest.param(sign_conv, (5, 16, 7, 6), id="conv"),
    ],
)


class Net(nn.Module):
    """A first and last layer that stay dense, packed ones between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.hidden = nn.Linear(32 * 4, 512)
        self.last = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = self.pool(torch.relu(self.conv(x))).flatten(1)
        return self.last(torch.relu(self.hidden(x)))


def trained(density: float = 0.1) -> nn.Module:
    net = Net()
    shapes = {"conv.weight": net.conv.weight.shape, "hidden.weight": net.hidden.weight.shape}
    masks = {name: torch.rand(shape) < density for name, shape in shapes.items()}
    model = sparsefl.sparsify(net, masks, layer="sign")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        model(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@MAKERS
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_outputs_are_those_of_the_sign_layer(
    make: Any, shape: tuple[int, ...], density: float, bias: bool
) -> None:
    layer, x = make(density, bias=bias), torch.randn(shape)
    kind = PackedSignLinear if isinstance(layer, SignLinear) else PackedSignConv2d
    for batch_size in (1, 64):
        packed = kind.from_sign(layer, batch_size=batch_size)
        torch.testing.assert_close(packed(x), layer(x).detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(packed(x[0]), layer(x).detach()[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": "valid"},
        {"padding": (0, 2), "stride": (1, 3)},
    ],
    ids=str,
)
def test_convolution_geometry_is_kept(options: dict[str, Any]) -> None:
    layer, x = sign_conv(0.2, **options), torch.randn(3, 16, 9, 10)
    packed = PackedSignConv2d.from_sign(layer)
    torch.testing.assert_close(packed(x), layer(x).detach(), rtol=1e-5, atol=1e-5)


def test_grouped_convolution() -> None:
    support = Support.random((12, 2, 3, 3), 0.4, seed=2)
    layer, x = SignConv2d(8, 12, 3, support, groups=4), torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(
        PackedSignConv2d.from_sign(layer)(x), layer(x).detach(), rtol=1e-5, atol=1e-5
    )


@MAKERS
def test_packed_layer_keeps_signs_support_weight_and_sizes(
    make: Any, shape: tuple[int, ...]
) -> None:
    layer = make(0.3)
    kind = PackedSignLinear if isinstance(layer, SignLinear) else PackedSignConv2d
    packed = kind.from_sign(layer)
    assert packed.support == layer.support
    torch.testing.assert_close(packed.weight.as_subclass(Tensor), layer.weight.detach())
    dense = packed.to_dense()
    x = torch.randn(shape)
    torch.testing.assert_close(packed(x), dense(x).detach(), rtol=1e-5, atol=1e-5)
    assert packed.dense_state_shapes() == layer.dense_state_shapes()
    assert "bits a weight" in repr(packed)


def test_export_gives_the_models_outputs_in_evaluation_mode() -> None:
    model, x = trained(), torch.randn(6, 1, 8, 8)
    small = sparsefl.export_sign(model)
    assert model.training
    assert not small.training
    assert isinstance(small.conv, PackedSignConv2d)
    assert isinstance(small.hidden, PackedSignLinear)
    assert type(small.norm) is nn.BatchNorm2d
    torch.testing.assert_close(small(x), model.eval()(x).detach(), rtol=1e-4, atol=1e-5)


def test_exported_model_has_no_scores_and_no_gradients() -> None:
    small = sparsefl.export_sign(trained())
    assert not any("scores" in name for name in small.state_dict())
    assert not any(p.requires_grad for p in small.parameters())
    assert not small(torch.randn(2, 1, 8, 8)).requires_grad


def test_an_input_that_needs_a_gradient_is_refused() -> None:
    packed = PackedSignLinear.from_sign(sign_linear())
    with pytest.raises(RuntimeError, match=r"packed signs have none: run under torch\.inference"):
        packed(torch.randn(2, 300, requires_grad=True))


def saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_file_takes_one_bit_and_the_density_a_weight(density: float) -> None:
    layer = SignLinear(1024, 1024, Support.random((1024, 1024), density, seed=1))
    data = saved(sparsefl.export_sign(layer))
    biases_and_names = 4 * 1024 + 4096
    assert len(data) <= (1 + density) / 8 * 1024 * 1024 + biases_and_names


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("density", [0.01, 0.04, 0.1, 0.2, 0.5, 0.9])
def test_memory_is_below_two_bits_a_weight(density: float, batch_size: int) -> None:
    layer = SignLinear(1024, 1024, Support.random((1024, 1024), density, seed=1))
    packed = PackedSignLinear.from_sign(layer, batch_size=batch_size)
    held = [*packed.parameters(), *packed.buffers(), *vars(packed).values()]
    total = sum(t.nbytes for t in held if isinstance(t, Tensor))
    assert total == packed.signs.nbytes + packed.bias.nbytes
    assert packed.signs.nbytes * 8 / 1024**2 <= 2.0


def test_load_gives_the_exported_model_back_into_a_plain_one() -> None:
    small, x = sparsefl.export_sign(trained()), torch.randn(3, 1, 8, 8)
    state = torch.load(io.BytesIO(saved(small)), weights_only=True)
    plain = Net()
    loaded = sparsefl.load_sign(plain, state)
    assert isinstance(plain.conv, nn.Conv2d)
    assert torch.equal(loaded(x), small(x))
    again = loaded.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_load_works_whatever_layout_wrote_it(batch_size: int) -> None:
    small, x = sparsefl.export_sign(trained(), batch_size=batch_size), torch.randn(3, 1, 8, 8)
    loaded = sparsefl.load_sign(trained(0.9), small.state_dict(), batch_size=33 - batch_size)
    torch.testing.assert_close(loaded(x), small(x), rtol=1e-4, atol=1e-5)


def test_exported_model_loads_another_support() -> None:
    first, second = sparsefl.export_sign(trained(0.6)), sparsefl.export_sign(trained(0.02))
    first.load_state_dict(second.state_dict())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(first(x), second(x))


def test_int8_activations_stay_close() -> None:
    model, x = trained(), torch.randn(64, 1, 8, 8)
    exact, rounded = sparsefl.export_sign(model)(x), sparsefl.export_sign(model, "int8")(x)
    error = (rounded - exact).std() / exact.std()
    assert 0 < error < 0.05


def test_densify_copy_pickle_and_compile() -> None:
    small, x = sparsefl.export_sign(trained()), torch.randn(2, 1, 8, 8)
    expected = small(x)
    torch.testing.assert_close(sparsefl.densify(small)(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(small)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), expected)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_traces_whole() -> None:
    small, x = sparsefl.export_sign(trained()), torch.randn(2, 1, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(small)(x), small(x))


def test_autocast_and_inference_mode() -> None:
    small, x = sparsefl.export_sign(trained()), torch.randn(2, 1, 8, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(small(x).float(), small(x.bfloat16()).float())
    for wrong in (torch.float16, torch.float64):
        with pytest.raises(TypeError, match="computes in float32, not in"):
            small.to(wrong)


def test_one_number_of_equal_magnitudes_is_kept_and_others_are_refused() -> None:
    same = sign_linear(magnitude=torch.full((200, 300), 0.25))
    assert PackedSignLinear.from_sign(same).magnitude == 0.25
    model = nn.Sequential(nn.Identity(), sign_linear(magnitude="kaiming"))
    with pytest.raises(ValueError, match="1: magnitude differs between the weights"):
        sparsefl.export_sign(model)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparsefl.export_sign(nn.Linear(3, 2)), ValueError, "holds no sign layer"),
        (lambda: sparsefl.export_sign(3), TypeError, "model must be an nn.Module, got int"),
        (lambda: sparsefl.export_sign(sign_linear(), "int4"), ValueError, "activations: expected"),
        (lambda: sparsefl.export_sign(sign_linear(), batch_size=0), ValueError, "at least 1"),
        (lambda: sparsefl.export_sign(sign_linear().double()), TypeError, "must be float32"),
        (lambda: sparsefl.load_sign(nn.Linear(3, 2), {}), ValueError, "no packed weight"),
        (
            lambda: sparsefl.load_sign(
                nn.Linear(300, 200), sparsefl.export_sign(nn.Sequential(sign_linear())).state_dict()
            ),
            ValueError,
            "packs '0', which Linear lacks",
        ),
        (
            lambda: sparsefl.load_sign(nn.ReLU(), sparsefl.export_sign(sign_linear()).state_dict()),
            TypeError,
            "which is a ReLU",
        ),
        (
            lambda: PackedSignConv2d.from_sign(sign_linear()),
            TypeError,
            "layer must be a SignConv2d, got SignLinear",
        ),
    ],
)
def test_bad_arguments_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support_shape": torch.tensor([300, 200])}, r"support_shape must be \[200, 300\]"),
        ({"signs": torch.zeros(3, dtype=torch.uint8)}, "negative: expected"),
        ({"support": torch.zeros(7500)}, "support must be a uint8 tensor, got torch.float32"),
        ({"magnitude": torch.tensor(math.inf)}, "magnitude must be finite"),
        ({"magnitude": torch.ones(4)}, "one for all its weights"),
        ({"signs": None}, "Missing key"),
    ],
    ids=["shape", "signs", "support", "infinite", "magnitudes", "missing"],
)
def test_state_dicts_that_do_not_fit_are_refused_whole(
    change: dict[str, Any], message: str
) -> None:
    packed = PackedSignLinear.from_sign(sign_linear(0.2))
    before = packed.weight.clone()
    state = {**packed.state_dict(), **change}
    state = {name: value for name, value in state.items() if value is not None}
    with pytest.raises(RuntimeError, match=message):
        packed.load_state_dict(state)
    assert torch.equal(packed.weight, before)
