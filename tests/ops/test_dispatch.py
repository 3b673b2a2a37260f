"""The layout of a call: from the measured table, once a call's sizes, whatever the cache holds."""

import json
import math
import re

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops import _dispatch, _layout_table
from sparsefl.ops._layout_table import KINDS, SHIPPED, Grid, LayoutTable, cache_path, grid_name

THREADS = torch.get_num_threads()


def grid(sparse_us: float, dense_us: float) -> Grid:
    """Returns a grid on which sparse time grows with the density and all else is constant."""
    densities = (0.1, 0.9)
    sparse = [[[sparse_us * d for d in densities]] * 2] * 2
    return Grid((64.0, 1024.0), (1.0, 256.0), densities, sparse, [[[dense_us] * 2] * 2] * 2)


@pytest.fixture
def measured(set_layout, tmp_path, monkeypatch):
    """Chooses from a table in an empty cache: returns what writes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    set_layout("measured")

    def write(**grids):
        chosen = {grid_name(k, order): grid(100.0, 1e9) for k in KINDS for order in (False, True)}
        machine = _layout_table.this_machine(THREADS)
        path = cache_path(machine)
        LayoutTable(machine, {**chosen, **grids}).write(path)
        _dispatch.forget()
        return path

    return write


@pytest.fixture
def layer():
    support = Support.random((40, 30), 0.3, seed=0)
    return ops.LinearPlan(support), torch.randn(support.nnz), torch.randn(40)


def choice_of(plan: ops.LinearPlan) -> _dispatch.Choice:
    (choice,) = plan.choices.values()
    return choice


@pytest.mark.parametrize(("dense_us", "layout"), [(20.0, "dense"), (40.0, "sparse")])
def test_faster_layout_is_chosen(measured, layer, dense_us, layout):
    path = measured(**{"linear, row-major": grid(100.0, dense_us)})
    plan, values, bias = layer
    ops.sparse_linear(torch.randn(8, 30), values, bias, plan)
    choice = choice_of(plan)
    assert choice.layout == layout
    assert (choice.sparse_us, choice.dense_us) == (pytest.approx(30.0), pytest.approx(dense_us))
    assert choice.source == str(path)
    assert f"dense {dense_us:.0f} us" in str(choice)


def test_either_layout_gives_the_same(measured, layer):
    measured(**{"linear, row-major": grid(100.0, 1.0)})
    plan, values, bias = layer
    x = torch.randn(8, 30)
    dense = ops.sparse_linear(x, values, bias, plan)
    sparse = ops.sparse_linear(ops.batch_last(x), values, bias, plan)
    assert [choice.layout for choice in plan.choices.values()] == ["dense", "sparse"]
    torch.testing.assert_close(dense, sparse)


def test_choices_that_a_plan_keeps_are_bounded(measured, layer):
    measured()
    plan, values, bias = layer
    for batch in range(1, 400):
        ops.sparse_linear(torch.randn(batch, 30), values, bias, plan)
    assert 0 < len(plan.choices) <= 256


def test_choice_is_made_once_for_each_batch(measured, layer, monkeypatch):
    measured()
    plan, values, bias = layer
    calls = []
    expect = Grid.expect
    monkeypatch.setattr(Grid, "expect", lambda *a: calls.append(a) or expect(*a))
    for batch in (8, 8, 9, 8):
        ops.sparse_linear(torch.randn(batch, 30), values, bias, plan)
    assert len(plan.choices) == 2
    assert len({args[2] for args in calls}) == 2
    assert len(calls) == 4  # sparse and dense ask apart


def test_full_support_is_dense_whatever_was_measured(measured):
    measured()
    support = Support.random((40, 30), 1.0)
    plan = ops.LinearPlan(support)
    ops.sparse_linear(torch.randn(8, 30), torch.randn(1200), None, plan)
    assert choice_of(plan).layout == "dense"


def test_incomplete_vectors_of_a_convolution_cost_whole_ones(measured):
    positions = (1.0, 256.0)
    rising = [[[n, n] for n in positions]] * 2
    steep = Grid((1.0, 64.0), positions, (0.1, 0.9), rising, rising)
    measured(**{"conv, row-major": steep})
    support = Support.random((8, 8, 3, 3), 0.5, seed=0)
    choice = _dispatch.choose(support, "conv", 2, 4, False, THREADS)
    assert choice.layout == "dense"
    assert choice.sparse_us == pytest.approx(64.0)
    assert choice.dense_us == pytest.approx(8.0)


def test_interpolation_is_exact_on_the_grid_and_for_powers_between():
    sizes, positions, densities = (64.0, 512.0), (1.0, 16.0, 256.0), (0.1, 0.9)
    times = [[[s * s * n * d for d in densities] for n in positions] for s in sizes]
    powers = Grid(sizes, positions, densities, times, times)
    for size, count, density in [(64, 1, 0.1), (512, 256, 0.9), (100, 50, 0.4), (4000, 999, 1.0)]:
        expected = size * size * count * density
        assert powers.expect(size, count, density) == pytest.approx((expected, expected))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 99}', "\0", '{"version": 1, "machine": {}, "grids": {}}'],
    ids=["empty", "list", "no version", "other version", "binary", "no grids"],
)
def test_damaged_cache_is_named_and_passed_over(measured, text):
    path = measured()
    path.write_text(text)
    _dispatch.forget()
    with pytest.warns(RuntimeWarning, match=re.escape(f"{path}: not a table")):
        assert _dispatch.table(THREADS).source == str(SHIPPED)


@pytest.mark.parametrize("damage", ["negative", "short", "unsorted", "missing"])
def test_table_with_wrong_times_is_refused(measured, tmp_path, damage):
    held = json.loads(measured().read_text())
    grid = held["grids"]["conv, batch-last"]
    if damage == "negative":
        grid["sparse_us"][0][1][0] = -1.0
    elif damage == "short":
        grid["dense_us"][1].pop()
    elif damage == "unsorted":
        grid["sizes"].reverse()
    else:
        del held["grids"]["conv, batch-last"]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"times|axis|no grid"):
        LayoutTable.read(path)


def test_table_keeps_through_a_file(measured):
    path = measured()
    read = LayoutTable.read(path)
    read.write(path)
    assert LayoutTable.read(path) == read
    assert read.machine == _layout_table.this_machine(THREADS)


def test_shipped_table_is_whole_and_never_dense_at_low_density_and_size():
    shipped = LayoutTable.read(SHIPPED)
    for kind in ("linear", "conv"):
        sparse_us, dense_us = shipped.grids[grid_name(kind, True)].expect(512, 4096, 0.05)
        assert sparse_us < dense_us
    assert all(math.isfinite(t) for g in shipped.grids.values() for t in g.sparse_us[0][0])


def test_machines_do_not_share_a_file():
    machine = _layout_table.this_machine(1)
    paths = {cache_path({**machine, key: "other"}) for key in machine} | {cache_path(machine)}
    assert len(paths) == len(machine) + 1


def test_unknown_override_is_refused(set_layout, layer):
    set_layout("fastest")
    plan, values, bias = layer
    with pytest.raises(ValueError, match="SPARSEFL_LAYOUT='fastest': expected one of measured"):
        ops.sparse_linear(torch.randn(8, 30), values, bias, plan)


def test_choice_says_the_rule_where_nothing_was_measured(set_layout):
    set_layout("density")
    support = Support.random((40, 30), 0.3, seed=0)
    assert str(_dispatch.choose(support, "linear", 8, 1, False, THREADS)) == (
        "sparse kernels (density up to 0.65)"
    )
