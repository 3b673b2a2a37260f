"""SparseLinear and SparseConv2d against torch.nn with the same weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsefl import Support
from sparsefl.nn import SparseConv2d, SparseLinear

CONVOLUTIONS = {
    "plain": ((3, 8, 3), {"padding": 1}),
    "stride": ((4, 6, 3), {"stride": 2, "padding": 1}),
    "stride_pair": ((2, 3, (5, 3)), {"stride": (1, 2), "padding": (2, 0)}),
    "dilation": ((3, 5, 3), {"dilation": 2, "padding": 2}),
    "pointwise": ((7, 9, 1), {}),
    "same": ((3, 4, 3), {"padding": "same"}),
    "same_even_kernel": ((3, 4, (2, 4)), {"padding": "same", "dilation": (3, 1)}),
    "valid": ((3, 4, 3), {"padding": "valid"}),
    "groups": ((6, 4, 3), {"padding": 1, "groups": 2}),
    "one": ((1, 1, 1), {}),
}
DENSITIES = pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0], ids="density={}".format)


def assert_same_layer(layer, dense, mask, x, assert_matches):
    """Compares output and all gradients with those of the masked dense layer."""
    with torch.no_grad():
        dense.weight.mul_(mask)
    reference = _double(dense)
    results = []
    for module in (layer, dense, reference):
        inputs = x.detach().to(next(module.parameters()).dtype).clone().requires_grad_()
        out = module(inputs)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        out.backward(grad.to(out.dtype))
        results.append((out, inputs.grad, None if module.bias is None else module.bias.grad))
    for name, ours, plain, exact in zip(
        ("output", "input gradient", "bias gradient"), *results, strict=True
    ):
        if ours is not None:
            assert_matches(ours.detach(), exact.detach(), plain.detach(), name)
    gradients = [m.weight.grad[mask] for m in (reference, dense)]
    assert_matches(layer.row_major(layer.values.grad), *gradients, "weight gradient")


def _double(dense):
    twin = type(dense)(**_arguments(dense), bias=dense.bias is not None, dtype=torch.float64)
    twin.load_state_dict(dense.state_dict())
    return twin


def _arguments(dense):
    names = ["in_features", "out_features"]
    if isinstance(dense, nn.Conv2d):
        names = ["in_channels", "out_channels", "kernel_size", "stride", "padding"]
        names += ["dilation", "groups"]
    return {name: getattr(dense, name) for name in names}


@DENSITIES
@pytest.mark.parametrize("shape", [(1, 1), (7, 63), (65, 64), (129, 257)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_linear_is_the_masked_dense_layer(shape, density, bias, random_mask, assert_matches):
    dense = nn.Linear(shape[1], shape[0], bias=bias)
    mask = random_mask(shape, density)
    layer = SparseLinear.from_dense(dense, mask)
    assert layer.values.shape == (int(mask.sum()),)
    assert_same_layer(layer, dense, mask, torch.randn(33, shape[1]), assert_matches)


@DENSITIES
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("sizes", "options"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_conv_is_the_masked_dense_layer(sizes, options, density, bias, random_mask, assert_matches):
    dense = nn.Conv2d(*sizes, **options, bias=bias)
    mask = random_mask(dense.weight.shape, density)
    layer = SparseConv2d.from_dense(dense, mask)
    x = torch.randn(5, sizes[0], 9, 11)
    assert_same_layer(layer, dense, mask, x, assert_matches)


@pytest.mark.parametrize("lead", [(), (0,), (1,), (2, 3), (2, 1, 5)], ids=str)
def test_linear_takes_any_leading_dimensions(lead, random_mask):
    dense = nn.Linear(6, 4)
    layer = SparseLinear.from_dense(dense, random_mask((4, 6)))
    x = torch.randn(*lead, 6)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("batch", [1, 4])
def test_conv_takes_an_unbatched_input(batch, random_mask):
    dense = nn.Conv2d(3, 5, 3, padding=1)
    layer = SparseConv2d.from_dense(dense, random_mask(dense.weight.shape))
    x = torch.randn(batch, 3, 6, 7)
    single = layer(x[0])
    assert single.shape == (5, 6, 7)
    torch.testing.assert_close(single, layer(x)[0])


def test_same_weights_for_a_mask_and_its_support(random_mask):
    dense, mask = nn.Linear(6, 4), random_mask((4, 6))
    by_mask = SparseLinear.from_dense(dense, mask)
    by_support = SparseLinear.from_dense(dense, Support.from_mask(mask))
    assert by_mask.support == by_support.support
    assert torch.equal(by_mask.weight, by_support.weight)
    assert torch.equal(by_mask.weight != 0, mask)


def test_from_dense_keeps_frozen_parameters_and_mode(random_mask):
    dense = nn.Linear(6, 4).eval()
    dense.weight.requires_grad_(False)
    layer = SparseLinear.from_dense(dense, random_mask((4, 6)))
    assert not layer.training
    assert not layer.values.requires_grad
    assert layer.bias.requires_grad
    assert layer.bias is not dense.bias


def test_frozen_values_get_no_gradient(random_mask):
    layer = SparseLinear.from_dense(nn.Linear(6, 4), random_mask((4, 6)))
    layer.values.requires_grad_(False)
    layer(torch.randn(3, 6, requires_grad=True)).sum().backward()
    assert layer.values.grad is None


def test_fresh_weights_have_the_bound_of_the_kept_fan_in():
    mask = torch.zeros(3, 400, dtype=torch.bool)
    mask[0, :4] = True
    mask[1, ::2] = True
    layer = SparseLinear(400, 3, mask)
    for row, kept in ((0, 4), (1, 200)):
        largest = layer.weight[row].abs().max().item()
        assert 0.5 / math.sqrt(kept) < largest <= 1 / math.sqrt(kept)
    assert layer.bias.abs().max().item() <= 1 / math.sqrt(400)
    assert torch.isfinite(SparseLinear(5, 3, torch.zeros(3, 5, dtype=torch.bool)).bias).all()


def test_fresh_weights_at_density_1_are_torchs():
    full = torch.ones(256, 300, dtype=torch.bool)
    ours, theirs = SparseLinear(300, 256, full), nn.Linear(300, 256)
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.02)
    assert ours.weight.abs().max().item() <= 1 / math.sqrt(300)


def test_fresh_weights_follow_torchs_seed_and_from_dense_leaves_it():
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.manual_seed(3)
    first = SparseLinear(3, 2, mask).weight
    torch.manual_seed(3)
    assert torch.equal(SparseLinear(3, 2, mask).weight, first)
    dense = nn.Linear(3, 2)
    before = torch.get_rng_state()
    SparseLinear.from_dense(dense, mask).to_dense()
    assert torch.equal(torch.get_rng_state(), before)


class _LargestFloat(TorchDispatchMode):
    """Records the largest floating tensor that any operator returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_a_step_makes_nothing_of_dense_size(bias, random_mask):
    dense = nn.Linear(96, 80, bias=bias)
    layer = SparseLinear.from_dense(dense, random_mask((80, 96), 0.05))
    optimizer = torch.optim.Adam(layer.parameters())
    x = torch.randn(4, 96, requires_grad=True)
    with _LargestFloat() as largest:
        layer(x).sum().backward()
        optimizer.step()
    assert 0 < largest.numel <= max(x.numel(), 4 * 80, layer.support.nnz)


