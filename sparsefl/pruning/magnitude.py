"""Magnitude pruning: keep the weights of largest absolute value.

Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks",
NeurIPS 2015, arXiv 1506.02626.
"""

import torch
from torch import Tensor, nn

from sparsefl.pruning._prunable import (
    check_density,
    keep_largest,
    prunable_weights,
    split_masks,
)


def magnitude(
    model: nn.Module, density: float, scope: str = "global", *, include_dense: bool = False
) -> dict[str, Tensor]:
    """Keep the weights of largest ``|w|``, ties by the lowest index.

    Args:
        model: Plain torch model; left untouched.
        density: Share of weights kept, in (0, 1].
        scope: "global" keeps ``round(density * N)`` over all layers, "layer" keeps
            ``round(density * n)`` of each.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density`` or ``scope`` is out of range, or there is nothing to prune.
    """
    check_density(density)
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be 'global' or 'layer', got {scope!r}")
    weights = prunable_weights(model, include_dense)
    flat = [weight.detach().abs().flatten().to(torch.float64) for weight in weights.values()]
    if scope == "global":
        scores = torch.cat(flat)
        keep = keep_largest(scores, round(density * scores.numel()))
    else:
        keep = torch.cat([keep_largest(one, round(density * one.numel())) for one in flat])
    return split_masks(keep, weights)
