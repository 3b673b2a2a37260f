import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsefl import random
from sparsefl.nn.frozen import FrozenConv2d, FrozenLinear

CONVOLUTIONS = {
    "plain": ((3, 5, 3), {}, (2, 3, 8, 9)),
    "padded": ((4, 6, 3), {"padding": 1}, (7, 4, 5, 6)),
    "strided": ((4, 6, (3, 2)), {"stride": (2, 3), "padding": (1, 0)}, (1, 4, 11, 8)),
    "dilated": ((2, 3, 3), {"dilation": 2, "padding": 2}, (3, 2, 7, 7)),
    "grouped": ((6, 4, 3), {"groups": 2, "padding": 1}, (5, 6, 6, 5)),
    "same": ((3, 4, 5), {"padding": "same"}, (2, 3, 9, 8)),
    "same-even": ((3, 4, (2, 4)), {"padding": "same"}, (2, 3, 6, 7)),
    "valid": ((3, 4, 3), {"padding": "valid"}, (2, 3, 6, 7)),
    "no-bias": ((3, 4, 1), {"bias": False}, (2, 3, 4, 4)),
    "unbatched": ((3, 4, 3), {"padding": 1}, (3, 6, 7)),
    "empty-batch": ((3, 4, 3), {}, (0, 3, 6, 7)),
}
LINEARS = {
    "plain": ((40, 30), {}, (5, 40)),
    "no-bias": ((7, 3), {"bias": False}, (4, 7)),
    "one": ((1, 1), {}, (1, 1)),
    "vector": ((7, 65), {}, (7,)),
    "deep": ((9, 4), {}, (2, 3, 5, 9)),
    "empty-batch": ((9, 4), {}, (0, 9)),
}
CASES = [
    pytest.param(kind, *case, id=f"{kind.__name__}-{name}")
    for kind, cases in [(FrozenLinear, LINEARS), (FrozenConv2d, CONVOLUTIONS)]
    for name, case in cases.items()
]
BOTH = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda **o: FrozenLinear(12, 8, **o), id="linear"),
        pytest.param(lambda **o: FrozenConv2d(4, 6, 3, padding=1, **o), id="conv"),
    ],
)
INPUTS = {FrozenLinear: (5, 12), FrozenConv2d: (5, 4, 6, 7)}
Make = Callable[..., Any]


def example(layer: nn.Module) -> Tensor:
    return torch.randn(INPUTS[type(layer)])


# The dense layer's own warning about padding="same" with even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), CASES)
def test_outputs_and_gradients_are_those_of_dense_torch(
    kind: Any, sizes: Any, options: Any, shape: Any, regenerate: bool
) -> None:
    layer = kind(*sizes, **options, seed=3, regenerate=regenerate).double()
    dense = layer.to_dense()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    out, expected = layer(x), dense(twin)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected)
    out.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-12, atol=1e-12)
    if dense.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=1e-12, atol=1e-12)


@BOTH
def test_gradcheck(make: Make) -> None:
    layer = make(regenerate=True).double()
    x = example(layer).double().requires_grad_()
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)


@BOTH
def test_weight_is_the_seeds_stream(make: Make) -> None:
    layer = make(seed=7, name="fc.weight", std=0.25)
    expected = random.normal(7, "fc.weight", tuple(layer.weight.shape), 0.25)
    assert torch.equal(layer.weight, torch.from_numpy(expected))
    assert (layer.seed, layer.name, layer.std) == (7, "fc.weight", 0.25)


def test_default_std_is_he_et_al() -> None:
    assert FrozenLinear(50, 2).std == pytest.approx(0.2)
    assert FrozenConv2d(8, 4, (5, 5), groups=2).std == pytest.approx((2 / 100) ** 0.5)


@BOTH
def test_kept_and_regenerated_weights_are_equal(make: Make) -> None:
    assert torch.equal(make(seed=5).weight, make(seed=5, regenerate=True).weight)


@BOTH
@pytest.mark.parametrize("other", [{"seed": 8}, {"name": "other"}], ids=["seed", "name"])
def test_seed_and_name_select_the_weight(make: Make, other: dict[str, Any]) -> None:
    assert not torch.equal(make(seed=7).weight, make(**{"seed": 7, **other}).weight)


@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_only_the_bias_is_parameter_and_state(make: Make, regenerate: bool) -> None:
    layer = make(regenerate=regenerate)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(layer.state_dict()) == ["bias"]
    assert not make(bias=False, regenerate=regenerate).state_dict()


