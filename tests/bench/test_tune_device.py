"""A GPU's table, measured by a clock that is given: which grids there are, and what they hold."""

import math

import pytest
import torch

from sparsefl.bench import tune_device
from sparsefl.bench.device_passes import make_plan
from sparsefl.bench.runner import main
from sparsefl.ops import _dispatch, _passes, _verified
from sparsefl.ops._layout_table import LayoutTable
from sparsefl.ops._plan import Conv2dPlan, LinearPlan, on_device
from sparsefl.support import Support

pytest.importorskip("triton")
CPU = torch.device("cpu")
MACHINE = {"device": "a device", "architecture": "sm_90"}


@pytest.fixture
def device(monkeypatch, tmp_path):
    """Lets the CPU pass for a device with every kernel, and layers be small."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(_verified.OVERRIDE, "all")
    for module in (_passes, _dispatch):
        monkeypatch.setattr(module, "accelerated", lambda device: True)
    for plan in (LinearPlan, Conv2dPlan):
        monkeypatch.setattr(plan, "to", on_device)
    monkeypatch.setattr(_passes, "device_machine", lambda device: MACHINE)
    monkeypatch.setattr(_passes, "SIDES", (16, 32))
    monkeypatch.setattr(tune_device, "SIZES", (64, 128))
    monkeypatch.setattr(tune_device, "CHANNELS", (64, 128))
    monkeypatch.setattr(tune_device, "PIXELS", (64, 128))
    monkeypatch.setattr(tune_device, "ROWS", (2, 8))
    monkeypatch.setattr(tune_device, "FEW_ROWS", (1, 2))
    _dispatch.forget()
    yield CPU
    monkeypatch.undo()
    _dispatch.forget()


class Clock:
    """Says that a kernel takes as many microseconds as it has been asked, dense torch 1,000."""

    def __init__(self):
        self.asked = 0

    def __call__(self, steps):
        assert list(steps) == ["kernel", "dense"]
        self.asked += 1
        return {"kernel": 1e-6 * self.asked, "dense": 1e-3}


def test_every_kernel_has_a_grid_for_each_dtype_and_block(device, tmp_path, capsys):
    clock = Clock()
    path = tune_device.tune(device, clock)
    table = LayoutTable.read(path, needed=())
    assert path.is_relative_to(tmp_path)
    names = {
        *(
            f"{kernel}, {dtype}, {side}x{side}"
            for kernel in _passes.BLOCK_KERNELS
            for dtype in ("bfloat16", "float32")
            for side in _passes.SIDES
        ),
        *(f"{k}, {d}" for k in _passes.MASKED_KERNELS for d in ("bfloat16", "float32")),
    }
    assert set(table.grids) == names
    assert clock.asked == len(names) * 2 * 2 * len(tune_device.DENSITIES)
    first = table.grids["block_dw, bfloat16, 16x16"]
    assert (first.sizes, first.positions) == ([64.0, 128.0], [2.0, 8.0])
    assert first.dense_us[1][1][2] == 1000.0
    assert table.grids["sign_conv2d_dx, float32, 32x32"].positions == [64.0, 128.0]
    assert table.grids["masked_linear, float32"].positions == [1.0, 2.0]
    assert f"written to {path}" in capsys.readouterr().out


def test_without_kernels_nothing_is_written(device, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(_verified.OVERRIDE, "none")
    _dispatch.forget()
    assert tune_device.tune(device, Clock()) is None
    assert not list(tmp_path.rglob("*.json"))
    assert "SPARSEFL_GPU_KERNELS=all tries those" in capsys.readouterr().out


@pytest.mark.parametrize("kernel", ["sign_linear", "block_linear_dx", "block_dw", "masked_dw"])
def test_dense_passes_give_what_the_layers_do(device, kernel, cuda_functions_on_cpu):
    support = Support.random((64, 32), 0.5, seed=1, structure=(16, 16))
    cell = tune_device.Cell(kernel, make_plan(support).to(device), 5, torch.float32)
    sizes = {"sign_linear": (5, 64), "block_linear_dx": (5, 32)}
    assert cell.steps()["dense"]().shape == sizes.get(kernel, (support.nnz,))


@pytest.mark.parametrize("kernel", ["sign_conv2d", "block_conv2d_dx", "block_conv2d_dw"])
def test_dense_passes_of_convolutions_give_what_the_layers_do(
    device, kernel, cuda_functions_on_cpu
):
    support = Support.random((64, 32, 3, 3), 0.5, seed=1, structure=(16, 16))
    cell = tune_device.Cell(kernel, make_plan(support).to(device), 100, torch.float32)
    sizes = {"sign_conv2d": (2, 64, 8, 8), "block_conv2d_dx": (2, 32, 8, 8)}
    assert cell.steps()["dense"]().shape == sizes.get(kernel, (support.nnz,))


def test_sizes_of_few_blocks_are_left_out(device, monkeypatch):
    monkeypatch.setattr(tune_device, "SIZES", (64, 256, 512))
    measured = tune_device.measure(["block_dw"], (128, 128), (), device, Clock())
    assert [grid.sizes for _, grid in measured] == [(256.0, 512.0)] * 2


def test_a_step_that_cannot_run_is_never_chosen():
    assert tune_device._us(math.inf) == 1e12


def test_no_device_is_told(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--tune", "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--tune", "--shipped", "--device", "cuda"])
