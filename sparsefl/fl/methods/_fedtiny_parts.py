"""What weaker clients of FedTiny hold: of every pruned layer the largest of the server's weights.

Ours, not the paper's, whose clients are alike. A client of capability ``c`` holds of each layer the
``max(1, round(c nnz_l))`` largest ``|w|`` of the server's mask, so that the part of a weaker client
lies within that of a stronger one, as widths do in HeteroFL (Diao, Ding, Tarokh 2021, arXiv
2010.01264). Parts are drawn when the mask of a layer is, and stay until it is adjusted: between
adjustments no support travels. A weight that has grown is 0, and enters a part when its layer's
next turn comes.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from sparsefl.fl.method import Task
from sparsefl.fl.methods._fedtiny_masks import Masks
from sparsefl.pruning._prunable import keep_largest
from sparsefl.support import Support

# Of each weaker capability, what supports of which version are not as in the one before.
Parts: TypeAlias = Mapping[float, tuple[Masks, ...]]


def check_levels(task: Task) -> None:
    """Check what capabilities a task has.

    Raises:
        ValueError: if no client holds all of the server's weights, or these are the whole model.
    """
    if not task.levels:
        return
    if task.levels[0] != 1:
        raise ValueError(
            "fedtiny's capabilities are shares of the weights that the server keeps: the largest "
            f"must be 1, got {task.levels[0]:g}; a lower density makes all clients weaker"
        )
    if task.density == 1:
        raise ValueError("fedtiny's capabilities are shares of a pruned model: density must be < 1")


def part(support: Support, values: Tensor, capability: float) -> Support:
    """Return where the largest of the kept weights are, of equals the first.

    Args:
        support: The kept positions.
        values: Their weights, ``[nnz]``, row-major.
        capability: Share of them, in (0, 1].
    """
    count = max(1, round(capability * support.nnz))
    largest = keep_largest(values.abs(), count).numpy()
    return Support.from_indices(support.shape, support.indices[largest])


def with_version(
    parts: Parts,
    levels: Iterable[float],
    supports: Masks,
    values: Mapping[str, Tensor],
    names: Iterable[str],
) -> dict[float, tuple[Masks, ...]]:
    """Draw the parts of layers anew, as the next version.

    Args:
        parts: Those of all versions so far.
        levels: The weaker capabilities.
        supports: The server's, of the new version.
        values: Its weights, ``[nnz]``, row-major.
        names: The layers; parts of others stay.
    """
    chosen = tuple(names)
    return {
        level: (
            *parts.get(level, ()),
            {name: part(supports[name], values[name], level) for name in chosen},
        )
        for level in levels
    }


def within(values: Tensor, support: Support, smaller: Support) -> Tensor:
    """Return of the values of a support those of a part of it, ``[nnz]``, row-major."""
    at = support.indices.searchsorted(smaller.indices)
    return values[torch.from_numpy(at)]
