"""The dense weight of a support and its gradient back, and that one scratch serves all."""

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops import _dense

SIGNS = {"values": (None, 1.0, False), "constant": (None, 0.5, True)}


@pytest.mark.parametrize("kind", [*SIGNS, "tensor"])
def test_opcheck(kind):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    stored, dense = torch.randn(plan.support.nnz), torch.randn(20, 12)
    signs = SIGNS.get(kind, (stored.abs(), 0.0, True))
    out = torch.empty(20, 12)
    # It writes into its last argument, so autograd has nothing to see.
    torch.library.opcheck(torch.ops.sparsefl.dense_weight, (stored, *signs, *plan.transposed, out))
    torch.library.opcheck(torch.ops.sparsefl.kept_gradient, (dense, *signs, *plan.transposed))


@pytest.mark.parametrize("shape", [(40, 300), (7, 40, 3, 3)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.7, 1.0])
def test_weight_and_gradient_are_inverse(shape, density):
    support = Support.random(shape, density, seed=1)
    plan = ops.LinearPlan(support) if len(shape) == 2 else ops.Conv2dPlan(support)
    values = torch.randn(support.nnz)
    weight = _dense.fill_weight(values, None, plan).clone()
    expected = torch.zeros(shape)
    expected[support.to_mask()] = torch.empty_like(values).index_copy(0, plan.order, values)
    assert torch.equal(weight, expected)
    assert torch.equal(_dense.kept_gradient(weight, None, plan), values)


def test_layers_share_one_scratch():
    small, large = torch.Size((3, 4)), torch.Size((5, 6))
    like = torch.randn(1)
    first = _dense.scratch(large, like)
    assert _dense.scratch(small, like).data_ptr() == first.data_ptr()
    assert _dense.scratch(small, like.double()).data_ptr() != first.data_ptr()


@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3, 3)], ids=str)
def test_full_support_computes_in_the_dtype_of_autocast_as_dense_torch(shape):
    support = Support.random(shape, 1.0)
    values, bias = torch.randn(support.nnz, requires_grad=True), torch.randn(12)
    with torch.autocast("cpu", torch.bfloat16):
        if len(shape) == 2:
            x = torch.randn(7, 20)
            ours = ops.sparse_linear(x, values, bias, ops.LinearPlan(support))
            theirs = torch.nn.functional.linear(x, values.view(shape), bias)
        else:
            x = torch.randn(7, 20, 5, 6)
            ours = ops.sparse_conv2d(x, values, bias, ops.Conv2dPlan(support))
            theirs = torch.nn.functional.conv2d(x, values.view(shape), bias)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
