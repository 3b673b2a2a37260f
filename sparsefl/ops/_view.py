"""How kernels walk a support: row by row within blocks of columns, or position by position."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefl.support import Support


class View(NamedTuple):
    """One way of walking a support (csrc/cpu/view.h).

    Where torch's dense kernels alone compute, nothing walks rows: such a view is *flat*. It has no
    blocks, and its columns say where in the memory of the scratch weight each stored element lies.

    Attributes:
        begin: First kept position of every (phase, block, row), ``[phases * blocks * rows + 1]``
            int32; empty where the view is flat.
        columns: Column within its block, ``[nnz]`` int16 holding uint16; of a flat view the
            position in memory, ``[nnz]`` int64.
        position: Where the value of each position is stored, ``[nnz]`` int32; None: in this order.
        work: Running cost of the rows, ``[rows + 1]`` int64; empty where the view is flat.
        block: Columns of a block; 0 where the view is flat.
    """

    begin: Tensor
    columns: Tensor
    position: Tensor | None
    work: Tensor
    block: int

    @property
    def flat(self) -> bool:
        """Whether it has positions in memory in place of rows."""
        return self.block == 0

    def to(self, device: torch.device | str) -> "View":
        """Return the view with its tensors on ``device``."""
        position = None if self.position is None else self.position.to(device)
        return View(
            self.begin.to(device),
            self.columns.to(device),
            position,
            self.work.to(device),
            self.block,
        )


def flat_view(support: Support, order: Tensor, *, turned: bool) -> View:
    """Return where each stored element lies in the memory of the scratch weight, on the CPU.

    That of a matrix is row-major, its transpose's where the elements are stored in that order; that
    of a convolution is channels_last, as images are on devices other than the CPU.

    Args:
        support: The kept positions.
        order: Row-major rank of every stored element, ``[nnz]`` int64.
        turned: Whether they are stored in the order of the transpose.
    """
    # The copy is writable, which torch.from_numpy asks for.
    at = torch.from_numpy(support.indices.copy())
    rows, columns = support.shape[0], math.prod(support.shape[1:])
    if turned:
        at = at % columns * rows + at // columns
    else:
        taps = math.prod(support.shape[2:])
        at = at // columns * columns + at % taps * support.shape[1] + at % columns // taps
    none = torch.empty(0, dtype=torch.int32)
    return View(none, at.index_select(0, order), None, none.long(), 0)
