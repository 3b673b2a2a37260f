"""What a convolution saves after a norm: the norm's input, from which its own comes again."""

import pytest
import torch

from sparsefl import Support, ops

pytestmark = pytest.mark.isa


@pytest.fixture
def plan():
    return ops.Conv2dPlan(Support.random((5, 4, 3, 3), 0.4, seed=1), padding=(1, 1))


def operands(plan):
    x = torch.randn(17, 4, 6, 7, requires_grad=True)
    weight, bias = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    return x, weight, bias, torch.randn(plan.support.nnz, requires_grad=True)


def test_the_gradients_are_those_of_a_saved_input(plan):
    x, weight, bias, values = leaves = operands(plan)
    grad = torch.randn(17, 5, 6, 7)
    again = ops.batch_norm(x, weight, bias, relu=True).y
    kept = again.view_as(again)
    results = [
        torch.autograd.grad(ops.sparse_conv2d(y, values, None, plan), leaves, grad, True)
        for y in (again, kept)
    ]
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


def test_the_output_of_the_norm_is_not_kept(plan):
    x, weight, bias, values = operands(plan)
    x = ops.batch_last(x)
    kept = set()

    def pack(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = ops.batch_norm(x, weight, bias, relu=True).y
        ops.sparse_conv2d(y, values, None, plan)
    assert x.untyped_storage().data_ptr() in kept
    assert y.untyped_storage().data_ptr() not in kept


def test_a_changed_output_is_kept(plan):
    x, weight, bias, values = leaves = operands(plan)
    y = ops.batch_norm(x, weight, bias, relu=True).y
    y.mul_(2)
    (grad,) = torch.autograd.grad(ops.sparse_conv2d(y, values, None, plan).sum(), values)
    twice = ops.batch_norm(*leaves[:3], relu=True).y * 2
    (expected,) = torch.autograd.grad(ops.sparse_conv2d(twice, values, None, plan).sum(), values)
    torch.testing.assert_close(grad, expected)


def test_what_it_comes_from_must_not_change_before_the_backward(plan):
    x, weight, bias, values = operands(plan)
    y = ops.batch_norm(x, weight, bias, relu=True).y
    out = ops.sparse_conv2d(y, values, None, plan)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_with_a_residual_the_output_is_kept(plan):
    x, weight, bias, values = leaves = operands(plan)
    y = ops.batch_norm(x, weight, bias, residual=x, relu=True).y
    grads = torch.autograd.grad(ops.sparse_conv2d(y, values, None, plan).sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not hasattr(y, "_sparsefl_recipe")
