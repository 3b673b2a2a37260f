"""``MaskPlan``: any kept positions of a matrix, as the kernels of unstructured masks read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsefl.support import Mask, Support

_WORD = 32
# Positions are counted in int32.
_MOST_POSITIONS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """The kept positions of a matrix ``[out, in]``: 2 bits for each position, kept or not.

    Built on the host once for each mask; a step reads it on the device and never waits for it.

    Attributes:
        shape: Of the matrix, ``(out, in)``.
        nnz: Number of kept positions.
        words: A row's bits, lowest first, in words of its own, ``[out, ceil(in / 32)]`` int32.
        offsets: Kept positions before each word, in row-major order, of the same shape, int32.
    """

    shape: tuple[int, int]
    nnz: int
    words: Tensor
    offsets: Tensor

    @classmethod
    def from_mask(cls, mask: Mask | Support, device: torch.device | str = "cpu") -> MaskPlan:
        """Plan for a mask.

        Args:
            mask: Kept positions, ``[out, in]``, bool; or a support of that shape. A convolution's,
                ``[out, in, *taps]``, is the matrix of as many rows.
            device: Where the plan is to lie.

        Raises:
            TypeError: if ``mask`` is not bool.
            ValueError: if it has fewer than two dimensions, or 2**31 positions or more.
        """
        support = mask if isinstance(mask, Support) else Support.from_mask(mask)
        if len(support.shape) < 2 or support.numel > _MOST_POSITIONS:
            raise ValueError(
                f"mask must be [out, in, *taps] of at most {_MOST_POSITIONS} positions, got shape "
                f"{support.shape}"
            )
        rows, columns = support.shape[0], math.prod(support.shape[1:])
        padded = np.zeros((rows, -(-columns // _WORD) * _WORD), dtype=np.bool_)
        padded[:, :columns] = support.to_numpy_mask().reshape(rows, columns)
        words = np.packbits(padded, axis=1, bitorder="little").view("<i4")
        counts = padded.reshape(rows, -1, _WORD).sum(2) if padded.size else words
        offsets = (np.cumsum(counts) - counts.reshape(-1)).astype(np.int32).reshape(words.shape)
        tensors = (torch.from_numpy(a).to(device) for a in (words, offsets))
        return cls((rows, columns), support.nnz, *tensors)

    @property
    def device(self) -> torch.device:
        """Where the plan lies."""
        return self.words.device

    def to(self, device: torch.device | str) -> MaskPlan:
        """Return the plan on a device."""
        return MaskPlan(self.shape, self.nnz, self.words.to(device), self.offsets.to(device))
