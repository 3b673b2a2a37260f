"""FedTiny's candidate masks: layer densities drawn around the wanted one, largest weights kept.

Huang et al., "Distributed pruning towards tiny neural networks in federated learning" (FedTiny),
ICDCS 2023, arXiv 2212.01977, with the settings of its authors' repository. Departures: no layer is
left without a weight, and draws come from the package's own streams, so that a seed and a number
name a candidate on every machine.
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from sparsefl import random as streams
from sparsefl.pruning._densities import erdos_renyi_targets, largest
from sparsefl.pruning._prunable import check_density, prunable_weights
from sparsefl.structure import Structure, StructureLike, parse

Kind: TypeAlias = Literal["noise_uniform", "erdos_renyi"]

# How far a candidate's density may lie from the wanted one.
TOLERANCE = 0.02
# Draws of layer densities before none is taken to fit, and how many are drawn at once.
_DRAWS = 1 << 16
_AT_ONCE = 1 << 8


def candidates(
    model: nn.Module,
    density: float,
    count: int,
    seed: int = 0,
    kind: Kind = "noise_uniform",
    *,
    kernel: bool = True,
    first_dense: bool = True,
    output: bool = False,
    structure: StructureLike | None = None,
    include_dense: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Give the pool of candidates, one at a time: a pool of a large model would not fit memory.

    Args:
        model: As in :func:`candidate`, and so are all but ``count``.
        density: Share of weights kept.
        count: How many candidates.
        seed: One seed, one pool.
        kind: Rule of the layer densities.
        kernel: Count the kernel's sides in the Erdos-Renyi form.
        first_dense: Whether the first layer keeps all of its weights.
        output: Whether the last layer is pruned, too.
        structure: As in :mod:`sparsefl.pruning`.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        An iterator of what :func:`candidate` gives for 0, 1, ... ``count - 1``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range, or there is nothing to prune.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an int, got {type(count).__name__}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    grid = parse(structure)
    weights = _weights(model, density, kind, output, include_dense)
    return (
        _candidate(weights, density, index, seed, kind, kernel, first_dense, grid)
        for index in range(count)
    )


def candidate(
    model: nn.Module,
    density: float,
    index: int,
    seed: int = 0,
    kind: Kind = "noise_uniform",
    *,
    kernel: bool = True,
    first_dense: bool = True,
    output: bool = False,
    structure: StructureLike | None = None,
    include_dense: bool = False,
) -> dict[str, Tensor]:
    """Give candidate ``index`` of a pool: the largest ``|w|`` of layers whose densities are drawn.

    Layer densities are ``d_l = density * U(0.5, 1.5)`` ("noise_uniform"), or ``min(1, e_l * U(0,
    2))`` with the Erdos-Renyi densities ``e_l`` of :func:`sparsefl.pruning.erdos_renyi`. Layer
    ``l`` keeps ``max(1, round(d_l * n_l))`` weights. A draw is repeated until ``|kept - density *
    N| < 0.02 * density * N``, the first layer's weights counted.

    Args:
        model: Plain torch model, trained; left untouched.
        density: Share of weights kept over all layers that are pruned, in (0, 1].
        index: Number of the candidate, not negative.
        seed: One seed, one pool: densities are the same on every machine, and so are the masks of
            equal weights.
        kind: "noise_uniform" or "erdos_renyi".
        kernel: Count the kernel's sides in the Erdos-Renyi form (ERK).
        first_dense: Whether the first layer keeps all of its weights.
        output: Whether the last layer is pruned, too; else it is in no mask and not counted.
        structure: As in :mod:`sparsefl.pruning`; every layer's count is then met to within a
            rectangle, after the draw has come near the density.
        include_dense: As in :func:`sparsefl.pruning.left_dense`.

    Returns:
        ``{parameter name: bool tensor of the weight's shape}``.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range, there is nothing to prune, or no draw comes near
            the density (the first layer alone may exceed it).
    """
    grid = parse(structure)
    weights = _weights(model, density, kind, output, include_dense)
    return _candidate(weights, density, index, seed, kind, kernel, first_dense, grid)


def _weights(
    model: nn.Module, density: float, kind: str, output: bool, include_dense: bool
) -> dict[str, nn.Parameter]:
    """Check what all candidates share; return the weights that are masked."""
    density = check_density(density)
    if kind not in ("noise_uniform", "erdos_renyi"):
        raise ValueError(f"kind must be 'noise_uniform' or 'erdos_renyi', got {kind!r}")
    weights = prunable_weights(model, include_dense)
    if not output:
        weights.popitem()
    if not weights:
        raise ValueError("model has only an output layer to prune: pass output=True")
    return weights


def _candidate(
    weights: dict[str, nn.Parameter],
    density: float,
    index: int,
    seed: int,
    kind: Kind,
    kernel: bool,
    first_dense: bool,
    structure: Structure | None,
) -> dict[str, Tensor]:
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"index must be an int, got {type(index).__name__}")
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    sizes = np.array([weight.numel() for weight in weights.values()], dtype=np.float64)
    if kind == "noise_uniform":
        least, spread = 0.5 * density * sizes, density * sizes
    else:
        targets = erdos_renyi_targets(weights, density, kernel)
        least, spread = np.zeros(len(sizes)), 2.0 * np.array(list(targets.values()))
    if first_dense:
        least[0], spread[0] = sizes[0], 0.0
    name = f"layer densities of {kind} candidate {index}"
    counts = _drawn_counts(sizes, least, spread, density, seed, name)
    return largest(weights, dict(zip(weights, counts.tolist(), strict=True)), structure)


def _drawn_counts(
    sizes: npt.NDArray[np.float64],
    least: npt.NDArray[np.float64],
    spread: npt.NDArray[np.float64],
    density: float,
    seed: int,
    name: str,
) -> npt.NDArray[np.int64]:
    """Draw counts ``least + U(0, 1) * spread`` until their sum is near ``density * sum(sizes)``.

    Raises:
        ValueError: if none of many draws is.
    """
    wanted = density * sizes.sum()
    for block in range(_DRAWS // _AT_ONCE):
        words = streams.uniform_bits(seed, f"{name}, block {block}", _AT_ONCE * len(sizes))
        uniform = words.reshape(_AT_ONCE, -1).astype(np.float64) / 2.0**32
        counts = np.clip(np.rint(least + uniform * spread), 1.0, np.maximum(sizes, 1.0))
        near = np.abs(counts.sum(axis=1) - wanted) < TOLERANCE * wanted
        if near.any():
            found: npt.NDArray[np.int64] = counts[near.argmax()].astype(np.int64)
            return found
    raise ValueError(
        f"none of {_DRAWS} draws of layer densities comes within {TOLERANCE:.0%} of density "
        f"{density}: the first layer has {int(sizes[0])} of {int(sizes.sum())} weights, "
        f"{int(wanted)} are to be kept: take a larger density, or prune the first layer, too"
    )
