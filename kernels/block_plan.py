"""``BlockPlan``: which blocks of a matrix are kept, in the orders that the block kernels read.

Built on the host once for each mask; a step reads it on the device and never waits for it.
Source: the blocked CSR-COO encoding with transposed indices of MegaBlocks (Gale et al. 2022,
arXiv 2211.15841, sec. 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsefl.structure import Structure
from sparsefl.support import Mask, Support

# Sides of a block that the kernels take: 16 is the least of a tensor core's product in Triton.
BLOCK_SIDES = (16, 32, 64, 128)


def block_sides(support: Support) -> tuple[int, int] | None:
    """Return the largest blocks that the kernels take of which a support is made; None if of none.

    A convolution's are of channels, with all taps.
    Of whole rows or columns, as of all and of nothing, that side is the largest of ``BLOCK_SIDES``.
    """
    found = support.structure
    if found is None:
        return None
    sides = [
        [side for side in BLOCK_SIDES if size is None or size % side == 0]
        for size in (found.height, found.width)
    ]
    return (sides[0][-1], sides[1][-1]) if all(sides) else None


class BlockList(NamedTuple):
    """The kept blocks, grouped by block row or by block column.

    Attributes:
        indptr: Where each group begins, ``[groups + 1]`` int32.
        index: Block column (or row) of each entry, increasing in a group, ``[nnzb]`` int32.
        block: Which block of the packed order an entry is, ``[nnzb]`` int32.
    """

    indptr: Tensor
    index: Tensor
    block: Tensor


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """The kept blocks of a matrix ``[out, in]``, in row-major order of blocks.

    A packed tensor of it is ``[nnzb, BN, BK]``, each block row-major. Where a side of the matrix is
    no multiple of the block's, the last blocks reach beyond it: what lies there is zero in every
    packed result, and not read of a packed operand.

    Attributes:
        shape: Of the matrix, ``(out, in)``.
        block: Of a block, ``(BN, BK)``.
        rows: The blocks by block row, in packed order.
        columns: The blocks by block column.
        row: Block row of each block, ``[nnzb]`` int32.
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    rows: BlockList
    columns: BlockList
    row: Tensor

    @classmethod
    def from_mask(
        cls, mask: Mask | Support, block: tuple[int, int], device: torch.device | str = "cpu"
    ) -> BlockPlan:
        """Plan for a mask that keeps whole blocks.

        Args:
            mask: Kept positions, ``[out, in]``, bool; a support of that shape. A convolution's,
                ``[out, in, *taps]``, is planned for as the matrix of its pairs of channels.
            block: Rows and columns of a block, each of ``BLOCK_SIDES``.
            device: Where the index arrays are to lie.

        Raises:
            TypeError: if ``mask`` is not bool.
            ValueError: if it has fewer than two dimensions, a side of a block is not allowed, or a
                block is kept in part.
        """
        support = mask if isinstance(mask, Support) else Support.from_mask(mask)
        if len(support.shape) < 2:
            raise ValueError(f"mask must be [out, in, *taps], got shape {support.shape}")
        shape = (support.shape[0], support.shape[1])
        _check_block(block)
        blocks = support.blocks(block)
        return cls._of_blocks(blocks.rows, blocks.columns, shape, block).to(device)

    @classmethod
    def full(
        cls, shape: tuple[int, int], block: tuple[int, int], device: torch.device | str = "cpu"
    ) -> BlockPlan:
        """Plan for a matrix of which every block is kept.

        Args:
            shape: Of the matrix, ``(out, in)``.
            block: As in ``from_mask``.
            device: As there.

        Raises:
            ValueError: if a side of a block is not allowed.
        """
        _check_block(block)
        every = np.ones(Structure(*block).grid(shape), dtype=np.bool_)
        return cls._of_blocks(*np.nonzero(every), shape, block).to(device)

    @classmethod
    def _of_blocks(
        cls,
        row: npt.NDArray[np.int64],
        col: npt.NDArray[np.int64],
        shape: tuple[int, int],
        block: tuple[int, int],
    ) -> BlockPlan:
        rows, columns = Structure(*block).grid(shape)
        # By column, then by row: a stable sort of what is sorted by row.
        by_column = np.argsort(col, kind="stable")
        every = np.arange(row.size)
        return cls(
            shape,
            block,
            BlockList(_indptr(row, rows), _int32(col), _int32(every)),
            BlockList(_indptr(col, columns), _int32(row[by_column]), _int32(by_column)),
            _int32(row),
        )

    @property
    def nnzb(self) -> int:
        """Number of kept blocks."""
        return self.row.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Number of block rows and block columns."""
        return Structure(*self.block).grid(self.shape)

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """Shape of a packed tensor, ``(nnzb, BN, BK)``."""
        return (self.nnzb, *self.block)

    @property
    def device(self) -> torch.device:
        """Where the index arrays lie."""
        return self.row.device

    def to(self, device: torch.device | str) -> BlockPlan:
        """Return the plan with its index arrays on a device."""
        if torch.device(device) == self.device:
            return self
        rows, columns = (
            BlockList(*(part.to(device) for part in lists)) for lists in (self.rows, self.columns)
        )
        return BlockPlan(self.shape, self.block, rows, columns, self.row.to(device))

    def pack(self, weight: Tensor) -> Tensor:
        """Return the kept blocks of a matrix ``[out, in]``, ``[nnzb, BN, BK]``.

        Raises:
            ValueError: if the matrix has another shape.
        """
        if tuple(weight.shape) != self.shape:
            raise ValueError(f"weight must be {list(self.shape)}, got {list(weight.shape)}")
        (rows, columns), (BN, BK) = self.grid, self.block
        padded = weight.new_zeros(rows * BN, columns * BK)
        padded[: self.shape[0], : self.shape[1]] = weight
        blocks = padded.view(rows, BN, columns, BK).transpose(1, 2)
        return blocks[self.row.long(), self.rows.index.long()]

    def unpack(self, values: Tensor) -> Tensor:
        """Return the matrix ``[out, in]`` of packed blocks, zero elsewhere: undoes ``pack``.

        Raises:
            ValueError: if ``values`` is not ``[nnzb, BN, BK]``.
        """
        if tuple(values.shape) != self.packed_shape:
            raise ValueError(f"values must be {list(self.packed_shape)}, got {list(values.shape)}")
        (rows, columns), (BN, BK) = self.grid, self.block
        padded = values.new_zeros(rows, columns, BN, BK)
        padded[self.row.long(), self.rows.index.long()] = values
        flat = padded.transpose(1, 2).reshape(rows * BN, columns * BK)
        return flat[: self.shape[0], : self.shape[1]].contiguous()


def pack_block_signs(scores: Tensor) -> Tensor:
    """Pack ``sgn(scores)``, ``sgn(0) = +1``: one bit a weight, set for -1, lowest bit first.

    Args:
        scores: Packed ``[nnzb, BN, BK]``, a convolution's ``[nnzb, taps, BN, BK]``, any floating or
            signed integer dtype.

    Returns:
        ``[nnzb, BN, BK / 8]`` or ``[nnzb, taps, BN, BK / 8]`` uint8, of each block row-major.

    Raises:
        ValueError: if ``scores`` has another number of dimensions, or ``BK`` is no multiple of 8.
    """
    if scores.dim() not in (3, 4) or scores.shape[-1] % 8:
        raise ValueError(f"scores must be [nnzb, BN, BK], BK % 8 == 0, got {list(scores.shape)}")
    bits = (scores >= 0).logical_not().unflatten(-1, (scores.shape[-1] // 8, 8)).to(torch.uint8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=scores.device)
    return (bits * weights).sum(-1, dtype=torch.uint8)


def _check_block(block: tuple[int, int]) -> None:
    if len(block) != 2 or any(side not in BLOCK_SIDES for side in block):
        raise ValueError(f"block must be two of {BLOCK_SIDES}, got {block}")


def _indptr(groups: npt.NDArray[np.int64], count: int) -> Tensor:
    sizes = np.bincount(groups, minlength=count)
    return _int32(np.concatenate([[0], np.cumsum(sizes)]))


def _int32(array: npt.NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32))
