"""Static random masks: uniform over all weights, or with Erdos-Renyi layer densities.

Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity",
Nature Communications 2018, arXiv 1707.04780 (Erdos-Renyi); Evci et al., "Rigging the lottery",
ICML 2020, arXiv 1911.11134 (its kernel form). They are the controls of every pruning method: what
a method's machinery earns is its lead over these at the same density.
"""

from torch import Tensor, nn

from sparsefl.pruning._densities import (
    Select,
    check_select,
    drawn,
    erdos_renyi_targets,
    largest,
    rounded_counts,
)
from sparsefl.pruning._prunable import check_density, prunable_weights
from sparsefl.structure import StructureLike, parse


def random(
    model: nn.Module,
    density: float,
    seed: int = 0,
    *,
    structure: StructureLike | None = None,
    include_dense: bool = False,
) -> dict[str, Tensor]:
    """Keep ``round(density * n)`` weights of each layer, drawn uniformly.

    Args:
        model: Plain torch model; only its shapes are read.
        density: Share of weights kept in every layer, in (0, 1].
        seed: One seed, one set of masks.
        structure: As in :mod:`sparsefl.pruning`; the counts are then met to within a rectangle.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density`` or ``structure`` is out of range, or there is nothing to prune.
    """
    density = check_density(density)
    grid = parse(structure)
    weights = prunable_weights(model, include_dense)
    counts = {name: round(density * weight.numel()) for name, weight in weights.items()}
    return drawn(weights, counts, seed, grid)


def erdos_renyi(
    model: nn.Module,
    density: float,
    seed: int = 0,
    kernel: bool = True,
    *,
    select: Select = "random",
    structure: StructureLike | None = None,
    include_dense: bool = False,
) -> dict[str, Tensor]:
    """Keep ``round(density * N)`` weights over all layers, these thinner the larger they are.

    Layer densities are ``d_l = min(1, e * (n_in + n_out + kh + kw) / (n_in * n_out * kh * kw))``
    with one ``e`` such that the whole model has ``density``: what a full layer cannot take goes to
    the others, and of the counts the largest fractions are rounded up.

    Args:
        model: Plain torch model; left untouched.
        density: Share of weights kept over all layers, in (0, 1].
        seed: One seed, one set of masks drawn at random.
        kernel: Count the kernel's sides (ERK); without them the plain Erdos-Renyi form.
        select: Which weights of a layer are kept: drawn at "random", or of the largest "magnitude",
            ties by the lowest index.
        structure: As in :mod:`sparsefl.pruning`; the counts are then met to within a rectangle.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``density``, ``select`` or ``structure`` is out of range, or there is nothing
            to prune.
    """
    density = check_density(density)
    check_select(select)
    grid = parse(structure)
    weights = prunable_weights(model, include_dense)
    total = round(density * sum(w.numel() for w in weights.values()))
    counts = rounded_counts(erdos_renyi_targets(weights, density, kernel), total)
    if select == "magnitude":
        return largest(weights, counts, grid)
    return drawn(weights, counts, seed, grid)
