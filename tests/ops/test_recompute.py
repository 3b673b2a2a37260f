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


@pytest.fixture
def residual_block():
    """Returns a function of leaves: a block as ResNet has them, and its output."""
    plans = [
        ops.Conv2dPlan(Support.random((4, 4, 3, 3), 0.4, seed=seed), padding=(1, 1))
        for seed in range(4)
    ]

    def run(x, *values, held=True):
        x = ops.batch_last(x)
        first = ops.sparse_conv2d(x, values[0], None, plans[0])
        second = ops.sparse_conv2d(first, values[1], None, plans[1])
        added = x if held else x.view_as(x)
        y = ops.batch_norm(second, None, None, residual=added, relu=True).y
        after = [ops.sparse_conv2d(y, values[i], None, plans[i]) for i in (2, 3)]
        return y, after

    leaves = [torch.randn(17, 4, 6, 7), *(torch.randn(plan.support.nnz) for plan in plans)]
    return run, [leaf.requires_grad_() for leaf in leaves]


def saved_addresses(forward):
    """Returns what it returns, and the addresses of what it saves."""
    addresses = set()

    def pack(tensor):
        addresses.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return forward(), addresses


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
def test_a_sum_is_not_kept_where_a_convolution_holds_what_is_added(residual_block, held):
    run, leaves = residual_block
    (y, _), saved = saved_addresses(lambda: run(*leaves, held=held))
    assert (y.untyped_storage().data_ptr() in saved) is not held


def test_a_sum_from_again_gives_the_gradients_of_a_kept_one(residual_block):
    run, leaves = residual_block
    grad = torch.randn(17, 4, 6, 7)

    def gradients(held):
        _, (first, second) = run(*leaves, held=held)
        return torch.autograd.grad(first + second.square(), leaves, grad)

    assert all(torch.equal(*p) for p in zip(gradients(True), gradients(False), strict=True))


def test_two_convolutions_compute_it_again_once(residual_block, op_calls):
    run, leaves = residual_block
    _, (first, second) = run(*leaves)
    total = (first + second).sum()
    with op_calls() as calls:
        total.backward(retain_graph=True)
    assert calls["batch_norm_again"] == 1
    once = [leaf.grad.clone() for leaf in leaves]
    total.backward()
    assert all(torch.equal(leaf.grad, 2 * grad) for leaf, grad in zip(leaves, once, strict=True))


def test_it_is_not_held_after_the_last_has_had_it(residual_block):
    run, leaves = residual_block
    y, (first, second) = run(*leaves)
    dish = y._sparsefl_recipe.dish
    first.sum().backward(retain_graph=True)
    assert torch.equal(dish._y, y)
    second.sum().backward()
    assert dish._y is None


def test_with_a_residual_that_is_not_held_the_output_is_kept(plan):
    x, weight, bias, values = leaves = operands(plan)
    y = ops.batch_norm(x, weight, bias, residual=x, relu=True).y
    grads = torch.autograd.grad(ops.sparse_conv2d(y, values, None, plan).sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not hasattr(y, "_sparsefl_recipe")
