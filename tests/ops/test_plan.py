"""Plans: every kept position once in each view, and operators checked for compilation."""

import pytest
import torch

from sparsefl import Support, ops


def positions(view: ops.View, rows: int, columns: int, phases: int = 1) -> list[tuple[int, int]]:
    """Returns (row, column) of every kept position in the view's order."""
    blocks = max(1, -(-columns // view.block))
    found = []
    begin, local = view.begin.tolist(), [c & 0xFFFF for c in view.columns.tolist()]
    for phase in range(phases):
        for block in range(blocks):
            for row in range(rows):
                bucket = (phase * blocks + block) * rows + row
                columns_of = local[begin[bucket] : begin[bucket + 1]]
                assert columns_of == sorted(columns_of)
                found += [(row, block * view.block + c) for c in columns_of]
    return found


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.usefixtures("sparse_layout")
def test_linear_views_hold_every_position(density):
    support = Support.random((40, 300), density, seed=3)
    plan = ops.LinearPlan(support)
    kept = [divmod(i, 300) for i in support.indices.tolist()]
    stored = [(r, c) for c, r in positions(plan.transposed, 300, 40)]
    assert sorted(stored) == kept
    assert [kept[rank] for rank in plan.order.tolist()] == stored
    forward = positions(plan.forward, 40, 300)
    assert forward == [stored[k] for k in plan.forward.position.tolist()]


def test_pointwise_convolutions_walk_as_linear_maps_do():
    support = Support.random((40, 300), 0.3, seed=3)
    linear = ops.LinearPlan(support)
    conv = ops.Conv2dPlan(Support.from_mask(support.to_mask()[:, :, None, None]))
    assert conv.linear
    assert torch.equal(conv.order, linear.order)
    for ours, theirs in ((conv.forward, linear.forward), (conv.transposed, linear.transposed)):
        assert all(map(torch.equal, ours[:2], theirs[:2]))


@pytest.mark.parametrize(
    ("density", "forward", "backward"), [(0.5, 128, 128), (0.1, 256, 512), (0.01, 2048, 2048)]
)
def test_dense_rows_are_cut_into_smaller_blocks_than_thin_ones(density, forward, backward):
    plan = ops.LinearPlan(Support.random((4096, 4096), density, seed=1))
    assert (plan.forward.block, plan.transposed.block) == (forward, backward)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution_phases_hold_every_position_once(stride):
    support = Support.random((6, 4, 3, 3), 0.5, seed=3)
    plan = ops.Conv2dPlan(support, (stride, stride), (1, 1))
    found = positions(plan.transposed, 4, 6 * 9, stride * stride)
    kept = {(i // 9 % 4, i // 36 * 9 + i % 9) for i in support.indices.tolist()}
    assert len(found) == support.nnz
    assert set(found) == kept


def test_work_counts_positions_and_blocks():
    plan = ops.LinearPlan(Support.random((10, 300), 0.2, seed=1))
    blocks = -(-300 // plan.forward.block)
    assert plan.forward.work[-1] == plan.support.nnz + 10 * blocks


def test_opcheck_of_the_builders():
    support = Support.random((6, 20), 0.3, seed=1)
    indices = torch.from_numpy(support.indices.copy())
    # They make their outputs' sizes from the arguments alone but run once a support, never traced.
    utils = ("test_schema",)
    torch.library.opcheck(torch.ops.sparsefl.plan_forward, (indices, 6, 20, 8), test_utils=utils)
    order = ops.LinearPlan(support).order
    torch.library.opcheck(
        torch.ops.sparsefl.plan_transposed,
        (indices, order, 6, 20, 1, 4, [0], 1),
        test_utils=utils,
    )


def test_linear_plan_names_a_support_of_another_shape():
    with pytest.raises(ValueError, match="expected \\[out_features, in_features\\]"):
        ops.LinearPlan(Support.random((2, 3, 4), 0.5, seed=1))


def test_moving_to_the_same_device_keeps_the_plan():
    plan = ops.LinearPlan(Support.random((4, 5), 0.5, seed=1))
    assert plan.to("cpu") is plan


def test_the_values_of_a_full_support_are_the_dense_weight():
    for shape in ((30, 300), (6, 70, 3, 3)):
        plan = ops.LinearPlan if len(shape) == 2 else ops.Conv2dPlan
        assert plan(Support.random(shape, 1.0, seed=1)).whole
        assert not plan(Support.random(shape, 0.9, seed=1)).whole
