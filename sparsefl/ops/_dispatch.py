"""The only choice of layout: sparse kernels, or dense torch on a scratch weight or on what is kept.

A choice is made once for each plan, batch and memory order, from a measured table
(:mod:`sparsefl.ops._layout_table`), and kept with the plan. ``SPARSEFL_LAYOUT`` overrides it:
``sparse`` or ``dense`` everywhere, ``compact`` where whole rows and columns are pruned (the CPU's
default never), or ``density``, which looks at nothing else. On other devices
than the CPU dense torch computes every layer, but for passes that :mod:`sparsefl.ops._passes` gives
to kernels that have passed their tests (:mod:`sparsefl.ops._verified`).
"""

import functools
import math
import os
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from sparsefl.ops import _verified
from sparsefl.ops._compact import Compact
from sparsefl.ops._gated_types import GatedGeometry
from sparsefl.ops._layout_table import (
    KINDS,
    LANES,
    SHIPPED,
    Kind,
    LayoutTable,
    grid_name,
    load,
    tabled_size,
)
from sparsefl.ops._library import isa
from sparsefl.support import Support

Layout: TypeAlias = Literal["sparse", "dense", "compact"]
PackedLayout: TypeAlias = Literal["triples", "lists"]
_OVERRIDES = ("measured", "sparse", "dense", "compact", "density")

# Above this density dense torch wins at sizes where the kernels' own time is all that counts: what
# is chosen where nothing but the support is known, when a model is converted or compiled.
DENSE_ABOVE = 0.65
# Dense torch has to be expected to be this much faster: it costs memory, and the expectation errs.
ADVANTAGE = 1.03
# Up to this density a device gathers the kept rows and columns, without a measured table: the gain
# is the share that is not kept, the price two copies of the activations (not measured).
_COMPACT_UP_TO = 0.75
# How the layouts are called in reports.
SPARSE, DENSE = "sparse kernels", "dense torch on a scratch weight"
COMPACT = "dense torch on the kept rows and columns"
_NAMES: dict[Layout, str] = {"sparse": SPARSE, "dense": DENSE, "compact": COMPACT}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """The layout of a call, and why.

    Attributes:
        layout: What computes it.
        sparse_us: Expected time of forward and backward by the sparse kernels; None where the
            choice was not made by time.
        dense_us: The same by dense torch on a scratch weight.
        source: The table, or the rule.
    """

    layout: Layout
    sparse_us: float | None
    dense_us: float | None
    source: str

    def __str__(self) -> str:
        """Say it in a few words."""
        what = _NAMES[self.layout]
        if self.sparse_us is None or self.dense_us is None:
            return f"{what} ({self.source})"
        return (
            f"{what} (forward and backward expected: sparse {self.sparse_us:,.0f} us, dense "
            f"{self.dense_us:,.0f} us)"
        )


class Plan(Protocol):
    """What a choice depends on (:mod:`sparsefl.ops._plan`)."""

    @property
    def support(self) -> Support:
        """The kept positions."""

    @property
    def layout(self) -> Layout:
        """What :func:`layout` says of it."""

    @property
    def compact(self) -> Compact | None:
        """Its kept rows and columns, where it is made of such."""

    @property
    def choices(self) -> dict[Hashable, Choice]:
        """What was chosen, by call."""


T = TypeVar("T")


class ByInput(dict[Hashable, T]):
    """What was found for inputs of a size; of more sizes than ``MOST`` it is found anew."""

    MOST = 256

    def __setitem__(self, key: Hashable, value: T) -> None:
        """Keep what was found, alone if there is no room."""
        if len(self) >= self.MOST:
            self.clear()
        super().__setitem__(key, value)


def layout(support: Support) -> Layout:
    """Return the layout of a support where the batch is not known yet."""
    override = layout_override()
    if override in ("sparse", "dense"):
        return override  # type: ignore[return-value]
    return "dense" if support.density > DENSE_ABOVE else "sparse"


def accelerated(device: torch.device) -> bool:
    """Tell whether torch computes a device's layers densely, but for verified kernels.

    That is any device that is neither the CPU nor meta.
    """
    return device.type not in ("cpu", "meta")


