"""What the kernels of ``sparsefl.kernels`` read of a layer's support on a device.

Built when a layer moves there or its support changes; a step neither builds nor waits for it.
"""

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from sparsefl.kernels.block_plan import BlockPlan, block_sides
from sparsefl.kernels.conv2d_plan import Geometry, backward_taps, forward_taps
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.ops import _dispatch, _passes
from sparsefl.ops._layout_table import LayoutTable
from sparsefl.structure import Structure
from sparsefl.support import Support

if TYPE_CHECKING:
    from sparsefl.ops._plan import Conv2dPlan, LinearPlan

# Positions that an int32 names.
_MOST_PLACES = 2**31


class Blocks(NamedTuple):
    """The kept blocks of a weight, packed ``[nnzb, BN, BK]``, and its stored elements among them.

    A convolution's are of channels, packed ``[nnzb, taps, BN, BK]``.

    Attributes:
        lists: The tensors of the :class:`~sparsefl.kernels.block_plan.BlockPlan`: ``indptr``,
            ``index`` and ``block`` of its rows, of its columns, and ``row``; of a convolution also
            ``begin`` and ``taps`` of its forward and of its backward list of taps.
        sizes: Of the matrix and of a block, ``[out, in, BN, BK]``.
        place: Place of each stored element among the packed, ``[nnz]`` int32.
        source: Stored element of each place, ``[nnzb * taps * BN * BK]`` int32; 0 beyond the edge
            of the matrix, of which no kernel reads.
        geometry: Of a convolution; None of a linear layer.
    """

    lists: list[Tensor]
    sizes: list[int]
    place: Tensor
    source: Tensor
    geometry: Geometry | None = None

    @property
    def shape(self) -> list[int]:
        """Shape of a packed block, ``[BN, BK]`` or ``[taps, BN, BK]``."""
        taps = [] if self.geometry is None else [self.geometry.taps]
        return [*taps, *self.sizes[2:]]

    def pack(self, stored: Tensor) -> Tensor:
        """Return stored elements ``[nnz]`` as packed blocks."""
        return stored.index_select(0, self.source).view(-1, *self.shape)

    def unpack(self, packed: Tensor) -> Tensor:
        """Return packed blocks as stored elements: undoes :meth:`pack`."""
        return packed.view(-1).index_select(0, self.place)


@dataclasses.dataclass(frozen=True, eq=False)
class KernelPlan:
    """What is there of a support for the kernels that may be used.

    Attributes:
        names: Those of ``sparsefl.kernels.REGISTRY`` that the support and the device are fit for.
        blocks: For those of blocks.
        mask: For those of any kept positions.
        rank: Stored element of each kept position, row-major, ``[nnz]`` int32, for those of them
            that read weights.
        gathers_signs: Whether a kernel packs signs in the order of the blocks.
        table: The device's, where it was measured.
        chosen: The passes chosen so far, by call (:mod:`sparsefl.ops._passes`).
    """

    names: frozenset[str]
    blocks: Blocks | None
    mask: MaskPlan | None
    rank: Tensor | None = None
    gathers_signs: bool = False
    table: LayoutTable | None = None
    chosen: dict[Hashable, _passes.Passes] = dataclasses.field(default_factory=dict)


def kernel_plan(host: "LinearPlan | Conv2dPlan", device: torch.device) -> KernelPlan | None:
    """Return what the kernels read of a layer on a device; None where none is used there.

    Args:
        host: The layer's plan on the CPU.
        device: Where the layer is.
    """
    support, order = host.support, host.order
    names = _passes.kernels_for(support, device)
    geometry = _geometry(host)
    grouped = len(support.shape) == 4 and geometry is None
    if not names or grouped or support.numel >= _MOST_PLACES:
        return None
    blocks = None
    if any(name in _passes.BLOCK_KERNELS for name in names):
        blocks = _blocks(support, order, geometry, device)
        if blocks is None:
            names -= {*_passes.BLOCK_KERNELS}
    mask = rank = None
    if any(name in _passes.MASKED_KERNELS for name in names):
        mask = MaskPlan.from_mask(support, device)
    if any(name in _passes.MASKED_PRODUCTS for name in names):
        rank = torch.argsort(order).int().to(device)
    table = _passes.device_table(device)
    gathers = _dispatch.verified("gather_signs", device)
    return KernelPlan(names, blocks, mask, rank, gathers, table) if names else None


def _geometry(host: "LinearPlan | Conv2dPlan") -> Geometry | None:
    """Return how a convolution of one group is laid over images; None of another layer.

    What an uneven padding has more on one side is padded before
    (:func:`sparsefl.ops._conv2d.evenly_padded`).
    """
    if len(host.support.shape) != 4:
        return None
    plan = cast("Conv2dPlan", host)
    if plan.groups != 1:
        return None
    top, left = (axis.pad_total()[0] for axis in plan.axes)
    kernel = plan.axes[0].kernel, plan.axes[1].kernel
    return Geometry(kernel, plan.stride, (top, left), plan.dilation)


def _blocks(
    support: Support, order: Tensor, geometry: Geometry | None, device: torch.device
) -> Blocks | None:
    """Return the blocks of a support; None where it is of none that the kernels take."""
    sides = block_sides(support)
    if sides is None:
        return None
    plan = BlockPlan.from_mask(support, sides)
    taps = 1 if geometry is None else geometry.taps
    if plan.nnzb * taps * sides[0] * sides[1] >= _MOST_PLACES:
        return None
    kept, which = support.blocks(sides), Structure(*sides).which(support.indices, support.shape)
    number = np.searchsorted(kept.rows * plan.grid[1] + kept.columns, which)
    channels, tap = np.divmod(support.indices, taps)
    row, column = np.divmod(channels, support.shape[1])
    at = ((number * taps + tap) * sides[0] + row % sides[0]) * sides[1] + column % sides[1]
    place = torch.from_numpy(at).index_select(0, order)
    source = torch.zeros(plan.nnzb * taps * sides[0] * sides[1], dtype=torch.int32)
    source.index_copy_(0, place, torch.arange(support.nnz, dtype=torch.int32))
    lists = [*plan.rows, *plan.columns, plan.row]
    if geometry is not None:
        lists += [*forward_taps(geometry), *backward_taps(geometry)]
    return Blocks(
        [part.to(device) for part in lists],
        [*plan.shape, *plan.block],
        place.int().to(device),
        source.to(device),
        geometry,
    )
