"""``GatedConvBN2d``: its formula, its statistics, what it hands on, and what it refuses."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsefl import ops, reference
from sparsefl.nn import GatedConvBN2d


def make(inner: int = 5, out: int = 8, **options) -> GatedConvBN2d:
    conv = nn.Conv2d(inner, out, 3, padding=1, bias=options.pop("bias", False))
    return GatedConvBN2d(conv, nn.BatchNorm2d(out), **options)


def plain(layer: GatedConvBN2d, x: torch.Tensor) -> torch.Tensor:
    """Returns the layer's output by the formula in plain torch."""
    gate, bn = layer.gate, layer.bn
    g = reference.gates(x, gate.weight, gate.bias, layer.kept_channels, layer.gate_sigmoid)
    running = None if layer.training else (bn.running_mean, bn.running_var)
    norm = (bn.weight, bn.bias, running, layer.stats == "all", bn.eps, layer.relu)
    return reference.gated_norm(layer.conv(x), g, *norm)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stats", ["active", "all"])
@pytest.mark.parametrize(
    ("size", "layout"),
    [((9, 9), "sparse"), ((4, 4), "sparse"), ((2, 2), "sparse"), ((3, 2), "dense")],
    ids=str,
)
def test_computes_the_formula(training, stats, size, layout):
    layer = make(stats=stats, density=0.5).double().train(training)
    x = torch.randn(6, 5, *size).double()
    x[0, 2] = 0
    assert layer.layout(*size) == layout
    torch.testing.assert_close(layer(x), plain(layer, x))


def test_all_stats_at_density_1_are_batch_norm():
    layer = make(stats="all", density=1.0)
    layer.gate.weight.data.zero_()  # all gates are 1, the bias
    dense = nn.Sequential(copy.deepcopy(layer.conv), nn.BatchNorm2d(8), nn.ReLU())
    for _ in range(3):
        x = torch.randn(4, 5, 6, 6)
        torch.testing.assert_close(layer(x), dense(x))
    for name, buffer in dense[1].named_buffers():
        torch.testing.assert_close(getattr(layer.bn, name), buffer, msg=name)


@pytest.mark.parametrize("momentum", [0.3, None], ids=["moving", "cumulative"])
def test_running_statistics_are_of_the_open_gates(momentum):
    layer = make(density=0.5).double()
    layer.bn.momentum = momentum
    layer.gate.bias.data[3] = -100.0  # open in no sample
    x = torch.randn(7, 5, 6, 6).double()
    before = layer.bn.running_var[3].item()
    layer(x)
    z, opened = layer.conv(x), layer.open_gates
    share = momentum or 1.0
    for c in range(8):
        values = z[opened[:, c], c].flatten()
        if len(values):
            torch.testing.assert_close(layer.bn.running_mean[c], share * values.mean())
            expected = (1 - share) + share * values.var()
            torch.testing.assert_close(layer.bn.running_var[c], expected)
    assert not opened[:, 3].any()
    assert layer.bn.running_mean[3] == 0
    assert layer.bn.running_var[3] == before
    assert layer.bn.num_batches_tracked == 1


def test_batch_norm_without_running_statistics_normalises_by_the_batch():
    layer = make()
    layer.bn = nn.BatchNorm2d(8, track_running_stats=False, affine=False)
    x = torch.randn(4, 5, 6, 6)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x))


def test_batch_norm_in_eval_mode_keeps_its_statistics():
    layer = make()
    layer.bn.eval()
    x = torch.randn(4, 5, 6, 6)
    y = layer(x)
    assert layer.bn.num_batches_tracked == 0
    torch.testing.assert_close(y, layer.eval()(x))


def test_a_sample_keeps_its_largest_gates():
    layer = make(density=0.3, out=10)
    x = torch.randn(20, 5, 6, 6)
    y = layer(x)
    a = F.linear(x.mean((2, 3)), layer.gate.weight, layer.gate.bias).relu()
    for n in range(20):
        largest = a[n].topk(3)
        expected = torch.zeros(10, dtype=torch.bool)
        expected[largest.indices[largest.values > 0]] = True
        assert torch.equal(layer.open_gates[n], expected)
        assert y[n, ~expected].count_nonzero() == 0


def test_starts_with_he_gates_of_bias_1():
    layer = make(400, 300)
    assert torch.equal(layer.gate.bias, torch.ones(300))
    assert layer.gate.weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)


def test_state_dict_names_the_adopted_layers():
    conv, bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    layer = GatedConvBN2d(conv, bn)
    assert layer.conv is conv
    assert layer.bn is bn
    prefixes = {name.split(".")[0] for name in layer.state_dict()}
    assert prefixes == {"conv", "bn", "gate"}