def verified(kernel: str, device: torch.device) -> bool:
    """Tell whether an operator's kernel is the default on a device; else plain torch computes it.

    The CPU's always are. Of other devices' those that have passed their tests on the architecture
    (:mod:`sparsefl.ops._verified`).

    Args:
        kernel: Its name, that of the operator or in ``sparsefl.kernels.REGISTRY``.
        device: Of the operands.
    """
    return not accelerated(device) or _verified.serves(kernel, device)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Return the dtype in which autocast wants products of ``x``; None: in that of the weights.

    On the CPU short formats do not pay (:func:`sparsefl.ops._linear.dense_linear`), and float64 is
    never cast.
    """
    kind = x.device.type
    if not accelerated(x.device) or x.dtype == torch.float64 or not x.is_floating_point():
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def chosen(plan: Plan, kind: Kind, x: Tensor, batch: int, pixels: int) -> Layout:
    """Return what is to compute a call.

    Args:
        plan: Of the layer.
        kind: Of the layer.
        x: Its input; where that lies batch-last, so does what surrounds the layer.
        batch: Samples, for a linear layer rows.
        pixels: Output pixels of a sample, 1 for a linear layer.
    """
    if accelerated(x.device):
        return _on_device(plan)
    if torch.compiler.is_compiling() or x.is_meta:
        return plan.layout
    # Of two dimensions, rows of one sample lie either way.
    key = (batch, pixels, x.stride(0) == 1 and batch > 1, torch.get_num_threads())
    choice = plan.choices.get(key)
    if choice is None:
        compacts = plan.compact is not None
        choice = plan.choices[key] = choose(plan.support, kind, *key, compacts)
    return choice.layout


def _on_device(plan: Plan) -> Layout:
    """Return which of torch's dense kernels compute a layer on a device."""
    override = layout_override()
    if plan.compact is None or override == "dense":
        return "dense"
    gains = override == "compact" or plan.support.density <= _COMPACT_UP_TO
    return "compact" if gains else "dense"


