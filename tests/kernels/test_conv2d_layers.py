"""Convolutions through the kernels: on a GPU, or in the interpreter on the path of one."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import Support
from sparsefl.structure import Structure

# Of the dense twin, where padding is uneven.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
BLOCKS = pytest.mark.verifies("block_conv2d", "block_conv2d_dx", "block_conv2d_dw")
SIGNS = pytest.mark.verifies("sign_conv2d", "sign_conv2d_dx", "block_conv2d_dw")
# The input's shape, output channels, the support's structure, and the layer's geometry.
CASES = {
    "tail": ((3, 48, 6, 5), 32, (16, 16), {"kernel_size": 3, "padding": 1}),
    "stride": ((2, 32, 7, 8), 64, (32, 16), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "beyond-the-edge": ((2, 20, 6, 6), 70, (32, 16), {"kernel_size": (3, 2), "dilation": (1, 2)}),
    "pointwise": ((2, 32, 4, 5), 32, (16, 16), {"kernel_size": 1}),
    "same": ((2, 32, 5, 6), 32, (16, 16), {"kernel_size": 3, "padding": "same"}),
    "uneven": ((2, 32, 5, 6), 32, (16, 16), {"kernel_size": (2, 3), "padding": "same"}),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def checkered(shape, block):
    """Returns a support of every other block of channels."""
    grid = Structure(*block).grid(shape)
    kept = np.add.outer(np.arange(grid[0]), np.arange(grid[1])) % 2 == 0
    return Support.from_mask(Structure(*block).expand(kept, shape).copy())


class Twins:
    """A layer, and the masked dense one in float64 and in the layer's dtype."""

    def __init__(self, case, kind="sparse", magnitude=None, dtype=torch.float32):
        self.size, out, structure, geometry = case
        self.dense = nn.Conv2d(self.size[1], out, **geometry).to(dtype)
        shape = tuple(self.dense.weight.shape)
        self.support = checkered(shape, structure)
        self.mask, self.factor = self.support.to_mask(), torch.ones((), dtype=dtype)
        if kind == "sparse":
            self.layer = sparsefl.nn.SparseConv2d.from_dense(self.dense, self.support)
        else:
            numbers = 0.25 if magnitude == "one" else torch.rand(shape)
            self.layer = sparsefl.nn.SignConv2d.from_dense(self.dense, self.support, numbers)
            self.factor = torch.as_tensor(numbers, dtype=dtype)
        with torch.no_grad():
            if kind == "sign":
                self.dense.weight.copy_(
                    torch.where(self.dense.weight >= 0, 1.0, -1.0) * self.factor
                )
            self.dense.weight.mul_(self.mask)
        self.exact = copy.deepcopy(self.dense).double()

    def compare(self, device, assert_matches, channels_last=False):
        """Differentiates all three, and compares what they give."""
        dtype = self.dense.weight.dtype
        x = torch.randn(self.size, dtype=dtype)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        grad = torch.randn_like(self.dense(x))
        ours = differentiate(self.layer, x, grad, device)
        same, exact = (differentiate(m, x, grad, "cpu") for m in (self.dense, self.exact))
        for what, mine, ref, torchs in zip(("y", "dx", "bias"), ours, exact, same, strict=True):
            assert_matches(mine, ref, torchs, what)
        stored = self.layer.row_major(self.layer._latent.grad).cpu()
        kept = ((m.weight.grad * self.factor.to(m.weight.dtype))[self.mask]
                for m in (self.exact, self.dense))  # fmt: skip
        assert_matches(stored, *kept, "stored")


def differentiate(module, x, grad, device):
    parameter = next(module.parameters())
    x = x.detach().to(device, parameter.dtype).requires_grad_()
    y = module(x)
    y.backward(grad.to(device, y.dtype))
    return y.detach().cpu(), x.grad.cpu(), module.bias.grad.cpu()


@BLOCKS
@EACH
@pytest.mark.parametrize("channels_last", [False, True])
def test_blocks_equal_dense(case, channels_last, move, launched, assert_matches, device):
    twins = Twins(case)
    move(twins.layer)
    twins.compare(device, assert_matches, channels_last)
    assert launched == ["block_conv2d", "block_conv2d_dx", "block_conv2d_dw"]


@SIGNS
@BLOCKS
@EACH
@pytest.mark.parametrize("magnitude", ["one", "each"])
def test_signs_equal_dense(case, magnitude, move, launched, assert_matches, device):
    twins = Twins(case, "sign", magnitude)
    move(twins.layer)
    twins.compare(device, assert_matches)
    kind = "sign" if magnitude == "one" else "block"
    assert launched == [f"{kind}_conv2d", f"{kind}_conv2d_dx", "block_conv2d_dw"]


@BLOCKS
@SIGNS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_low_precision(kind, dtype, move, assert_matches, device):
    twins = Twins(CASES["stride"], kind, "one", dtype)
    move(twins.layer)
    twins.compare(device, assert_matches)


