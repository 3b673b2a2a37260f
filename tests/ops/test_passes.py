"""Which kernel computes a pass on a GPU: by a device's table, else by rules. None is launched."""

import json

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops import _dispatch, _passes, _verified
from sparsefl.ops._layout_table import Grid, LayoutTable, cache_path
from sparsefl.ops._passes import Passes, pass_name
from sparsefl.ops._plan import on_device

pytest.importorskip("triton")
CPU = torch.device("cpu")
BLOCKS = Support.random((256, 384), 0.4, seed=1, structure=(64, 64))
ANY = Support.random((256, 384), 0.4, seed=1)
MACHINE = {"device": "a device", "architecture": "sm_90"}


def grid(kernel_us: float, dense_us: float) -> Grid:
    """Returns a grid on which either time is constant."""
    ours, dense = ([[[us] * 2] * 2] * 2 for us in (kernel_us, dense_us))
    return Grid((64.0, 4096.0), (1.0, 4096.0), (0.1, 0.9), ours, dense)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Lets the CPU pass for a device with every kernel: returns what writes its table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(_verified.OVERRIDE, "all")
    monkeypatch.setenv("SPARSEFL_LAYOUT", "measured")
    monkeypatch.setattr(_passes, "accelerated", lambda device: True)
    monkeypatch.setattr(_dispatch, "accelerated", lambda device: True)
    monkeypatch.setattr(_verified, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(_passes, "device_machine", lambda device: MACHINE)
    _dispatch.forget()
    _passes.forget_tables()

    def write(grids):
        path = cache_path(MACHINE)
        LayoutTable(MACHINE, grids).write(path)
        _passes.forget_tables()
        return path

    yield write
    monkeypatch.undo()
    _dispatch.forget()
    _passes.forget_tables()


def passes_of(support, rows, one=False, dtype=torch.bfloat16):
    plan = on_device(ops.LinearPlan(support), CPU)
    x = torch.empty(rows, support.shape[1], dtype=dtype)
    assert _passes.passes_of(plan, x, rows, one) is _passes.passes_of(plan, x, rows, one)
    return _passes.passes_of(plan, x, rows, one)


def test_rules_choose_without_a_table(measured):
    assert passes_of(ANY, 7) == ("masked_linear", "masked_linear_dx", "masked_dw")
    assert passes_of(ANY, 65) == (None, None, "masked_dw")
    sparser = Support.random((256, 384), 0.2, seed=2, structure=(64, 64))
    assert passes_of(sparser, 65) == ("block_linear", "block_linear_dx", "block_dw")
    assert passes_of(sparser, 65, one=True) == ("sign_linear", "sign_linear_dx", "block_dw")
    assert passes_of(BLOCKS, 65) == (None, None, "masked_dw")


def test_the_fastest_is_chosen_pass_by_pass(measured):
    measured(
        {
            "block_linear, bfloat16, 64x64": grid(10.0, 20.0),
            "sign_linear, bfloat16, 64x64": grid(12.0, 20.0),
            "block_linear_dx, bfloat16, 64x64": grid(30.0, 20.0),
            "sign_linear_dx, bfloat16, 64x64": grid(15.0, 20.0),
            "block_dw, bfloat16, 64x64": grid(9.0, 20.0),
            "masked_dw, bfloat16": grid(8.0, 20.0),
        }
    )
    assert passes_of(BLOCKS, 500) == ("block_linear", None, "masked_dw")
    assert passes_of(BLOCKS, 500, one=True) == ("block_linear", "sign_linear_dx", "masked_dw")
    assert passes_of(BLOCKS, 500, dtype=torch.float16) == ("block_linear", None, "masked_dw")
    # What was not measured is not chosen.
    assert passes_of(BLOCKS, 500, dtype=torch.float32) == _passes.DENSE_PASSES


def test_dense_torch_is_chosen_unless_a_kernel_is_clearly_faster(measured):
    measured({"masked_dw, bfloat16": grid(19.9, 20.0)})
    assert passes_of(ANY, 500) == _passes.DENSE_PASSES


def test_many_rows_take_no_kernel_for_few(measured):
    measured({"masked_linear, bfloat16": grid(1.0, 20.0)})
    assert passes_of(ANY, 64).forward == "masked_linear"
    assert passes_of(ANY, 65).forward is None


def test_an_override_of_layouts_passes_over_the_table(measured, monkeypatch):
    measured({"masked_dw, bfloat16": grid(30.0, 20.0)})
    monkeypatch.setenv("SPARSEFL_LAYOUT", "sparse")
    _dispatch.forget()
    assert passes_of(ANY, 500).dw == "masked_dw"


@pytest.mark.parametrize(
    ("sides", "expected"),
    [([16, 16], "16x16"), ([32, 16], "16x16"), ([48, 48], "64x64"), ([256, 128], "128x128")],
)
def test_blocks_take_the_grid_of_the_nearest_area(sides, expected):
    assert pass_name("block_dw", torch.float16, sides) == f"block_dw, bfloat16, {expected}"


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 0}'])
def test_a_file_that_is_no_table_is_told(measured, text):
    path = measured({})
    path.write_text(text)
    with pytest.warns(RuntimeWarning, match="not a table of kernels .* rules choose"):
        assert passes_of(ANY, 65).dw == "masked_dw"


def test_a_table_holds_what_was_written(measured):
    path = measured({"masked_dw, bfloat16": grid(8.0, 20.0)})
    assert json.loads(path.read_text())["machine"] == MACHINE
    assert _passes.device_table(CPU).source == str(path)
    assert list(_passes.crossovers(_passes.device_table(CPU))) == ["masked_dw, bfloat16: never"]


def test_passes_are_told_in_words():
    told = str(Passes("block_linear", None, "masked_dw"))
    assert told == (
        "output by block_linear, input gradient by dense torch, weight gradient by masked_dw"
    )