def chain(wired: bool, pool: bool = True) -> nn.Sequential:
    first = make(3, 12, density=0.5)
    second = make(12, 7, density=0.5, previous=first if wired else None)
    return nn.Sequential(first, nn.MaxPool2d(2) if pool else nn.Identity(), second)


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "same-tensor"])
def test_handing_gates_over_changes_no_parameters_gradient(pool, op_wanted):
    wired, unwired = chain(True, pool), chain(False, pool)
    unwired.load_state_dict(wired.state_dict())
    unwired[1].register_forward_hook(lambda *a: a[2].clone())  # another tensor
    x = torch.randn(6, 3, 16, 16)
    with op_wanted() as spared:
        expected = gradients(wired, x)
    with op_wanted() as whole:
        results = gradients(unwired, x)
    for name, gradient in expected.items():
        torch.testing.assert_close(results[name], gradient, msg=name)
    assert spared.share < 0.6
    assert whole.share == 1.0


@pytest.fixture
def op_wanted():
    """Returns a context that notes of which share of a batch's channels the last layer was asked
    for the input's gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Wanted(TorchDispatchMode):
        share: float | None = None

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "gated_conv2d_backward" in func.name() and self.share is None:
                self.share = args[5].float().mean().item()
            return func(*args, **(kwargs or {}))

    return Wanted


def test_gates_of_another_batch_are_not_believed():
    model = chain(True)
    x = torch.randn(6, 3, 16, 16)
    expected = gradients(model, x)
    hidden = model[1](model[0](x))
    model[0](torch.randn(6, 3, 16, 16))  # its open gates are now of another batch
    model.zero_grad()
    model[2](hidden).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_a_changed_output_hands_nothing_over():
    model = chain(False, pool=False)
    y = model[0](torch.randn(6, 3, 8, 8)).detach()
    leaf = y.add_(1).requires_grad_()
    model[2](leaf).sum().backward()
    assert (leaf.grad.abs().sum((2, 3)) > 0).all()


def test_residual_input_gets_its_whole_gradient():
    layer = make(relu=False)
    x = torch.randn(4, 5, 6, 6, requires_grad=True)
    y = layer(x)
    assert (y < 0).any()
    y.sum().backward()
    expected = torch.autograd.grad(plain(layer, x).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_keep_the_wiring():
    model = chain(True)
    model(torch.randn(2, 3, 8, 8))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin[2]._previous == (twin[0],)
        assert twin[0].open_gates is None
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(twin.eval()(x), model.eval()(x))
        model.train()
    assert list(dict(model.named_modules())) == list(dict(twin.named_modules()))


def test_any_strides_and_autocast_give_the_same():
    layer = make().eval()
    x = torch.randn(4, 5, 8, 8)
    expected = layer(x)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(layer(ops.batch_last(x)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("padding", ["same", "valid", 2, (1, 0)], ids=str)
def test_paddings(padding):
    conv = nn.Conv2d(4, 6, (3, 5), padding=padding, dilation=(1, 2))
    layer = GatedConvBN2d(conv, nn.BatchNorm2d(6)).double()
    x = torch.randn(3, 4, 11, 12).double()
    torch.testing.assert_close(layer(x), plain(layer, x))


def test_second_derivatives_are_refused():
    layer, x = make(), torch.randn(2, 5, 6, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


def test_torch_func_is_refused():
    with pytest.raises(NotImplementedError, match="GatedConvBN2d does not support"):
        torch.func.vmap(make())(torch.randn(2, 3, 5, 6, 6))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conv": nn.Linear(2, 8)}, TypeError, "conv: expected a torch.nn.Conv2d, got Linear"),
        ({"bn": nn.GroupNorm(2, 8)}, TypeError, "bn: expected a torch.nn.BatchNorm2d"),
        ({"conv": nn.Conv2d(4, 8, 3, groups=2)}, ValueError, "conv: expected groups=1, got 2"),
        (
            {"conv": nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")},
            *(ValueError, 'expected padding_mode="zeros"'),
        ),
        ({"conv": nn.Conv2d(4, 8, 2, padding="same")}, ValueError, "is uneven"),
        ({"bn": nn.BatchNorm2d(7)}, ValueError, "bn: expected 8 features"),
        ({"density": 0.0}, ValueError, "density: expected a number over 0"),
        ({"density": "half"}, TypeError, "density: expected a number, got str"),
        ({"stats": "some"}, ValueError, "stats: expected"),
        ({"previous": nn.ReLU()}, TypeError, "previous: expected a GatedConvBN2d"),
    ],
    ids=[
        *("conv", "bn", "groups", "padding_mode", "same", "features"),
        *("density", "density-type", "stats", "previous"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"conv": nn.Conv2d(4, 8, 3), "bn": nn.BatchNorm2d(8)} | change
    with pytest.raises(error, match=message):
        GatedConvBN2d(**arguments)


def test_no_channels_are_refused():
    with pytest.warns(UserWarning, match="zero-element"):
        conv = nn.Conv2d(0, 8, 3)
    with pytest.raises(ValueError, match="conv: expected channels, got 0 in and 8 out"):
        GatedConvBN2d(conv, nn.BatchNorm2d(8))


def test_pruned_layers_are_refused():
    conv = nn.Conv2d(4, 8, 3)
    torch.nn.utils.prune.random_unstructured(conv, "weight", 0.5)
    with pytest.raises(ValueError, match="its hooks would never run"):
        GatedConvBN2d(conv, nn.BatchNorm2d(8))