def choose(
    support: Support,
    kind: Kind,
    batch: int,
    pixels: int,
    batch_last: bool,
    threads: int,
    compacts: bool = False,
) -> Choice:
    """Choose the layout of a call.

    Args:
        support: The kept positions.
        kind: Of the layer.
        batch: Samples, for a linear layer rows.
        pixels: Output pixels of a sample.
        batch_last: Whether input and output lie batch-last.
        threads: Torch's threads.
        compacts: Whether the support is made of whole rows and columns.
    """
    override = layout_override()
    if compacts and override == "compact":
        return Choice("compact", None, None, "SPARSEFL_LAYOUT=compact")
    if override in ("sparse", "dense"):
        return Choice(layout(support), None, None, f"SPARSEFL_LAYOUT={override}")
    if support.nnz == math.prod(support.shape):
        return Choice("dense", None, None, "every weight is kept")
    if override in ("density", "compact"):
        rule = f"density {'above' if support.density > DENSE_ABOVE else 'up to'} {DENSE_ABOVE}"
        return Choice(layout(support), None, None, rule)
    own = table(threads)
    grid = own.grids[grid_name(kind, batch_last)]
    size = tabled_size(support.shape if kind == "conv" else support.shape[:2])
    # A convolution's lanes are samples: an incomplete vector costs what a whole one does.
    padded = -(-batch // LANES) * LANES if kind == "conv" else batch
    sparse_us, _ = grid.expect(size, padded * pixels, support.density)
    _, dense_us = grid.expect(size, batch * pixels, support.density)
    chosen: Layout = "dense" if dense_us * ADVANTAGE < sparse_us else "sparse"
    return Choice(chosen, sparse_us, dense_us, own.source)


def describe(threads: int) -> str:
    """Say what choices rest on, and from which densities on large layers are dense."""
    override = layout_override()
    if override != "measured":
        return f"SPARSEFL_LAYOUT={override}"
    own = table(threads)
    told = ", ".join(f"{key} {value}" for key, value in own.machine.items() if key != "cpu")
    shipped = own.source == str(SHIPPED)
    where = "shipped with the package" if shipped else f"measured here, {own.source}"
    advice = "; `sparsefl bench --tune` measures this machine" if shipped else ""
    dense = ", ".join(f"{kind} {crossover(own, kind)}" for kind in KINDS)
    return f"{where} ({own.machine.get('cpu')}, {told}); dense from density on: {dense}{advice}"


def crossover(own: LayoutTable, kind: Kind) -> str:
    """Say from which density on a kind's largest layers are faster dense, between sparse ones."""
    grid = own.grids[grid_name(kind, True)]
    for percent in range(1, 100):
        times = grid.expect(grid.sizes[-1], grid.positions[-1], percent / 100)
        if times[1] * ADVANTAGE < times[0]:
            return f"{percent / 100:g}"
    return "1"


def table(threads: int) -> LayoutTable:
    """Return the table that is used at so many threads, read at the first call."""
    with _LOCK:
        return _table(threads)


@functools.cache
def _table(threads: int) -> LayoutTable:
    return load(threads)


# What the environment says, read once: the compiler follows a dict, and warns of functools.cache.
_SAID: dict[str, str] = {}


def layout_override() -> str:
    """Return what the environment says of layouts.

    Raises:
        ValueError: if it says anything else.
    """
    if "layout" not in _SAID:
        override = os.environ.get("SPARSEFL_LAYOUT", "measured")
        if override not in _OVERRIDES:
            known = ", ".join(_OVERRIDES)
            raise ValueError(f"SPARSEFL_LAYOUT={override!r}: expected one of {known}")
        _SAID["layout"] = override
    return _SAID["layout"]


def forget() -> None:
    """Read table and override anew: for a table that was measured since, and for tests."""
    _table.cache_clear()
    _SAID.clear()
    _verified.forget()


# Columns that a list's uint16 can name.
MOST_LISTED = 65536
# And their rows' beginnings count kept elements in 31 bits.
MOST_KEPT = 2**31 - 1
# Up to this density lists of a linear layer's packed signs take less time than triples for one
# sample: 0.13 and 0.21 ms at density .03 of 4096 x 4096, both 0.2 ms at .05, with AVX-512, which
# looks up 16 rows at a time. Elsewhere, from this many samples on, and for convolutions (0.26 and
# 0.73 ms for 64 channels of 32 x 32 at .1) lists are faster up to twice the density at which they
# take more memory than the 1.78 bits a weight of triples.
_LISTS_BELOW = {"avx512": 0.05}
_MANY_SAMPLES = 8
_LISTS_SMALLER_BELOW = 1.78 / 16


def packed_layout(support: Support, batch_size: int) -> PackedLayout:
    """Return the layout that holds a sign layer's packed weight, for batches of this size."""
    rows = support.shape[0]
    columns = support.numel // rows if rows else 0
    limit = _LISTS_SMALLER_BELOW
    if batch_size < _MANY_SAMPLES and len(support.shape) == 2:
        limit = _LISTS_BELOW.get(isa(), limit)
    return "lists" if support.density <= limit and columns <= MOST_LISTED else "triples"


# Below so many output pixels the gated kernels' vectors of pixels are mostly empty.
_LEAST_GATED_PIXELS = 16


def gated_layout(geometry: GatedGeometry, size: tuple[int, int], device: torch.device) -> Layout:
    """Return the layout that a gated convolution of images of that size computes in.

    Dense torch loses where the kernels do not suffer from empty vectors, even with a stride or few
    channels: its operands would be NCHW, and all channels' (seen at 16 to 64 channels, 32 x 32 to
    8 x 8, density 0.7, batch 64: 1.4 to 2.2 times the plain dense layer, the kernels 0.7 to 1.0).

    Args:
        geometry: The convolution's.
        size: Height and width of the input.
        device: Where the input is.
    """
    if accelerated(device):
        return "dense"
    if math.prod(geometry.output_size(*size)) >= _LEAST_GATED_PIXELS:
        return "sparse"
    # Square ones have kernels of their own.
    plain = geometry == GatedGeometry((3, 3), (1, 1), (1, 1))
    return "sparse" if plain and size[0] == size[1] else "dense"
