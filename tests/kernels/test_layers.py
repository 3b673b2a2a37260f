"""Linear layers through the kernels: on a GPU, or in the interpreter on the path of one."""

import copy

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import Support
from sparsefl.ops import _dispatch

BLOCKS = pytest.mark.verifies("block_linear", "block_linear_dx", "block_dw")
SIGNS = pytest.mark.verifies("sign_linear", "sign_linear_dx", "block_dw")
MASKED = pytest.mark.verifies("masked_linear", "masked_linear_dx", "masked_dw")
# Rows, [out, in], the support's structure, and its density.
CASES = {
    "tail": (37, (48, 80), (16, 16), 0.3),
    "beyond-the-edge": (5, (70, 40), (32, 16), 0.5),
    "one-row": (1, (32, 64), (16, 32), 0.25),
    "nothing": (3, (32, 32), (16, 16), 0.0),
}


def support_of(shape, structure, density):
    support = Support.random(shape, density, seed=0, structure=structure)
    if density:
        mask = support.to_mask()
        mask[-1 if structure is None else -(shape[0] % structure[0] or structure[0]) :] = False
        support = Support.from_mask(mask)
    return support


def references(support, kind, magnitude, dtype):
    """Returns a layer and the masked dense ones, in float64 and in its dtype."""
    dense = nn.Linear(*support.shape[::-1]).to(dtype)
    if kind == "sparse":
        layer = sparsefl.nn.SparseLinear.from_dense(dense, support)
        factor = torch.ones(())
    else:
        layer = sparsefl.nn.SignLinear.from_dense(dense, support, magnitude)
        factor = torch.as_tensor(magnitude, dtype=dtype)
    twin = copy.deepcopy(dense)
    with torch.no_grad():
        if kind == "sign":
            twin.weight.copy_(torch.where(twin.weight >= 0, 1.0, -1.0) * factor)
        twin.weight.mul_(support.to_mask())
    return layer, copy.deepcopy(twin).double(), twin, factor


def differentiate(module, x, grad, device):
    x = x.detach().to(device).requires_grad_()
    y = module(x)
    y.backward(grad.to(device, y.dtype))
    return y.detach().cpu(), x.grad.cpu(), module.bias.grad.cpu()


def assert_equals_dense(support, rows, kind, magnitude, dtype, move, assert_matches, device):
    layer, exact, same, factor = references(support, kind, magnitude, dtype)
    move(layer)
    x = torch.randn(rows, support.shape[1], dtype=dtype)
    grad = torch.randn(rows, support.shape[0], dtype=dtype)
    ours = differentiate(layer, x, grad, device)
    theirs = differentiate(exact, x.double(), grad, "cpu"), differentiate(same, x, grad, "cpu")
    for what, mine, ref, torchs in zip(("y", "dx", "bias"), ours, *theirs, strict=True):
        assert_matches(mine, ref, torchs, what)
    mask = support.to_mask()
    stored = layer.row_major(layer._latent.grad).cpu()
    by_weight = [(m.weight.grad * factor.to(m.weight.dtype))[mask] for m in (exact, same)]
    assert_matches(stored, *by_weight, "stored")


@BLOCKS
@pytest.mark.parametrize(("rows", "shape", "block", "density"), CASES.values(), ids=CASES)
def test_blocks_equal_dense(rows, shape, block, density, move, launched, assert_matches, device):
    support = support_of(shape, block, density)
    assert_equals_dense(support, rows, "sparse", None, torch.float32, move, assert_matches, device)
    if density:
        assert launched == ["block_linear", "block_linear_dx", "block_dw"]


@SIGNS
@pytest.mark.parametrize("magnitude", ["one", "each"])
@pytest.mark.parametrize(("rows", "shape", "block", "density"), CASES.values(), ids=CASES)
def test_signs_equal_dense(
    rows, shape, block, density, magnitude, move, launched, assert_matches, device
):
    support = support_of(shape, block, density)
    numbers = 0.25 if magnitude == "one" else torch.rand(shape)
    assert_equals_dense(support, rows, "sign", numbers, torch.float32, move, assert_matches, device)
    if density:
        kind = "sign" if magnitude == "one" else "block"
        assert launched == [f"{kind}_linear", f"{kind}_linear_dx", "block_dw"]


@MASKED
@pytest.mark.parametrize("kind", ["sparse", "sign"])
@pytest.mark.parametrize("rows", [7, 70])
def test_any_positions_equal_dense(rows, kind, move, launched, assert_matches, device):
    support = Support.random((33, 47), 0.3)
    assert_equals_dense(support, rows, kind, 0.25, torch.float32, move, assert_matches, device)
    few = ["masked_linear", "masked_linear_dx"] if rows == 7 else []
    assert launched == [*few, "masked_dw"]