@BLOCKS
@SIGNS
@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_frozen_weights_and_inputs_skip_their_pass(kind, move, launched, device):
    layer, size = Twins(CASES["tail"], kind, "one").layer, CASES["tail"][0]
    prefix = "block" if kind == "sparse" else "sign"
    move(layer)(torch.randn(size, device=device)).sum().backward()
    assert launched == [f"{prefix}_conv2d", "block_conv2d_dw"]
    launched.clear()
    layer._latent.requires_grad_(False)
    layer(torch.randn(size, device=device, requires_grad=True)).sum().backward()
    assert launched == [f"{prefix}_conv2d", f"{prefix}_conv2d_dx"]


def test_groups_and_other_supports_take_no_kernel(move, launched, device):
    anywhere = Support.random((32, 32, 3, 3), 0.3)
    grouped = checkered((32, 32, 3, 3), (16, 16))
    x = torch.randn(2, 32, 5, 5, device=device)
    move(sparsefl.nn.SparseConv2d(32, 32, 3, anywhere))(x).sum().backward()
    x = torch.randn(2, 64, 5, 5, device=device)
    move(sparsefl.nn.SparseConv2d(64, 32, 3, grouped, groups=2))(x).sum().backward()
    assert launched == []


@pytest.mark.verifies("conv2d_growth")
@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("geometry", [{"stride": 2, "padding": 1}, {"padding": "same"}], ids=str)
def test_growth_of_a_watched_layer_is_that_of_the_dense_gradient(
    geometry, uses, move, launched, device
):
    count, support = 50, Support.random((20, 17, 2, 3), 0.4)
    layer = move(sparsefl.nn.SparseConv2d(17, 20, (2, 3), support, **geometry))
    weight, batches = torch.zeros(support.shape, requires_grad=True), []
    # Whole numbers: sums are exact, and many are equal.
    for _ in range(uses):
        x = torch.randint(-2, 3, (2, 17, 5, 6)).float()
        y = nn.functional.conv2d(x, weight, **geometry)
        factor = torch.randint(-2, 3, y.shape).float()
        (y * factor).sum().backward()
        batches.append((x.to(device), factor.to(device)))
    with sparsefl.pruning.watch_growth(layer, {"weight": count}) as found:
        sum((layer(x) * factor).sum() for x, factor in batches).backward()
    assert "conv2d_growth" in launched
    ranks = weight.grad.abs().masked_fill(support.to_mask(), -1.0).flatten()
    best = ranks.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(found["weight"].indices, best)
    assert torch.equal(found["weight"].values, weight.grad.flatten()[best])


@BLOCKS
def test_autocast_takes_the_kernels_in_its_dtype(move, launched, assert_matches, device):
    twins = Twins(CASES["tail"])
    move(twins.layer)
    x = torch.randn(CASES["tail"][0])
    with torch.autocast(device, torch.bfloat16):
        y = twins.layer(x.to(device).requires_grad_())
        same = twins.dense(x)
    y.float().sum().backward()
    assert launched == ["block_conv2d", "block_conv2d_dx", "block_conv2d_dw"]
    assert (y.dtype, twins.layer.values.grad.dtype) == (torch.bfloat16, torch.float32)
    assert_matches(y.detach().cpu(), twins.exact(x.double()).detach(), same.detach())


@BLOCKS
def test_a_network_trains_as_the_masked_dense_one(move, launched, assert_matches, device):
    def make():
        torch.manual_seed(3)
        return nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(4, 64), nn.ReLU()),
            *(nn.Conv2d(64, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
        )

    masks = {"3.weight": checkered((64, 32, 3, 3), (16, 16)).to_mask()}
    masks["6.weight"] = checkered((32, 64, 1, 1), (16, 32)).to_mask()
    x, labels = torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 3])
    found = {}
    for kind in ("ours", "float32", "float64"):
        model, mine = make(), kind == "ours"
        if mine:
            model = sparsefl.sparsify(model, masks)
            for module in model.modules():
                if isinstance(module, sparsefl.nn.SparseConv2d):
                    move(module)
            model.to(device)
        else:
            with torch.no_grad():
                for name, mask in masks.items():
                    model.get_parameter(name).mul_(mask)
        of, where = (
            (torch.float64 if kind == "float64" else torch.float32),
            device if mine else "cpu",
        )
        model.to(of)
        y = model(x.to(where, of))
        nn.functional.cross_entropy(y, labels.to(where)).backward()
        gradient = next(model.parameters()).grad
        found[kind] = y.detach().cpu(), gradient.cpu()
    assert launched.count("block_conv2d") == launched.count("block_conv2d_dw") == 2
    for what, ours, same, exact in zip(("y", "first weight"), *found.values(), strict=True):
        assert_matches(ours, exact, same, what)
