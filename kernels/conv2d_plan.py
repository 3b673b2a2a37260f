"""``BlockConv2dPlan``: kept blocks of a convolution's channels, and where its taps meet pixels.

Built on the host once for each mask; a step reads it on the device and never waits for it.
Source: convolution as a matrix product that gathers its operand, "implicit GEMM" (Chetlur et al.
2014, "cuDNN: Efficient Primitives for Deep Learning", arXiv 1410.0759, sec. 3.2).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from sparsefl.kernels.block_plan import BlockPlan
from sparsefl.support import Mask, Support


class Geometry(NamedTuple):
    """How a kernel is laid over an image; pairs are vertical and horizontal.

    Attributes:
        kernel: Taps.
        stride: Step.
        padding: Zeros before the first pixel; how many follow the last, an output's size says.
        dilation: Distance between taps.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        """How many taps there are."""
        return math.prod(self.kernel)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the output's size for an image that is padded alike on both sides."""
        rows, columns = (
            (size + 2 * pad - d * (k - 1) - 1) // s + 1
            for size, k, s, pad, d in zip((height, width), *self, strict=True)
        )
        return rows, columns


class TapList(NamedTuple):
    """The taps that a pixel sums over, by its phase: its place modulo a stride, row-major.

    Attributes:
        begin: Where the taps of each phase begin, ``[phases + 1]`` int32.
        taps: Number of each tap in the kernel, and how far below and to the right of where the
            pixel falls it finds its operand, ``[number, 3]`` int32.
    """

    begin: Tensor
    taps: Tensor


def forward_taps(geometry: Geometry) -> TapList:
    """Return the taps of an output's pixels, which have one phase."""
    kernel, _, padding, dilation = geometry
    rows, columns = (
        [(tap, tap * d - pad) for tap in range(count)]
        for count, pad, d in zip(kernel, padding, dilation, strict=True)
    )
    return _tap_list([_crossed(rows, columns, kernel[1])])


def backward_taps(geometry: Geometry) -> TapList:
    """Return the taps of an input's pixels: of each phase those whose step meets an output."""
    axes = ([_met(phase, geometry, a) for phase in range(geometry.stride[a])] for a in (0, 1))
    return _tap_list([_crossed(*pair, geometry.kernel[1]) for pair in itertools.product(*axes)])


# Along one axis: taps, and how far from where a pixel falls each finds its operand.
_Axis: TypeAlias = list[tuple[int, int]]


def _met(phase: int, geometry: Geometry, axis: int) -> _Axis:
    count, stride, padding, dilation = (pair[axis] for pair in geometry)
    reach = ((tap, phase + padding - tap * dilation) for tap in range(count))
    return [(tap, far // stride) for tap, far in reach if far % stride == 0]


def _crossed(rows: _Axis, columns: _Axis, width: int) -> list[tuple[int, int, int]]:
    return [(i * width + j, down, right) for i, down in rows for j, right in columns]


def _tap_list(phases: list[list[tuple[int, int, int]]]) -> TapList:
    begin = [0, *itertools.accumulate(len(taps) for taps in phases)]
    taps = torch.tensor([tap for taps in phases for tap in taps], dtype=torch.int32)
    return TapList(torch.tensor(begin, dtype=torch.int32), taps.view(-1, 3))


@dataclass(frozen=True, eq=False)
class BlockConv2dPlan:
    """The kept blocks of a convolution's weight ``[out, in, kh, kw]``, all taps of each.

    A packed tensor of it is ``[nnzb, kh * kw, BN, BK]``: of each block of channels, tap by tap, a
    matrix as :class:`~sparsefl.kernels.block_plan.BlockPlan` has it.

    Attributes:
        blocks: Those of channels, ``[out, in]``.
        geometry: Of the convolution, whose groups are one.
        forward: Taps of an output's pixels.
        backward: Taps of an input's pixels.
    """

    blocks: BlockPlan
    geometry: Geometry
    forward: TapList
    backward: TapList

    @classmethod
    def from_mask(
        cls,
        mask: Mask | Support,
        block: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        device: torch.device | str = "cpu",
    ) -> BlockConv2dPlan:
        """Plan for a mask that keeps whole blocks of channels.

        Args:
            mask: Kept positions, ``[out, in, kh, kw]``, bool; a support of that shape.
            block: Output and input channels of a block, each of ``BLOCK_SIDES``.
            stride: Vertical and horizontal step.
            padding: Zeros above and on the left.
            dilation: Distance between taps.
            device: Where the index arrays are to lie.

        Raises:
            TypeError: if ``mask`` is not bool.
            ValueError: if its shape is another, a side of a block is not allowed, a block is kept
                in part, or a step or a distance is less than 1.
        """
        support = mask if isinstance(mask, Support) else Support.from_mask(mask)
        if len(support.shape) != 4:
            raise ValueError(f"mask must be [out, in, kh, kw], got shape {support.shape}")
        if min(*stride, *dilation) < 1:
            raise ValueError(f"stride and dilation must be positive, got {stride} and {dilation}")
        kernel = (support.shape[2], support.shape[3])
        return cls.of(
            BlockPlan.from_mask(support, block, device), Geometry(kernel, stride, padding, dilation)
        )

    @classmethod
    def of(cls, blocks: BlockPlan, geometry: Geometry) -> BlockConv2dPlan:
        """Plan for blocks of channels, on their device."""
        lists = (
            TapList(*(part.to(blocks.device) for part in taps))
            for taps in (forward_taps(geometry), backward_taps(geometry))
        )
        return cls(blocks, geometry, *lists)

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """Shape of a packed tensor, ``(nnzb, kh * kw, BN, BK)``."""
        return (self.blocks.nnzb, self.geometry.taps, *self.blocks.block)

    @property
    def device(self) -> torch.device:
        """Where the index arrays lie."""
        return self.blocks.device

    def pack(self, weight: Tensor) -> Tensor:
        """Return the kept blocks of a weight ``[out, in, kh, kw]``, ``[nnzb, kh * kw, BN, BK]``.

        Raises:
            ValueError: if the weight has another shape.
        """
        shape = (*self.blocks.shape, *self.geometry.kernel)
        if tuple(weight.shape) != shape:
            raise ValueError(f"weight must be {list(shape)}, got {list(weight.shape)}")
        return torch.stack([self.blocks.pack(tap) for tap in weight.flatten(2).unbind(2)], 1)

    def unpack(self, values: Tensor) -> Tensor:
        """Return the weight ``[out, in, kh, kw]`` of packed blocks, zero elsewhere.

        Raises:
            ValueError: if ``values`` is not ``[nnzb, kh * kw, BN, BK]``.
        """
        if tuple(values.shape) != self.packed_shape:
            raise ValueError(f"values must be {list(self.packed_shape)}, got {list(values.shape)}")
        taps = torch.stack([self.blocks.unpack(tap) for tap in values.unbind(1)], 2)
        return taps.unflatten(2, self.geometry.kernel)