@pytest.mark.parametrize("structure", ["rows", "columns:3"])
def test_whole_rows_and_columns_take_no_kernel(
    structure, move, launched, assert_matches, device, monkeypatch
):
    monkeypatch.setattr(_dispatch, "_COMPACT_UP_TO", 0.75)
    support = Support.random((33, 47), 0.3, structure=structure)
    assert_equals_dense(support, 7, "sparse", 0.25, torch.float32, move, assert_matches, device)
    assert launched == []


@BLOCKS
@SIGNS
@MASKED
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["sparse", "sign"])
@pytest.mark.parametrize("structure", [None, (16, 32)], ids=str)
def test_low_precision(structure, kind, dtype, move, assert_matches, device):
    support = support_of((48, 96), structure, 0.4)
    assert_equals_dense(support, 9, kind, 0.25, dtype, move, assert_matches, device)


@BLOCKS
@MASKED
@pytest.mark.parametrize("structure", [None, (16, 16)], ids=str)
def test_awkward_strides_and_two_uses(structure, move, assert_matches, device):
    support = support_of((32, 48), structure, 0.4)
    layer, exact, same, _ = references(support, "sparse", None, torch.float32)
    move(layer)
    column_major, sliced = torch.randn(48, 7).t(), torch.randn(2, 3, 64)[..., 9:57]
    for module in (layer, same, exact):
        of = torch.float64 if module is exact else torch.float32
        where = device if module is layer else "cpu"
        # The gradient of a sum is one number, expanded.
        sum(module(part.to(where, of)).sum() for part in (column_major, sliced)).backward()
    mask = support.to_mask()
    stored = layer.row_major(layer.values.grad).cpu()
    assert_matches(stored, exact.weight.grad[mask], same.weight.grad[mask])
    y = layer(sliced.to(device)).detach().cpu()
    assert y.shape == (2, 3, 32)
    assert_matches(y, exact(sliced.double()).detach(), same(sliced).detach())


@BLOCKS
@SIGNS
@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_frozen_weights_and_inputs_skip_their_pass(kind, move, launched, device):
    layer, *_ = references(support_of((32, 48), (16, 16), 0.4), kind, 0.25, torch.float32)
    prefix = "block" if kind == "sparse" else "sign"
    move(layer)(torch.randn(3, 48, device=device)).sum().backward()
    assert launched == [f"{prefix}_linear", "block_dw"]
    launched.clear()
    layer._latent.requires_grad_(False)
    layer(torch.randn(3, 48, device=device, requires_grad=True)).sum().backward()
    assert launched == [f"{prefix}_linear", f"{prefix}_linear_dx"]


@SIGNS
def test_scores_that_change_before_backward_are_told(move, device):
    layer, *_ = references(support_of((32, 48), (16, 16), 0.4), "sign", 0.25, torch.float32)
    y = move(layer)(torch.randn(3, 48, device=device, requires_grad=True))
    with torch.no_grad():
        layer.scores.neg_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_new_support_has_a_new_plan(move, device):
    layer, *_ = references(support_of((32, 48), (16, 16), 0.4), "sparse", None, torch.float32)
    move(layer)
    plans = [layer.plan.kernels]
    layer(torch.randn(3, 48, device=device))
    assert layer.plan.kernels is plans[0]
    assert plans[0].blocks is not None
    layer.set_support(Support.random((32, 48), 0.3))
    move(layer)
    assert layer.plan.kernels.blocks is None
    assert layer.plan.kernels.mask.nnz == layer.support.nnz


@pytest.mark.verifies("linear_growth")
@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("count", [1, 50])
def test_growth_of_a_watched_layer_is_that_of_the_dense_gradient(
    count, uses, move, launched, device
):
    support = Support.random((33, 47), 0.4)
    layer = sparsefl.nn.SparseLinear(47, 33, support)
    move(layer)
    # Whole numbers: sums are exact, and many are equal.
    parts = [torch.randint(-2, 3, (2, 3, 47)).float() for _ in range(uses)]
    factors = [torch.randint(-2, 3, (2, 3, 33)).float() for _ in range(uses)]
    with sparsefl.pruning.watch_growth(layer, {"weight": count}) as found:
        sum(
            (layer(x.to(device)) * f.to(device)).sum() for x, f in zip(parts, factors, strict=True)
        ).backward()
    assert "linear_growth" in launched
    dense = sum(f.view(-1, 33).t() @ x.view(-1, 47) for x, f in zip(parts, factors, strict=True))
    ranks = dense.abs().masked_fill(support.to_mask(), -1.0).flatten()
    best = ranks.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(found["weight"].indices, best)
    assert torch.equal(found["weight"].values, dense.flatten()[best])