@pytest.mark.parametrize("density", [0.1, 0.9], ids="density={}".format)
def test_autocast_and_grad_scaler(density, random_mask):
    layer = SparseLinear.from_dense(nn.Linear(16, 8), random_mask((8, 16), density))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    before = layer.values.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = nn.Linear(4, 16)(torch.randn(3, 4))
        out = layer(hidden)
    assert hidden.dtype == torch.bfloat16
    assert out.dtype == torch.float32
    scaler.scale(out.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(layer.values, before)


REFUSED = {
    "mask_shape": (lambda: SparseLinear.from_dense(nn.Linear(8, 4), torch.ones(4, 7) > 0),
                   ValueError, r"mask covers shape \(4, 7\).*\(4, 8\)"),
    "mask_dtype": (lambda: SparseLinear.from_dense(nn.Linear(8, 4), torch.ones(4, 8)),
                   TypeError, r"mask must be a Support or a bool tensor.*float32"),
    "mask_type": (lambda: SparseLinear(8, 4, [[True] * 8] * 4), TypeError, "support.*list"),
    "layer_type": (lambda: SparseLinear.from_dense(nn.Conv2d(1, 1, 1), torch.ones(1, 1) > 0),
                   TypeError, r"dense must be a torch.nn.Linear, got Conv2d"),
    "layer_dtype": (lambda: SparseLinear(2, 2, torch.ones(2, 2) > 0, dtype=torch.complex64),
                    TypeError, r"dtype must be one of torch.float32.*float16, got torch.complex64"),
    "input_features": (lambda: SparseLinear(8, 4, torch.ones(4, 8) > 0)(torch.randn(3, 9)),
                       ValueError, r"8.*\[3, 9\]"),
    "conv_mask": (lambda: SparseConv2d(2, 4, 3, torch.ones(4, 2, 3) > 0),
                  ValueError, r"support covers shape \(4, 2, 3\).*\(4, 2, 3, 3\)"),
    "padding_mode": (lambda: SparseConv2d.from_dense(
        nn.Conv2d(1, 1, 1, padding_mode="reflect"), torch.ones(1, 1, 1, 1) > 0),
        ValueError, "padding_mode must be 'zeros', got 'reflect'"),
    "padding_name": (lambda: SparseConv2d(1, 1, 1, torch.ones(1, 1, 1, 1) > 0, padding="full"),
                     ValueError, "'same' or 'valid', got 'full'"),
    "same_with_stride": (lambda: SparseConv2d(
        1, 1, 1, torch.ones(1, 1, 1, 1) > 0, stride=2, padding="same"), ValueError, "stride 1"),
    "groups": (lambda: SparseConv2d(3, 4, 1, torch.ones(4, 1, 1, 1) > 0, groups=2),
               ValueError, "groups must divide in_channels=3 and out_channels=4, got 2"),
    "stride_type": (lambda: SparseConv2d(1, 1, 1, torch.ones(1, 1, 1, 1) > 0, stride=1.5),
                    TypeError, "stride must be an int or a tuple of two ints, got 1.5"),
    "stride_range": (lambda: SparseConv2d(1, 1, 1, torch.ones(1, 1, 1, 1) > 0, stride=(1, 0)),
                     ValueError, "stride must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr_shows_size_and_density():
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[0] = True
    assert repr(SparseLinear(8, 4, mask, bias=False)) == (
        "SparseLinear(in_features=8, out_features=4, bias=False, nnz=8, density=0.25)"
    )
    conv = SparseConv2d(2, 4, 1, mask[:, :2, None, None], stride=2, padding=1, dilation=2)
    assert repr(conv) == (
        "SparseConv2d(2, 4, kernel_size=(1, 1), stride=(2, 2), padding=(1, 1), dilation=(2, 2), "
        "nnz=2, density=0.25)"
    )
