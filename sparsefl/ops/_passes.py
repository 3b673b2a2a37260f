"""Which kernel computes each pass of a layer on a GPU: dense torch where none is faster.

Of kernels that have passed their tests on the architecture, the fastest by a table that ``sparsefl
bench --tune --device cuda`` measured on the device, and dense torch where that is faster; without a
table by rules. A choice is made once for each number of rows or pixels and kept with the plan.
"""

import importlib.metadata
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sparsefl.kernels import REGISTRY
from sparsefl.machine import version
from sparsefl.ops import _verified
from sparsefl.ops._dispatch import ADVANTAGE, DENSE_ABOVE, accelerated, layout_override, verified
from sparsefl.ops._layout_table import LayoutTable, cache_path, tabled_size
from sparsefl.support import Support

if TYPE_CHECKING:
    from sparsefl.ops._kernel_plan import KernelPlan
    from sparsefl.ops._plan import Conv2dPlan, LinearPlan


class _Layer(NamedTuple):
    """Kernels of a kind of layer (sparsefl.kernels.REGISTRY), by pass.

    First those of kept blocks, signs of one magnitude before any values, then those that take any
    kept positions.
    """

    forward: tuple[str, ...]
    dx: tuple[str, ...]
    dw: tuple[str, ...]


# Linear layers' by two dimensions of a weight, convolutions' by four.
_LAYERS = {
    2: _Layer(
        ("sign_linear", "block_linear", "masked_linear"),
        ("sign_linear_dx", "block_linear_dx", "masked_linear_dx"),
        ("block_dw", "masked_dw"),
    ),
    4: _Layer(
        ("sign_conv2d", "block_conv2d"), ("sign_conv2d_dx", "block_conv2d_dx"), ("block_conv2d_dw",)
    ),
}
KERNELS = tuple(name for layer in _LAYERS.values() for names in layer for name in names)
MASKED_PRODUCTS = ("masked_linear", "masked_linear_dx")
MASKED_KERNELS = (*MASKED_PRODUCTS, "masked_dw")
BLOCK_KERNELS = tuple(name for name in KERNELS if name not in MASKED_KERNELS)
# Up to which density kept blocks of at least so many elements are expected to win, without a
# measured table. Not measured: a block done alone has little arithmetic for each byte of a second
# cache, the less the smaller it is (half the side, half the share of a device's operations).
_BLOCKS_UP_TO = ((128 * 64, 0.6), (64 * 64, 0.28), (32 * 32, 0.14), (0, 0.07))
# With up to so many rows a product costs what loading its weight does; below that density there is
# little left to save, above it bits and values are most of the dense weight (not measured).
FEW_ROWS, _LOADED_SPARSE = 64, (0.01, 0.6)
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "bfloat16"}
# Sides of blocks that a table has grids of; a support takes that of the nearest area.
SIDES = (16, 32, 64, 128)


class Passes(NamedTuple):
    """The kernel of each pass of a layer on a GPU; None: dense torch.

    Attributes:
        forward: Of the output.
        dx: Of the input's gradient.
        dw: Of the stored elements' gradient.
    """

    forward: str | None = None
    dx: str | None = None
    dw: str | None = None

    @property
    def share_signs(self) -> bool:
        """Whether the input's gradient reads the packed signs that the output was computed of."""
        return all(kernel is not None and kernel.startswith("sign") for kernel in self[:2])

    def __str__(self) -> str:
        """Name what computes each pass."""
        named = [kernel or "dense torch" for kernel in self]
        return "output by {}, input gradient by {}, weight gradient by {}".format(*named)


DENSE_PASSES = Passes()


def kernels_for(support: Support, device: torch.device) -> frozenset[str]:
    """Return the kernels that may compute a layer of a support on a device."""
    layer = _LAYERS.get(len(support.shape))
    if layer is None or not accelerated(device) or layout_override() == "dense":
        return frozenset()
    every = (REGISTRY[name] for names in layer for name in names)
    fit = (k.name for k in every if support.kind in k.kinds and verified(k.name, device))
    return frozenset(fit)


def passes_of(
    plan: "LinearPlan | Conv2dPlan", x: Tensor, positions: int, one_magnitude: bool
) -> Passes:
    """Choose what computes the passes of a layer on a device.

    Args:
        plan: Of the layer.
        x: Its input.
        positions: Rows of its output, a convolution's pixels in all images.
        one_magnitude: Whether its weights are signs of one magnitude.
    """
    held = plan.kernels
    if held is None or x.dtype not in _DTYPES:
        return DENSE_PASSES
    call = _Call(positions, x.dtype, one_magnitude)
    if torch.compiler.is_compiling():
        return _choose(held, plan.support, call)
    passes = held.chosen.get(call)
    if passes is None:
        passes = held.chosen[call] = _choose(held, plan.support, call)
    return passes


