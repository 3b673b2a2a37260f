"""Compaction: supports of whole rows and columns, and dense torch on what they keep."""

import numpy as np
import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops._compact import compact


@pytest.fixture(autouse=True)
def compact_layout(set_layout):
    """Compacts whatever can be."""
    set_layout("compact")


def crossings(shape, rows, columns):
    """Returns the support that keeps every crossing of some rows and columns."""
    mask = np.zeros(shape, bool)
    mask[np.ix_(list(rows), list(columns))] = True
    return Support.from_mask(mask)


def compacted(support, groups=1):
    return compact(support, torch.randperm(support.nnz), groups)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3, 2)], ids=str)
def test_rows_and_columns_are_found(shape):
    found = compacted(crossings(shape, (1, 2, 6), (0, 3)))
    assert (found.rows.tolist(), found.columns.tolist()) == ([1, 2, 6], [0, 3])
    assert found.shape == (3, 2, *shape[2:])
    rows, columns = (crossings(shape, *k) for k in ((range(7), (4,)), ((0, 2), range(5))))
    assert compacted(rows).rows is None
    assert compacted(columns).columns is None


def test_what_is_no_crossing_is_not_compacted():
    mask = crossings((6, 8), (0, 2, 3, 5), (1, 4, 7)).to_numpy_mask()
    for wrong in ([(0, 4), (0, 5)], [(5, 4), (5, 5)], [(2, 1), (1, 1)], [(3, 7)]):
        spoilt = mask.copy()
        for at in wrong:
            spoilt[at] = not spoilt[at]
        assert compacted(Support.from_mask(spoilt)) is None
    for density in (0.0, 1.0):
        assert compacted(Support.random((6, 8), density)) is None
    taps = np.zeros((4, 3, 2, 2), bool)
    taps[:, :, 0] = True  # whole rows and columns of taps, not of channels
    assert compacted(Support.from_mask(taps)) is None


def test_groups_that_keep_as_many_rows_are_compacted():
    shape = (6, 4, 3, 3)
    found = compacted(crossings(shape, (0, 5), (1, 3)), groups=2)
    assert found.columns.tolist() == [1, 3, 5, 7]
    assert compacted(crossings(shape, (0, 1), (1, 3)), groups=2) is None


CONVOLUTIONS = {
    "3x3": ((5, 10, 9, 8), (12, 10, 3, 3), (5, 12, 9, 8), 1, 1, 1),
    "stride-2": ((5, 10, 9, 8), (12, 10, 3, 3), (5, 12, 5, 4), 2, 1, 1),
    "1x1": ((1, 10, 5, 5), (13, 10, 1, 1), (1, 13, 5, 5), 1, 0, 1),
    "same": ((4, 10, 5, 6), (8, 10, 2, 2), (4, 8, 5, 6), 1, "same", 1),
    "groups": ((6, 20, 7, 7), (12, 10, 3, 3), (6, 12, 5, 5), 1, 0, 2),
}
# Of groups that keep different numbers of rows nothing can be compacted.
STRUCTURES = [
    (case, structure)
    for case in CONVOLUTIONS
    for structure in ("rows", "columns", "crossings")
    if case != "groups" or structure == "columns"
]


@pytest.mark.parametrize("kind", ["values", "sign_tensor"])
@pytest.mark.parametrize(("case", "structure"), STRUCTURES)
@pytest.mark.parametrize("order", [ops.batch_last, ops.row_major, "channels_last"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_conv2d_matches(make_problem, assert_op_matches, case, structure, kind, order):
    *shapes, stride, padding, groups = CONVOLUTIONS[case]
    padding = padding if padding == "same" else (padding, padding)
    geometry = {"stride": (stride, stride), "padding": padding, "dilation": (1, 1)}
    problem = make_problem(*shapes, 0.4, kind, structure=structure, groups=groups, **geometry)
    if order == "channels_last":
        problem.x = problem.x.contiguous(memory_format=torch.channels_last)
    else:
        problem.x = order(problem.x)
    assert_op_matches(problem)


@pytest.mark.parametrize("order", [ops.batch_last, ops.row_major])
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_output_lies_as_the_input(order, batch):
    support = crossings((7, 5), (1, 2, 6), (0, 3))
    x = order(torch.randn(batch, 5)).requires_grad_()
    y = ops.sparse_linear(x, torch.randn(6), None, ops.LinearPlan(support))
    y.sum().backward()
    assert y.shape == (batch, 7)
    assert y.stride() == order(torch.empty(batch, 7)).stride()
    assert x.grad.stride() == x.stride()


def test_pruned_channels_are_not_read():
    plan = ops.LinearPlan(crossings((7, 5), (1, 2, 6), (0, 3)))
    x, values, bias = torch.randn(4, 5), torch.randn(6), torch.randn(7)
    x[:, [1, 2, 4]] = float("nan")
    x.requires_grad_()
    values.requires_grad_()
    y = ops.sparse_linear(x, values, bias, plan)
    grad = torch.full_like(y, float("nan"))
    grad[:, [1, 2, 6]] = 1.0
    y.backward(grad)
    assert torch.equal(y[:, [0, 3, 4, 5]], bias[[0, 3, 4, 5]].expand(4, 4))
    assert y.isfinite().all()
    assert values.grad.isfinite().all()
    assert x.grad.isfinite().all()
    assert not x.grad[:, [1, 2, 4]].any()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["x", "values"])
def test_what_is_not_asked_for_has_no_gradient(frozen, bias):
    plan = ops.Conv2dPlan(crossings((7, 5, 3, 3), (1, 2, 6), (0, 3)))
    leaves = {"x": torch.randn(2, 5, 6, 6), "values": torch.randn(54), "bias": torch.randn(7)}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name != frozen)
    ops.sparse_conv2d(
        leaves["x"], leaves["values"], leaves["bias"] if bias else None, plan
    ).sum().backward()
    got = {name for name, leaf in leaves.items() if leaf.grad is not None}
    assert got == set(leaves) - {frozen} - (set() if bias else {"bias"})


def test_gradients_and_their_gradients():
    plan = ops.LinearPlan(crossings((7, 5), (1, 2, 6), (0, 3)))
    leaves = [torch.randn(n, dtype=torch.float64, requires_grad=True) for n in ((4, 5), (6,), (7,))]

    def map_of(x, values, bias):
        return ops.sparse_linear(x, values, bias, plan)

    assert torch.autograd.gradcheck(map_of, leaves)
    assert torch.autograd.gradgradcheck(map_of, leaves)


def test_autocast_leaves_it_in_float32():
    plan = ops.LinearPlan(crossings((7, 5), (1, 2, 6), (0, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.sparse_linear(torch.randn(4, 5), torch.randn(6), None, plan)
    assert y.dtype == torch.float32


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3, 2)], ids=str)
def test_weight_may_lie_channels_last(shape):
    plan = ops.LinearPlan if len(shape) == 2 else ops.Conv2dPlan
    plan = plan(crossings(shape, (1, 2, 6), (0, 3)))
    stored = torch.randn(plan.support.nnz, dtype=torch.float64, requires_grad=True)
    moved = plan.compact.to(torch.device("cpu"), channels_last=True)
    here, there = (kept.weight(stored, None) for kept in (plan.compact, moved))
    assert torch.equal(here, there)
    assert here.is_contiguous()
    if len(shape) == 4:
        assert there.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(here)
    (one,) = torch.autograd.grad((here * weights).sum(), stored)
    (other,) = torch.autograd.grad((there * weights).sum(), stored)
    assert torch.equal(one, other)
