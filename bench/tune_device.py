"""``sparsefl bench --tune --device cuda``: measures the table that a GPU's kernels are chosen from.

For each kernel of linear layers that may run there, a grid of sizes, rows and densities: its pass,
and the same by dense torch on a scratch weight, in turns. What lies between,
:mod:`sparsefl.ops._layout_table` interpolates; the choice is made in :mod:`sparsefl.ops._passes`.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsefl import ops, timing
from sparsefl.ops import _dense, _kernel_linear, _linear, _passes
from sparsefl.ops._kernel_weight import packed_weight
from sparsefl.ops._layout_table import Grid, LayoutTable, cache_path
from sparsefl.ops._magnitude import Magnitude
from sparsefl.support import Support
from sparsefl.timing import Effort, Run

from .device import FLUSHED, timed

SIZES = (512, 2048, 4096)
ROWS = (16, 256, 4096)
FEW_ROWS = (1, 16, _passes.FEW_ROWS)
DENSITIES = (0.05, 0.2, 0.5)
DTYPES = (torch.bfloat16, torch.float32)
EFFORT = Effort(warmup=2, timed=15, probes=1, short_s=0.0)

Step = Callable[[], object]
# Gives the seconds of steps that take turns, by name.
Timer = Callable[[Mapping[str, Step]], Mapping[str, float]]


class Operands(NamedTuple):
    """What a pass reads."""

    x: Tensor
    grad: Tensor
    stored: Tensor
    magnitude: Magnitude | None
    plan: ops.LinearPlan


@dataclass(frozen=True)
class Cell:
    """A pass of a layer at one point of a grid.

    Attributes:
        kernel: Name of the kernel.
        support: The kept positions, ``[size, size]``.
        rows: Of the input.
        dtype: Of values and activations.
        device: Where it runs.
    """

    kernel: str
    support: Support
    rows: int
    dtype: torch.dtype
    device: torch.device

    def steps(self) -> dict[str, Step]:
        """Return the pass by the kernel and by dense torch."""
        plan = ops.LinearPlan(self.support).to(self.device)
        out, inner = self.support.shape
        x, grad = (
            torch.randn(self.rows, n, device=self.device, dtype=self.dtype) for n in (inner, out)
        )
        stored = torch.randn(self.support.nnz, device=self.device, dtype=self.dtype)
        magnitude = Magnitude(None, 0.5) if self.kernel.startswith("sign") else None
        of = Operands(x, grad, stored, magnitude, plan)
        return {"kernel": _kernel_step(self.kernel, of), "dense": _dense_step(self.kernel, of)}


def _kernel_step(kernel: str, of: Operands) -> Step:
    if kernel.endswith("_dw"):
        return lambda: _kernel_linear.stored_gradient(kernel, of.grad, of.x, of.magnitude, of.plan)
    given = of.grad if kernel.endswith("_dx") else of.x

    def product() -> Tensor:
        packed = packed_weight(kernel, of.stored, of.magnitude, of.plan)
        return _kernel_linear.product(kernel, given, packed, None, of.magnitude, of.plan)

    return product


def _dense_step(kernel: str, of: Operands) -> Step:
    def weight() -> Tensor:
        return _dense.fill_weight(of.stored, of.magnitude, of.plan)

    if kernel.endswith("_dw"):
        return lambda: _dense.kept_gradient(
            _linear.weight_gradient(of.grad, of.x, of.plan), of.magnitude, of.plan
        )
    if kernel.endswith("_dx"):
        return lambda: of.grad @ weight()
    return lambda: torch.nn.functional.linear(of.x, weight())


def tune(
    device: torch.device, timer: Timer | None = None, path: pathlib.Path | None = None
) -> pathlib.Path | None:
    """Measure a device's table, write it, and let this process use it.

    Args:
        device: The device.
        timer: What times steps; by default CUDA events around graphs.
        path: Where to; by default the user's cache.

    Returns:
        The file; None where no kernel may run on the device, which is said.
    """
    machine = _passes.device_machine(device)
    grids = dict(measure_grids(device, timer or DeviceTimer(device)))
    if not grids:
        print(
            "no kernel of linear layers may run on this device, so there is nothing to choose "
            "from: SPARSEFL_GPU_KERNELS=all tries those that are not verified"
        )
        return None
    path = path or cache_path(machine)
    table = LayoutTable(machine, grids)
    table.write(path)
    _passes.forget_tables()
    print(*(f"dense from density on, {line}" for line in _passes.crossovers(table)), sep="\n")
    print(f"written to {path}")
    return path


def measure_grids(device: torch.device, timer: Timer) -> Iterator[tuple[str, Grid]]:
    """Measure the grid of every kernel, dtype and block, name by name."""
    for side in (*_passes.SIDES, None):
        structure = None if side is None else (side, side)
        example = Support.random((512, 512), 0.5, structure=structure)
        names = _passes.linear_kernels(example, device)
        wanted = _passes.MASKED_KERNELS if side is None else _passes.BLOCK_KERNELS
        for kernel in sorted(names.intersection(wanted)):
            for dtype in DTYPES:
                sides = None if side is None else [side, side]
                name = _passes.pass_name(kernel, dtype, sides)
                grid = measure_grid(kernel, structure, dtype, device, timer)
                yield name, grid


def measure_grid(
    kernel: str,
    structure: tuple[int, int] | None,
    dtype: torch.dtype,
    device: torch.device,
    timer: Timer,
) -> Grid:
    """Measure a kernel's grid, cell by cell."""
    rows = FEW_ROWS if kernel in _passes.MASKED_PRODUCTS else ROWS
    ours: list[list[list[float]]] = []
    dense: list[list[list[float]]] = []
    for size in SIZES:
        supports = [Support.random((size, size), d, structure=structure) for d in DENSITIES]
        cells = [[Cell(kernel, s, n, dtype, device) for s in supports] for n in rows]
        seconds = [[timer(cell.steps()) for cell in line] for line in cells]
        ours.append([[_us(taken["kernel"]) for taken in line] for line in seconds])
        dense.append([[_us(taken["dense"]) for taken in line] for line in seconds])
    return Grid(tuple(map(float, SIZES)), tuple(map(float, rows)), DENSITIES, ours, dense)


def _us(seconds: float) -> float:
    return round(1e6 * seconds, 2) if math.isfinite(seconds) else 1e12


class DeviceTimer:
    """Times steps on a CUDA device, captured in graphs where they can be, in turns."""

    def __init__(self, device: torch.device) -> None:
        """Allocate what is written between steps."""
        self.flushed = torch.empty(FLUSHED, dtype=torch.uint8, device=device)

    def __call__(self, steps: Mapping[str, Step]) -> dict[str, float]:
        """Return medians; infinity for a step that cannot run there."""
        runs = {name: run for name, step in steps.items() if (run := self._run(name, step))}
        taken = dict.fromkeys(steps, math.inf)
        for name, samples in timing.interleave(runs, EFFORT).items():
            taken[name] = float(np.nanmedian(samples[-1]))
        return taken

    def _run(self, name: str, step: Step) -> Run | None:
        try:
            return timed(step, 1, self.flushed)[0]
        except (NotImplementedError, RuntimeError) as error:
            print(f"{name} did not run: {type(error).__name__}: {error}".partition("\n")[0])
            return None