class _Call(NamedTuple):
    """What a choice depends on beside the plan; see :func:`passes_of`."""

    positions: int
    dtype: torch.dtype
    one_magnitude: bool


def _choose(held: "KernelPlan", support: Support, call: _Call) -> Passes:
    names = held.names
    if call.positions > FEW_ROWS:
        names = names.difference(MASKED_PRODUCTS)
    if not call.one_magnitude:
        names = frozenset(name for name in names if not name.startswith("sign"))
    passes = _LAYERS[len(support.shape)]
    if (
        held.table is not None
        and layout_override() == "measured"
        and isinstance(call.positions, int)
    ):
        fastest = (_fastest(held, support, call, names.intersection(p)) for p in passes)
        return Passes(*fastest)
    names = _by_rule(held, support.density, names)
    return Passes(*(next((name for name in p if name in names), None) for p in passes))


def _by_rule(held: "KernelPlan", density: float, names: frozenset[str]) -> frozenset[str]:
    """Return the kernels that are expected to win without a table."""
    override = layout_override()
    if override == "sparse":
        return names
    area = math.prod(held.blocks.sizes[2:]) if held.blocks else 0
    most = next(share for least, share in _BLOCKS_UP_TO if area >= least)
    if density > (DENSE_ABOVE if override == "density" else most):
        names = names.difference(BLOCK_KERNELS)
    if density > DENSE_ABOVE:
        names = names - {"masked_dw"}
    if not _LOADED_SPARSE[0] <= density <= _LOADED_SPARSE[1]:
        names = names.difference(MASKED_PRODUCTS)
    return names


def _fastest(
    held: "KernelPlan", support: Support, call: _Call, names: frozenset[str]
) -> str | None:
    """Return the kernel of a pass that the table expects to be fastest; None: dense torch."""
    assert held.table is not None
    size, best, least = tabled_size(support.shape), None, math.inf
    for name in sorted(names):
        sides = held.blocks.sizes[2:] if held.blocks and name in BLOCK_KERNELS else None
        grid = held.table.grids.get(pass_name(name, call.dtype, sides))
        if grid is None:
            continue
        kernel_us, dense_us = grid.expect(size, call.positions, support.density)
        if kernel_us * ADVANTAGE < dense_us and kernel_us < least:
            best, least = name, kernel_us
    return best


def pass_name(kernel: str, dtype: torch.dtype, sides: list[int] | None) -> str:
    """Name the grid of a kernel in a device's table, of a dtype and, for blocks, their sides."""
    if sides is None:
        return f"{kernel}, {_DTYPES[dtype]}"
    half = math.log2(max(math.prod(sides), 1)) / 2
    side = min(SIDES, key=lambda s: abs(math.log2(s) - half))
    return f"{kernel}, {_DTYPES[dtype]}, {side}x{side}"


def device_machine(device: torch.device) -> dict[str, Any]:
    """Describe what a device's table depends on."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {
        "device": torch.cuda.get_device_name(device),
        "architecture": _verified.architecture(device),
        "torch": torch.__version__,
        "triton": triton,
        "sparsefl": version(),
    }


_TABLES: dict[torch.device, LayoutTable | None] = {}


def device_table(device: torch.device) -> LayoutTable | None:
    """Return the table measured on a device, read once; None where there is none.

    A file that cannot be read is named in a warning, and passed over.
    """
    if device not in _TABLES:
        _TABLES[device] = _read_table(device)
    return _TABLES[device]


def _read_table(device: torch.device) -> LayoutTable | None:
    if not _verified.architecture(device):
        return None
    path = cache_path(device_machine(device))
    try:
        return LayoutTable.read(path, needed=())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(
            f"{path}: not a table of kernels ({error}); rules choose in its place. Write it anew "
            "with `sparsefl bench --tune --device cuda`, or delete it.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def forget_tables() -> None:
    """Read the devices' tables anew."""
    _TABLES.clear()


def crossovers(table: LayoutTable) -> Iterator[str]:
    """Yield for each grid from which density on dense torch is faster, at its largest point."""
    for name, grid in table.grids.items():
        at = (percent / 100 for percent in range(1, 101))
        largest = (grid.sizes[-1], grid.positions[-1])
        times = ((d, *grid.expect(*largest, d)) for d in at)
        dense = next((f"{d:g}" for d, ours, dense in times if ours * ADVANTAGE >= dense), "never")
        yield f"{name}: {dense}"


def growth_kernel(support: Support, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the kernel that finds a layer's growth on a device, summed in ``dtype``, if any."""
    name = {2: "linear_growth", 4: "conv2d_growth"}.get(len(support.shape))
    # They count positions in int32 and sum in float32.
    fits = support.numel < 2**31 and dtype == torch.float32
    there = name is not None and fits and accelerated(device) and verified(name, device)
    return name if there else None
