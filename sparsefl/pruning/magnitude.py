"""Magnitude pruning: keep the weights of largest absolute value.

Han, Pool, Tran, Dally, "Learning both weights and connections for efficient neural networks",
NeurIPS 2015, arXiv 1506.02626.
"""

import torch
from torch import Tensor, nn

from sparsefl.pruning._densities import largest
from sparsefl.pruning._prunable import check_density, prunable_weights
from sparsefl.pruning._units import Units, shapes_of
from sparsefl.structure import StructureLike, parse


def magnitude(
    model: nn.Module,
    density: float,
    scope: str = "global",
    *,
    structure: StructureLike | None = None,
    include_dense: bool = False,
) -> dict[str, Tensor]:
    """Keep the weights of largest ``|w|``, or the rectangles of largest mean ``|w|``.

    Ties go to the lowest index.

    Args:
        model: Plain torch model; left untouched.
        density: Share of weights kept, in (0, 1].
        scope: "global" keeps ``round(density * N)`` over all layers, "layer" keeps
            ``round(density * n)`` of each.
        structure: As in :mod:`sparsefl.pruning`; then the counts are met to within a rectangle.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density``, ``scope`` or ``structure`` is out of range, or there is nothing
            to prune.
    """
    density = check_density(density)
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be 'global' or 'layer', got {scope!r}")
    grid = parse(structure)
    weights = prunable_weights(model, include_dense)
    if scope == "layer":
        counts = {name: round(density * weight.numel()) for name, weight in weights.items()}
        return largest(weights, counts, grid)
    units = Units(shapes_of(weights), grid)
    scores = units.scores(weight.detach().abs().to(torch.float64) for weight in weights.values())
    return units.masks(units.keep_best(scores, round(density * units.numel)))