@BOTH
def test_regenerating_layer_holds_no_weight(make: Make) -> None:
    layer = make(regenerate=True)
    held = [*layer.parameters(), *layer.buffers(), *vars(layer).values()]
    sizes = [t.numel() for t in held if isinstance(t, Tensor)]
    assert max(sizes) == layer.bias.numel()


def saved_sizes(layer: nn.Module, x: Tensor) -> list[int]:
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (sizes.append(t.untyped_storage().nbytes()), t)[1], lambda t: t
    ):
        layer(x)
    return sizes


@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_convolution_saves_nothing_of_its_input(regenerate: bool) -> None:
    layer = FrozenConv2d(4, 6, 3, padding=1, regenerate=regenerate)
    x = torch.randn(16, 4, 12, 12, requires_grad=True)
    assert max(saved_sizes(layer, x), default=0) <= layer.weight.numel() * 4
    assert max(saved_sizes(layer.to_dense(), x)) >= x.numel() * 4


def test_regenerating_linear_saves_nothing() -> None:
    assert (
        saved_sizes(FrozenLinear(12, 8, regenerate=True), torch.randn(5, 12).requires_grad_()) == []
    )


@BOTH
def test_input_gradient_is_skipped_where_not_needed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make(regenerate=True)
    out = layer(example(layer))

    def refuse(*_: object) -> None:
        raise AssertionError("the weight was drawn for a gradient that nobody asked for")

    monkeypatch.setattr(random, "normal", refuse)
    out.sum().backward()
    assert layer.bias.grad is not None


@BOTH
def test_no_graph_where_nothing_is_trained(make: Make) -> None:
    layer = make(bias=False)
    assert not layer(example(layer)).requires_grad


@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_copies_equal_the_original(make: Make, regenerate: bool) -> None:
    layer = make(seed=9, regenerate=regenerate)
    x = example(layer)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin.extra_repr() == layer.extra_repr()
        with torch.no_grad():
            twin.bias.add_(1.0)
        assert not torch.equal(twin.bias, layer.bias)


@BOTH
def test_state_dict_round_trip_through_a_file(make: Make) -> None:
    layer, twin = make(seed=9), make(seed=9)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    x = example(layer)
    assert torch.equal(twin(x), layer(x))


@BOTH
def test_another_seeds_state_dict_is_refused(make: Make) -> None:
    file = io.BytesIO()
    torch.save(nn.Sequential(make(seed=9)).state_dict(), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match=r"0\.weight: the checkpoint's frozen weight is"):
        nn.Sequential(make(seed=8)).load_state_dict(torch.load(file, weights_only=True))


@BOTH
def test_dense_state_dict_loads_if_its_weight_is_the_seeds(make: Make) -> None:
    layer = make(seed=9)
    make(seed=9).load_state_dict(layer.to_dense().state_dict())
    with pytest.raises(RuntimeError, match="is not what seed 8 gives"):
        make(seed=8).load_state_dict(layer.to_dense().state_dict())


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_state_shapes_are_those_of_the_dense_layer(make: Make, dtype: str) -> None:
    layer = make().to(getattr(torch, dtype))
    expected = {k: (tuple(v.shape), dtype) for k, v in layer.to_dense().state_dict().items()}
    assert layer.dense_state_shapes() == expected


@BOTH
def test_densified_weight_is_not_trainable_and_shares_nothing(make: Make) -> None:
    layer = make()
    dense = layer.to_dense()
    assert not dense.weight.requires_grad
    assert dense.bias.requires_grad
    with torch.no_grad():
        dense.weight.zero_()
    assert layer.weight.any()


@BOTH
def test_weight_cannot_be_set(make: Make) -> None:
    layer = make()
    with pytest.raises(AttributeError, match="follows from its seed"):
        layer.weight = nn.Parameter(torch.zeros_like(layer.weight))


@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_meta_layer_gets_its_weight_on_allocation(make: Make, regenerate: bool) -> None:
    layer = make(seed=4, regenerate=regenerate, device="meta")
    assert layer.weight.is_meta
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.weight, make(seed=4).weight)


@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_autocast_computes_in_bfloat16(make: Make, regenerate: bool) -> None:
    layer = make(regenerate=regenerate)
    x = example(layer).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = layer(x), layer.to_dense()(x)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)
    assert x.grad is not None
    assert x.grad.dtype == layer.bias.grad.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_double_backward_is_that_of_dense_torch(make: Make, regenerate: bool) -> None:
    layer = make(regenerate=regenerate).double()
    x = example(layer).double()
    penalties = []
    for module in (layer, layer.to_dense()):
        inputs = x.clone().requires_grad_()
        out = module(inputs).square().sum()
        (grad,) = torch.autograd.grad(out, inputs, create_graph=True)
        penalties.append(torch.autograd.grad(grad.square().sum(), inputs)[0])
    torch.testing.assert_close(*penalties)


