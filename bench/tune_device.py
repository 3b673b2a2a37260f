"""``sparsefl bench --tune --device cuda``: measures the table that a GPU's kernels are chosen from.

For each kernel that may run there, a grid of sizes, rows or pixels and densities: its pass, and the
same by dense torch on a scratch weight, in turns. What lies between,
:mod:`sparsefl.ops._layout_table` interpolates; the choice is made in :mod:`sparsefl.ops._passes`.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparsefl import ops, timing
from sparsefl.ops import _passes
from sparsefl.ops._layout_table import Grid, LayoutTable, cache_path
from sparsefl.ops._magnitude import Magnitude
from sparsefl.support import Support
from sparsefl.timing import Effort, Run

from .device import FLUSHED, timed
from .device_passes import Conv2dPasses, LinearPasses, make_plan

# Features of linear layers and rows of their inputs; channels of 3x3 convolutions and pixels of a
# batch.
SIZES, ROWS = (512, 2048, 4096), (16, 256, 4096)
FEW_ROWS = (1, 16, _passes.FEW_ROWS)
CHANNELS, PIXELS = (64, 256, 512), (1024, 16384, 131072)
DENSITIES = (0.05, 0.2, 0.5)
DTYPES = (torch.bfloat16, torch.float32)
EFFORT = Effort(warmup=2, timed=15, probes=1, short_s=0.0)

Step = Callable[[], object]
# Gives the seconds of steps that take turns, by name.
Timer = Callable[[Mapping[str, Step]], Mapping[str, float]]


@dataclass(frozen=True)
class Cell:
    """A pass of a layer at one point of a grid.

    Attributes:
        kernel: Name of the kernel.
        plan: Of the layer, on the device.
        positions: Rows of the input, or pixels in all images.
        dtype: Of values and activations.
    """

    kernel: str
    plan: ops.LinearPlan | ops.Conv2dPlan
    positions: int
    dtype: torch.dtype

    def steps(self) -> dict[str, Step]:
        """Return the pass by the kernel and by dense torch."""
        device = self.plan.order.device
        stored = torch.randn(self.plan.support.nnz, device=device, dtype=self.dtype)
        magnitude = Magnitude(None, 0.5) if self.kernel.startswith("sign") else None
        of: LinearPasses | Conv2dPasses
        if isinstance(self.plan, ops.LinearPlan):
            of = LinearPasses(self.kernel, self.plan, self.positions, stored, magnitude)
        else:
            of = Conv2dPasses(self.kernel, self.plan, self.positions, stored, magnitude)
        return {"kernel": of.by_kernel(), "dense": of.by_torch()}


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
            "no kernel of layers may run on this device, so there is nothing to choose "
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
    for taps in ((), (3, 3)):
        for side in (*_passes.SIDES, None):
            structure = None if side is None else (side, side)
            example = Support.random((512, 512, *taps), 0.5, structure=structure)
            names = _passes.kernels_for(example, device)
            wanted = _passes.MASKED_KERNELS if side is None else _passes.BLOCK_KERNELS
            yield from measure(sorted(names.intersection(wanted)), structure, taps, device, timer)


def measure(
    kernels: Sequence[str],
    structure: tuple[int, int] | None,
    taps: tuple[int, ...],
    device: torch.device,
    timer: Timer,
) -> Iterator[tuple[str, Grid]]:
    """Measure the grids of some kernels, which read the same supports, point by point."""
    sizes, rows = (CHANNELS, PIXELS) if taps else (SIZES, ROWS)
    if structure is not None:
        # Of fewer than four blocks no share is a density.
        sizes = tuple(size for size in sizes if size >= 2 * structure[0])
    positions = {k: FEW_ROWS if k in _passes.MASKED_PRODUCTS else rows for k in kernels}
    taken: dict[tuple[str, torch.dtype, int, int, float], Mapping[str, float]] = {}
    for size, density in itertools.product(sizes if kernels else (), DENSITIES):
        support = Support.random((size, size, *taps), density, structure=structure)
        plan = make_plan(support).to(device)
        for kernel, dtype in itertools.product(kernels, DTYPES):
            for n in positions[kernel]:
                cell = Cell(kernel, plan, n, dtype)
                taken[kernel, dtype, size, n, density] = timer(cell.steps())
    sides = None if structure is None else [*structure]
    for kernel, dtype in itertools.product(kernels, DTYPES):
        along = positions[kernel]
        ours, dense = (
            [
                [[_us(taken[kernel, dtype, size, n, d][what]) for d in DENSITIES] for n in along]
                for size in sizes
            ]
            for what in ("kernel", "dense")
        )
        grid = Grid(tuple(map(float, sizes)), tuple(map(float, along)), DENSITIES, ours, dense)
        yield _passes.pass_name(kernel, dtype, sides), grid


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
