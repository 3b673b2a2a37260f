"""``sparsefl bench --tune``: measures the table that the layouts are chosen from.

For each kind of layer and memory order around it, a grid of sizes, positions and densities: forward
and backward by the sparse kernels and by dense torch on a scratch weight, in turns. What lies
between, :mod:`sparsefl.ops._layout_table` interpolates.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import torch

from sparsefl import ops
from sparsefl.ops import _dispatch
from sparsefl.ops._dispatch import Choice, Layout
from sparsefl.ops._layout_table import (
    KINDS,
    SHIPPED,
    Grid,
    Kind,
    LayoutTable,
    cache_path,
    grid_name,
    this_machine,
)
from sparsefl.support import Support
from sparsefl.timing import Effort, interleave, stopwatch

DENSITIES = (0.02, 0.2, 0.5, 0.8)
# Batch and side of the image; a linear layer's positions are its batch.
IMAGES = ((16, 4), (32, 8), (64, 16))
# A cell's share of the time; the largest cells take the fewest rounds instead.
CELL_S = 0.2
LEAST_ROUNDS, MOST_ROUNDS = 3, 15

Step = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Axes:
    """Sizes and positions of a kind's grid, and how an operand's shape follows from them."""

    sizes: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]


AXES: dict[Kind, Axes] = {
    "linear": Axes((64, 128, 256, 512, 1024, 2048), ((1, 1), (8, 1), (16, 1), (64, 1), (256, 1))),
    "pointwise": Axes((16, 64, 256), IMAGES),
    "conv": Axes((16, 48, 128), IMAGES),
}


class Forced(dict[Hashable, Choice]):
    """The choices of a plan whose layout is given."""

    def __init__(self, layout: Layout) -> None:
        """Give this layout to every call."""
        super().__init__()
        self.only = Choice(layout, None, None, "tuning")

    def get(self, key: Hashable, default: Any = None) -> Choice:
        """Return it, whatever the call."""
        return self.only


def tune(path: pathlib.Path | None = None, shipped: bool = False) -> pathlib.Path:
    """Measure this machine's table, write it, and let this process use it.

    Args:
        path: Where to; by default the user's cache.
        shipped: Write it into the package, as the default of machines without their own.

    Returns:
        The file.
    """
    threads = torch.get_num_threads()
    machine = this_machine(threads)
    grids = {}
    for kind in KINDS:
        for batch_last in (False, True):
            name = grid_name(kind, batch_last)
            grids[name] = measure_grid(kind, AXES[kind], batch_last)
            print(f"{name}: {describe(grids[name])}", flush=True)
    path = path or (SHIPPED if shipped else cache_path(machine))
    LayoutTable(machine, grids).write(path)
    _dispatch.forget()
    print(f"written to {path}")
    return path


def describe(grid: Grid) -> str:
    """Say from which density on dense is faster, by size, at the most positions."""
    parts = []
    for size in grid.sizes:
        densities = np.linspace(grid.densities[0], 1.0, 99)
        expected = [grid.expect(size, grid.positions[-1], d) for d in densities]
        dense = [
            d for d, (sparse, dense) in zip(densities, expected, strict=True) if dense < sparse
        ]
        parts.append(f"{size:g}: {f'{min(dense):.2f}' if dense else 'never'}")
    return f"dense from density, at {grid.positions[-1]:g} positions, on: {', '.join(parts)}"


def measure_grid(kind: Kind, axes: Axes, batch_last: bool) -> Grid:
    """Measure a grid, cell by cell."""
    sparse: list[list[list[float]]] = []
    dense: list[list[list[float]]] = []
    for size in axes.sizes:
        cells = [measure_cell(kind, size, *batch, batch_last) for batch in axes.batches]
        sparse.append([cell["sparse"] for cell in cells])
        dense.append([cell["dense"] for cell in cells])
    positions = tuple(float(batch * side * side) for batch, side in axes.batches)
    return Grid(tuple(map(float, axes.sizes)), positions, DENSITIES, sparse, dense)


def measure_cell(
    kind: Kind, size: int, batch: int, side: int, batch_last: bool
) -> dict[Layout, list[float]]:
    """Measure one size and batch at every density, us; dense at the two ends alone."""
    steps = dict(steps_of(kind, size, batch, side, batch_last))
    once = {key: min(stopwatch(step)()[0] for _ in range(2)) for key, step in steps.items()}
    round_s = sum(2 * s if s < Effort.short_s else s for s in once.values())
    rounds = int(CELL_S / max(round_s, 1e-6))
    effort = Effort(1, max(LEAST_ROUNDS, min(rounds, MOST_ROUNDS)), probes=1, slow_s=math.inf)
    taken = interleave({key: stopwatch(step) for key, step in steps.items()}, effort)
    us = {key: round(1e6 * float(np.median(seconds[-1])), 1) for key, seconds in taken.items()}
    ends = [us["dense", DENSITIES[0]], us["dense", DENSITIES[-1]]]
    # Filling the scratch weight grows with what is kept.
    dense = np.interp(DENSITIES, [DENSITIES[0], DENSITIES[-1]], ends)
    return {
        "sparse": [us["sparse", density] for density in DENSITIES],
        "dense": [round(float(us), 1) for us in dense],
    }


def steps_of(
    kind: Kind, size: int, batch: int, side: int, batch_last: bool
) -> Iterator[tuple[tuple[Layout, float], Step]]:
    """Yield the steps of a cell by layout and density."""
    torch.manual_seed(0)
    shape = {"linear": (size, size), "pointwise": (size, size, 1, 1), "conv": (size, size, 3, 3)}
    image = () if kind == "linear" else (side, side)
    x, grad = torch.randn(batch, size, *image), torch.randn(batch, size, *image)
    order = ops.batch_last if batch_last else ops.row_major
    x, grad = order(x), order(grad)
    for density in DENSITIES:
        support = Support.random(shape[kind], density, seed=0)
        layouts: tuple[Layout, ...] = ("sparse",)
        if density in (DENSITIES[0], DENSITIES[-1]):
            layouts = ("sparse", "dense")
        for layout in layouts:
            plan = ops.LinearPlan(support) if kind == "linear" else conv_plan(support, kind)
            plan.__dict__["choices"] = Forced(layout)
            stored = torch.randn(support.nnz)
            bias = torch.randn(size)
            operands = (x, grad, stored, bias)
            yield (layout, density), functools.partial(step, operands, plan, batch_last)


def conv_plan(support: Support, kind: Kind) -> ops.Conv2dPlan:
    """Return the plan of a convolution that keeps the size of its image."""
    return ops.Conv2dPlan(support, padding=(1, 1) if kind == "conv" else (0, 0))


def step(
    operands: tuple[torch.Tensor, ...], plan: ops.LinearPlan | ops.Conv2dPlan, batch_last: bool
) -> None:
    """Run forward and backward of a layer, memory order in and out as around it."""
    x, grad, stored, bias = operands
    leaves = tuple(t.detach().requires_grad_() for t in (x, stored, bias))
    if isinstance(plan, ops.LinearPlan):
        out = ops.sparse_linear(*leaves, plan, row_major=not batch_last)
    else:
        out = ops.sparse_conv2d(*leaves, plan)
    order = ops.batch_last if batch_last else ops.row_major
    torch.autograd.backward(order(out), grad)