@BOTH
def test_a_shorter_format_and_back_gives_the_seeds_bits(make: Make) -> None:
    layer = make(seed=4)
    expected = layer.weight.detach().clone()
    assert torch.equal(layer.half().weight, expected.half())
    assert torch.equal(layer.float().weight, expected)


@pytest.mark.parametrize(
    ("kind", "dense"),
    [
        pytest.param(FrozenLinear, nn.Linear(5, 3), id="linear"),
        pytest.param(FrozenLinear, nn.Linear(5, 3, bias=False), id="linear-no-bias"),
        pytest.param(
            FrozenConv2d,
            nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=2, dtype=torch.float64),
            id="conv",
        ),
    ],
)
def test_replacing_keeps_all_but_the_weight(kind: Any, dense: Any) -> None:
    layer = kind.replacing(dense.eval(), seed=6, name="n")
    back = layer.to_dense()
    assert back.extra_repr() == dense.extra_repr()
    assert back.weight.dtype == dense.weight.dtype
    assert not layer.training
    assert layer.seed == 6
    if dense.bias is not None:
        assert torch.equal(layer.bias, dense.bias)


def test_repr_names_sizes_and_seed() -> None:
    conv = FrozenConv2d(4, 6, 3, stride=2, padding=1, bias=False, seed=5, regenerate=True)
    assert repr(conv) == (
        "FrozenConv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False, "
        "seed=5, name='weight', std=0.2357, regenerate=True)"
    )
    assert "in_features=3, out_features=2, bias=True, seed=0" in repr(FrozenLinear(3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FrozenLinear(3, 2)(torch.ones(4, 5)), ValueError, r"\[\.\.\., 3\], got \[4, 5\]"),
        (lambda: FrozenConv2d(3, 2, 1)(torch.ones(2, 4, 5, 5)), ValueError, r"\[N, 3, H, W\]"),
        (lambda: FrozenConv2d(3, 2, 1)(torch.ones(3, 5)), ValueError, "x must have shape"),
        (lambda: FrozenLinear(3, 2, seed=-1), ValueError, "seed must lie"),
        (lambda: FrozenLinear(3, 2, seed="a"), TypeError, "seed must be an int"),
        (lambda: FrozenLinear(3, 2, name=3), TypeError, "name must be a str"),
        (lambda: FrozenLinear(3, 2, std=-1.0), ValueError, "std must be"),
        (lambda: FrozenConv2d(3, 2, 1, groups=2), ValueError, "groups must divide"),
        (lambda: FrozenLinear.replacing(nn.Conv2d(1, 1, 1)), TypeError, "torch.nn.Linear"),
        (lambda: FrozenConv2d.replacing(nn.Linear(1, 1)), TypeError, "torch.nn.Conv2d"),
        (
            lambda: FrozenConv2d.replacing(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
            ValueError,
            "padding_mode",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


# Raised inside torch when dynamo traces any autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@BOTH
@pytest.mark.parametrize("regenerate", [False, True], ids=["kept", "regenerated"])
def test_compiles(make: Make, regenerate: bool) -> None:
    layer = make(regenerate=regenerate)
    x = example(layer)
    # A draw is numpy's, which breaks the graph.
    compiled = torch.compile(layer, fullgraph=not regenerate, backend="aot_eager")
    results = []
    for module in (compiled, layer):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        out = module(inputs)
        out.square().sum().backward()
        results.append((out.detach(), inputs.grad, layer.bias.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_input_gradient_copies_no_input(memory_format: torch.memory_format) -> None:
    layer = FrozenConv2d(4, 6, 3, padding=1).to(memory_format=memory_format)
    x = torch.randn(16, 4, 12, 12).contiguous(memory_format=memory_format).requires_grad_()
    out = layer(x)
    with torch.profiler.profile() as profile:
        out.backward(torch.ones_like(out))
    called = {event.key for event in profile.key_averages()}
    assert "aten::convolution_backward" in called
    assert not called & {"aten::copy_", "aten::clone"}
    assert x.grad.is_contiguous(memory_format=memory_format)


def test_backward_stops_at_the_lowest_trainable_layer() -> None:
    frozen = [FrozenConv2d(3, 4, 3, bias=False), FrozenConv2d(4, 4, 3, bias=False)]
    model = nn.Sequential(*frozen, nn.Flatten(), nn.Linear(4 * 4 * 4, 5))
    out = model(torch.randn(2, 3, 8, 8))
    with torch.profiler.profile() as profile:
        out.sum().backward()
    assert "aten::convolution_backward" not in {event.key for event in profile.key_averages()}
