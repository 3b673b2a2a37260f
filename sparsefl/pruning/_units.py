"""What pruning keeps or drops as one: single weights, or the rectangles of a structure.

A rectangle's score is the *mean* of its weights' scores. The best choice under a budget of weights
is a knapsack: the largest sum of scores kept, where a rectangle costs its number of weights.
Taking them by score per weight is optimal but for the last one (Dantzig, "Discrete-variable
extremum problems", Operations Research 1957). Where all have one size it is the same as by sums,
as in Mao et al. 2017, "Exploring the granularity of sparsity in convolutional neural networks",
arXiv 1705.08922, and for filters in Li et al. 2017, "Pruning filters for efficient ConvNets", arXiv
1608.08710; where they have not - at the edges, in layers of other kernels - sums would favour what
is large. Blocks as a unit: Gray, Radford, Kingma 2017, "GPU kernels for block-sparse weights";
Lagunas et al. 2021, "Block pruning for faster transformers", arXiv 2109.04838.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from sparsefl.pruning._prunable import keep_largest
from sparsefl.structure import Structure


class Units:
    """The units of some weights, one after the other, row-major within each.

    Attributes:
        count: How many there are.
        numel: How many weights they hold.
        largest: How many the largest holds.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], structure: Structure | None) -> None:
        """Cut weights of these shapes into rectangles; into single ones without a structure."""
        self._shapes, self._structure = shapes, structure
        self._counts = [math.prod(shape) for shape in shapes.values()]
        self.numel = sum(self._counts)
        self._sizes: Tensor | None = None
        if structure is not None:
            sizes = [torch.from_numpy(structure.areas(shape)) for shape in shapes.values()]
            self._sizes = torch.cat(sizes)
            self._counts = [len(one) for one in sizes]
        self.count = sum(self._counts)
        self.largest = 1 if self._sizes is None or not self.count else int(self._sizes.max())

    def scores(self, elementwise: Iterable[Tensor]) -> Tensor:
        """Return the mean score of every unit, flat; float64 for rectangles.

        Args:
            elementwise: A score of each weight, in the weights' order and shapes.
        """
        if self._structure is None or self._sizes is None:
            return torch.cat([scores.flatten() for scores in elementwise])
        sums = torch.cat([_sums(scores, self._structure) for scores in elementwise])
        return sums / self._sizes.to(sums.device)

    def keep_best(
        self, scores: Tensor, count: int, among: Tensor | None = None, at_least: int = 0
    ) -> Tensor:
        """Mark the units of the largest scores that hold ``count`` weights, or nearly so.

        Of single weights exactly ``count`` are kept. Of rectangles so many as to come nearest to
        it, the fewer of two: off by no more than half of the last one. Ties go to the lowest index.

        Args:
            scores: ``[units]``, or of those ``among``.
            count: Number of weights, not units.
            among: Indices of the units to choose from, increasing; None: all.
            at_least: How many rectangles are kept, however large.

        Returns:
            Bool, one for each score.
        """
        if self._sizes is None:
            return keep_largest(scores, count)
        sizes = self._sizes.to(scores.device)
        sizes = sizes if among is None else sizes[among]
        order = scores.argsort(descending=True, stable=True)
        held = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)])
        keep = torch.zeros_like(scores, dtype=torch.bool)
        keep[order[: max(int((held - count).abs().argmin()), at_least)]] = True
        return keep

    def masks(self, keep: Tensor) -> dict[str, Tensor]:
        """Return the mask of each weight, of its shape, from ``[units]``; on the same device."""
        pieces = zip(self._shapes.items(), keep.split(self._counts), strict=True)
        if self._structure is None:
            return {name: piece.reshape(shape) for (name, shape), piece in pieces}
        masks = {}
        for (name, shape), piece in pieces:
            grid = piece.cpu().numpy().reshape(self._structure.grid(shape))
            mask = torch.from_numpy(np.array(self._structure.expand(grid, shape)))
            masks[name] = mask.to(keep.device)
        return masks


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _sums(scores: Tensor, structure: Structure) -> Tensor:
    """Return the sum over each rectangle, ``[rectangles]`` float64."""
    height, width = structure.sizes(tuple(scores.shape))
    down, across = structure.grid(tuple(scores.shape))
    matrix = scores.to(torch.float64).flatten(2).sum(2) if scores.dim() > 2 else scores.double()
    below, beside = down * height - scores.shape[0], across * width - scores.shape[1]
    padded = torch.nn.functional.pad(matrix, (0, beside, 0, below))
    return padded.view(down, height, across, width).sum((1, 3)).flatten()
