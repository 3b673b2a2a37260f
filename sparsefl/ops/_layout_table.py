"""What a training step of a layer costs in each layout: measured on a grid, interpolated between.

``sparsefl bench --tune`` measures a machine's own grid and keeps it in the user's cache; without
it, the one that ships with the package serves.
"""

import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch

from sparsefl.machine import cpu_name, version
from sparsefl.ops._library import isa

Kind: TypeAlias = Literal["linear", "pointwise", "conv"]
Times: TypeAlias = Sequence[Sequence[float]]

SCHEMA_VERSION = 1
SHIPPED = pathlib.Path(__file__).with_name("layouts.json")
# A kernel of so many taps is what convolutions were measured with.
TAPS = 9
# Samples of a vector.
LANES = 16


def tabled_size(shape: Sequence[int]) -> float:
    """Return the size of a weight in a :class:`Grid`: a convolution's as if it had ``TAPS``."""
    taps = math.prod(shape[2:]) / TAPS if len(shape) > 2 else 1
    return math.sqrt(math.prod(shape[:2]) * taps)


@dataclass(frozen=True)
class Grid:
    """Microseconds of forward and backward pass of one kind of layer, in one memory order.

    Attributes:
        sizes: Square root of a weight's elements, ascending; for convolutions of its elements a
            tap, were there ``TAPS``.
        positions: Output rows or pixels of a batch, ascending.
        densities: Share of kept weights, ascending.
        sparse_us: By the sparse kernels, ``[sizes][positions][densities]``.
        dense_us: By dense torch on a scratch weight, ``[sizes][positions][densities]``.
    """

    sizes: tuple[float, ...]
    positions: tuple[float, ...]
    densities: tuple[float, ...]
    sparse_us: Sequence[Times]
    dense_us: Sequence[Times]

    def expect(self, size: float, positions: float, density: float) -> tuple[float, float]:
        """Return the expected times, sparse and dense, us."""
        along = (
            _between([math.log(s) for s in self.sizes], math.log(max(size, 1.0))),
            _between([math.log(n) for n in self.positions], math.log(max(positions, 1.0))),
        )
        at = _between(list(self.densities), density)
        return _interpolate(self.sparse_us, along, at), _interpolate(self.dense_us, along, at)


# The two grid points around a value, or the outermost two, and the share of the upper.
_Place: TypeAlias = tuple[int, int, float]


def _between(points: Sequence[float], value: float) -> _Place:
    upper = next((i for i, point in enumerate(points) if point >= value), len(points) - 1)
    upper = max(upper, 1)
    low, high = points[upper - 1], points[upper]
    return upper - 1, upper, (value - low) / (high - low)


def _interpolate(times: Sequence[Times], along: tuple[_Place, _Place], at: _Place) -> float:
    """Interpolate, and extrapolate: powers of size and positions, linearly in the density."""
    (s0, s1, s), (n0, n1, n) = along
    low, high, share = at

    def log_us(i: int, j: int) -> float:
        row = times[i][j]
        return math.log(max(row[low] + share * (row[high] - row[low]), 1e-3))

    below = (1 - n) * log_us(s0, n0) + n * log_us(s0, n1)
    above = (1 - n) * log_us(s1, n0) + n * log_us(s1, n1)
    return math.exp((1 - s) * below + s * above)


@dataclass(frozen=True)
class LayoutTable:
    """The grids of a machine.

    Attributes:
        machine: What it was measured on; see :func:`this_machine`.
        grids: By :func:`grid_name`.
        source: Where it was read from, for reports.
    """

    machine: Mapping[str, Any]
    grids: Mapping[str, Grid]
    source: str = ""

    @classmethod
    def read(cls, path: pathlib.Path, needed: Collection[str] | None = None) -> "LayoutTable":
        """Read a table.

        Args:
            path: Of the file.
            needed: Names of grids that it must hold; by default those of all kinds of layers.

        Raises:
            OSError: if there is no such file.
            ValueError: if it holds anything else.
        """
        held = json.loads(path.read_text())
        try:
            if held["version"] != SCHEMA_VERSION:
                raise ValueError(f"version {held['version']}, expected {SCHEMA_VERSION}")
            grids = {name: _checked(Grid(**grid)) for name, grid in held["grids"].items()}
            if needed is None:
                needed = {grid_name(kind, order) for kind in KINDS for order in (False, True)}
            missing = set(needed) - set(grids)
            if missing:
                raise ValueError(f"no grid of {', '.join(sorted(missing))}")
            return cls(dict(held["machine"]), grids, str(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def write(self, path: pathlib.Path) -> None:
        """Write the table; another process never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {
            "version": SCHEMA_VERSION,
            "machine": dict(self.machine),
            "grids": {name: asdict(grid) for name, grid in self.grids.items()},
        }
        text = re.sub(r"\[\s+([^\[\]]*?)\s+\]", _on_a_line, json.dumps(held, indent=1))
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(text + "\n")
        part.replace(path)


KINDS: tuple[Kind, ...] = ("linear", "pointwise", "conv")


def grid_name(kind: Kind, batch_last: bool) -> str:
    """Name a grid by the kind of layer and the memory order around it."""
    return f"{kind}, {'batch-last' if batch_last else 'row-major'}"


def _on_a_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found[1].split()) + "]"


def _checked(grid: Grid) -> Grid:
    shape = (len(grid.sizes), len(grid.positions), len(grid.densities))
    if min(shape) < 2:
        raise ValueError(f"a grid of {shape} points")
    for axis in (grid.sizes, grid.positions, grid.densities):
        if list(axis) != sorted(set(axis)) or axis[0] <= 0:
            raise ValueError(f"an axis that does not ascend: {list(axis)}")
    for times in (grid.sparse_us, grid.dense_us):
        rows = [row for line in times for row in line]
        if (len(times), {len(line) for line in times}) != (shape[0], {shape[1]}):
            raise ValueError(f"times that are not of the grid's {shape} points")
        if {len(row) for row in rows} != {shape[2]} or min(min(row) for row in rows) <= 0:
            raise ValueError("times that are missing or not positive")
    return grid


def this_machine(threads: int) -> dict[str, Any]:
    """Describe what a table's times depend on."""
    return {
        "cpu": cpu_name(),
        "isa": isa(),
        "threads": threads,
        "torch": torch.__version__,
        "sparsefl": version(),
    }


def cache_path(machine: Mapping[str, Any]) -> pathlib.Path:
    """Return where the table of a machine is kept: in ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    name = "-".join(re.sub(r"[^A-Za-z0-9.+]+", "_", str(value)) for value in machine.values())
    return pathlib.Path(root) / "sparsefl" / f"layouts-{name}.json"


def load(threads: int) -> LayoutTable:
    """Return this machine's own table, else the shipped one.

    A file that cannot be read is named in a warning, and passed over.
    """
    path = cache_path(this_machine(threads))
    try:
        return LayoutTable.read(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{path}: not a table of layouts ({error}); the shipped one is used. "
            "Write it anew with `sparsefl bench --tune`, or delete it.",
            RuntimeWarning,
            stacklevel=2,
        )
    return LayoutTable.read(SHIPPED)
