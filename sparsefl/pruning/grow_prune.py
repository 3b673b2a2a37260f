"""One step of pruning and growing: the weakest weights give way to the largest gradients.

Evci et al., "Rigging the lottery" (RigL), ICML 2020, arXiv 1911.11134, algorithm 1; on a server,
with gradients from clients, Huang et al., "Distributed pruning towards tiny neural networks in
federated learning" (FedTiny), ICDCS 2023, arXiv 2212.01977. All of it works on the kept weights and
the positions that change: no dense weight is made, and a dense mask only where whole rectangles of
a structure are exchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsefl.ops import Growth
from sparsefl.pruning._prunable import keep_largest
from sparsefl.pruning._units import Units
from sparsefl.structure import Structure, StructureLike, parse
from sparsefl.support import Support

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Adjustment:
    """What became of a layer.

    Attributes:
        support: The new support, of as many positions (rectangles cut off at an edge aside).
        values: Its weights, ``[nnz]`` row-major; those of grown positions are 0.
        dropped: Flat positions that are pruned now, ``[count]`` int64, increasing.
        grown: Flat positions that are kept now, ``[count]`` int64, increasing.
    """

    support: Support
    values: Tensor
    dropped: Tensor
    grown: Tensor


def grow_prune(
    support: Support,
    values: Tensor,
    growth: Growth,
    count: int,
    structure: StructureLike | None = None,
) -> Adjustment:
    """Prune the ``count`` kept weights of least ``|w|``, keep as many of largest ``|g|`` instead.

    Only positions that were pruned before may grow: a weight that is pruned in this step cannot
    return in it. A pruned position that ``growth`` does not name has ``g = 0``. Equal magnitudes
    are pruned, and grow, by the lowest index.

    With a ``structure`` rectangles are exchanged, by their mean ``|w|`` and mean ``|g|``: one at
    least, else as many as come nearest to ``count`` weights. Where they differ in size, at the
    edges, as many positions are dropped as come nearest to those grown.

    Args:
        support: The kept positions.
        values: Their weights, ``[nnz]`` row-major.
        growth: Pruned positions, increasing, and their gradients; see :func:`mean_growth`.
        count: How many, at most those kept and those pruned.
        structure: As in :mod:`sparsefl.pruning`; the support is made of whole rectangles.

    Returns:
        New support, weights, and what was exchanged.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``values`` is not ``[nnz]``, ``growth`` names a kept position or does not
            increase, a weight or gradient is not a number, ``count`` is out of range, or
            ``support`` is not made of ``structure``.
    """
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an int, got {type(count).__name__}")
    most = min(support.nnz, support.numel - support.nnz)
    if not 0 <= count <= most:
        raise ValueError(f"count must be in [0, {most}], got {count}")
    grid = parse(structure)
    indices, gradients = _check_growth(support, growth)
    grown = _strongest(support, indices, gradients, count, grid)
    return replace_weakest(support, values, torch.from_numpy(grown), grid)


def replace_weakest(
    support: Support, values: Tensor, grown: Tensor, structure: StructureLike | None = None
) -> Adjustment:
    """Prune as many of the weights of least ``|w|`` as ``grown`` has positions, and keep these.

    What a client does that holds the server's weights and is told what grows: the dropped
    positions need not be sent.

    Args:
        support: The kept positions.
        values: Their weights, ``[nnz]`` row-major; the server's, before local training.
        grown: Flat positions to keep, int64, increasing, none of them kept so far.
        structure: As :func:`grow_prune`.

    Returns:
        As :func:`grow_prune`.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if ``values`` is not ``[nnz]`` or holds NaN, ``grown`` has more positions than
            are kept, does not increase, or names a kept one, or ``support`` or what becomes of it
            is not made of ``structure``.
    """
    grid = parse(structure)
    _check_values(support, values)
    positions = _positions("grown", grown)
    if len(positions) > support.nnz:
        raise ValueError(
            f"grown must name at most {support.nnz} positions, as many as are kept, got "
            f"{len(positions)}"
        )
    weak = _weakest(support, values.detach(), len(positions), grid)
    indices = support.indices
    dropped = indices[weak.numpy()]
    changed = support.exchanged(dropped, positions)
    if grid is not None:
        changed.blocks(grid)
    left = indices[~weak.numpy()]
    fresh = np.searchsorted(left, positions) + np.arange(len(positions))
    old = torch.ones(changed.nnz, dtype=torch.bool)
    old[torch.from_numpy(fresh)] = False
    carried = values.detach().new_zeros(changed.nnz)
    carried[old.to(values.device)] = values.detach()[~weak.to(values.device)]
    return Adjustment(
        changed, carried, torch.from_numpy(dropped), torch.from_numpy(positions.copy())
    )


def mean_growth(received: Sequence[Growth], clients: int | None = None) -> Growth:
    """Average what clients sent of a layer: ``g_j = sum of g_j received / clients``, absent = 0.

    Args:
        received: Positions, increasing, and gradients of every client; summed in float64 in this
            order and rounded once.
        clients: By how many is divided; None: by those that sent.

    Returns:
        The union of the positions, increasing, and the means, in the dtype of the first.

    Raises:
        ValueError: if nothing was received, positions do not increase, or there are not as many
            gradients.
    """
    if not received:
        raise ValueError("received must hold the growth of at least one client")
    parts = [_split(growth) for growth in received]
    union, inverse = np.unique(np.concatenate([at for at, _ in parts]), return_inverse=True)
    sums = np.zeros(len(union))
    start = 0
    for at, gradients in parts:
        sums[inverse[start : start + len(at)]] += gradients.double().numpy()
        start += len(at)
    means = torch.from_numpy(sums / (len(received) if clients is None else clients))
    return Growth(torch.from_numpy(union), means.to(received[0].values.dtype))


def _strongest(
    support: Support, indices: Indices, gradients: Tensor, count: int, grid: Structure | None
) -> Indices:
    """Return the ``count`` pruned positions that grow, increasing."""
    if grid is not None:
        free = ~_kept_rectangles(support, grid)
        best = _best_rectangles(support, grid, free, indices, gradients.abs(), count)
        mask = grid.expand(best.reshape(grid.grid(support.shape)), support.shape)
        return np.flatnonzero(mask)
    seen = gradients != 0
    grown = indices[seen.numpy()]
    if len(grown) > count:
        return grown[keep_largest(gradients[seen].abs(), count).numpy()]
    more = _first_absent(np.union1d(support.indices, grown), count - len(grown))
    return np.union1d(grown, more)


def _weakest(support: Support, values: Tensor, count: int, grid: Structure | None) -> Tensor:
    """Mark the kept weights that give way to ``count`` others, ``[nnz]`` bool on the CPU."""
    if grid is None:
        return keep_largest(values.abs().neg(), count).cpu()
    kept = _kept_rectangles(support, grid)
    chosen = _best_rectangles(support, grid, kept, support.indices, -values.abs(), count)
    return torch.from_numpy(chosen[grid.which(support.indices, support.shape)])


def _kept_rectangles(support: Support, grid: Structure) -> npt.NDArray[np.bool_]:
    """Tell of each rectangle, row-major, whether it is kept."""
    blocks = support.blocks(grid)
    kept = np.zeros(grid.grid(support.shape), dtype=np.bool_)
    kept[blocks.rows, blocks.columns] = True
    return kept.reshape(-1)


def _best_rectangles(
    support: Support,
    grid: Structure,
    among: npt.NDArray[np.bool_],
    indices: Indices,
    scores: Tensor,
    count: int,
) -> npt.NDArray[np.bool_]:
    """Choose rectangles by their mean score, ``count`` positions or nearly so.

    Args:
        support: Gives the shape.
        grid: The rectangles.
        among: Which may be chosen, bool ``[rectangles]``.
        indices: Flat positions that have a score; the others' is 0.
        scores: Their scores.
        count: Number of positions; more than none takes a rectangle at least.

    Returns:
        Bool ``[rectangles]``.
    """
    numbers = grid.which(indices, support.shape)
    sums = np.bincount(numbers, scores.double().cpu().numpy(), len(among))
    means = torch.from_numpy(sums / grid.areas(support.shape))
    units, left = Units({"weight": support.shape}, grid), torch.from_numpy(np.flatnonzero(among))
    chosen = np.zeros(len(among), dtype=np.bool_)
    best = units.keep_best(means[left], count, left, at_least=int(count > 0))
    chosen[left[best].numpy()] = True
    return chosen


def _first_absent(taken: Indices, count: int) -> Indices:
    """Return the ``count`` lowest positions that are not in ``taken``, which increases."""
    wanted = np.arange(count)
    # So many positions below each taken one are absent.
    absent = taken - np.arange(len(taken))
    return wanted + np.searchsorted(absent, wanted, side="right")


def _check_values(support: Support, values: Tensor) -> None:
    if not isinstance(support, Support):
        raise TypeError(f"support must be a Support, got {type(support).__name__}")
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a floating-point tensor, got {got}")
    if values.shape != (support.nnz,):
        raise ValueError(f"values must be [{support.nnz}], got {list(values.shape)}")
    if bool(values.isnan().any()):
        raise ValueError("values must be numbers, got NaN")


def _positions(name: str, given: Tensor) -> Indices:
    if not isinstance(given, Tensor) or given.dtype != torch.int64 or given.dim() != 1:
        got = f"{given.dtype} {list(given.shape)}" if isinstance(given, Tensor) else type(given)
        raise TypeError(f"{name} must be a flat int64 tensor, got {got}")
    return given.cpu().numpy()


def _split(growth: Growth) -> tuple[Indices, Tensor]:
    """Return positions and gradients, checked to increase and to be as many."""
    indices, gradients = _positions("growth.indices", growth[0]), growth[1].detach().cpu()
    if not bool(np.all(indices[:-1] < indices[1:])):
        raise ValueError("growth.indices must increase strictly")
    if gradients.shape != indices.shape:
        raise ValueError(f"growth.values must be [{len(indices)}], got {list(gradients.shape)}")
    if bool(gradients.isnan().any()):
        raise ValueError("growth.values must be numbers, got NaN")
    return indices, gradients


def _check_growth(support: Support, growth: Growth) -> tuple[Indices, Tensor]:
    indices, gradients = _split(growth)
    if len(indices) and not 0 <= indices[0] <= indices[-1] < support.numel:
        raise ValueError(f"growth.indices must lie in [0, {support.numel})")
    bits = support.packed[indices >> 3] >> (indices & 7).astype(np.uint8) & 1
    if bool(bits.any()):
        at = int(indices[bits.argmax()])
        raise ValueError(f"growth.indices must name pruned positions, {at} is kept")
    return indices, gradients
