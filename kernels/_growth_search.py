"""The search for the largest weight gradients among pruned positions, in memory O(count).

Tiles of the dense gradient are computed and filtered on the device: what exceeds a threshold where
nothing is kept is appended to a short list, and the gradient is never written. The counter goes on
past the end of the list, so the caller knows whether the list holds all that exceeded, and at least
as many as wanted; then the largest of the list are the largest of all. Where a threshold does not
prove that, strips of rows are filtered, each against what has been found before.

Source: progressive pruning of FedTiny (Huang et al. 2022, arXiv 2212.01977), whose clients upload
the top gradients of inactive weights and must not hold them all.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sparsefl.kernels.mask_plan import MaskPlan

# Room in the list beyond the wanted: as much again, and never less than this.
_LEAST_ROOM = 1 << 12
# What a threshold aims at, of the wanted: the middle between too few and too many.
_AIM = 1.5
# Thresholds that are tried on the whole gradient before strips.
_TRIES = 3
_EVERYTHING = -1.0


class Growth(NamedTuple):
    """The largest gradients among the pruned positions of a weight.

    Attributes:
        indices: Their flat row-major positions, ``[count]`` int64, increasing.
        values: The gradients there, ``[count]`` float32, with their signs.
    """

    indices: Tensor
    values: Tensor


class Filtered(NamedTuple):
    """What exceeded a threshold: a list, in no order, and how many there were in all."""

    indices: Tensor
    values: Tensor
    total: int


class Gradient(Protocol):
    """A dense gradient that nobody holds, a matrix of rows.

    Attributes:
        plan: What is kept of it.
    """

    plan: MaskPlan

    def sample(self, rows: Tensor) -> Tensor:
        """Compute some rows, ``[len(rows), columns]`` float32."""

    def filter(self, threshold: float, found: "Filtering", start: int, stop: int) -> None:
        """List what exceeds the threshold among the pruned positions of some rows."""


class Filtering(NamedTuple):
    """What a kernel writes as it filters: see :class:`Filtered`.

    Attributes:
        total: How many exceeded, int32.
        indices: Their flat positions in the whole gradient, ``[room]`` int64.
        values: The gradients there, ``[room]`` float32.
    """

    total: Tensor
    indices: Tensor
    values: Tensor


def find_growth(gradient: Gradient, count: int) -> Growth:
    """Find the ``count`` largest magnitudes at pruned positions, ties to the lowest index.

    Raises:
        ValueError: if ``count`` is out of range, or a gradient is not a number.
    """
    plan, device = gradient.plan, gradient.plan.device
    pruned = plan.shape[0] * plan.shape[1] - plan.nnz
    if not 0 <= count <= pruned:
        raise ValueError(f"count must be within the {pruned} pruned positions, got {count}")
    room = min(max(2 * count, count + _LEAST_ROOM, plan.shape[1]), pruned)
    if count == 0:
        return _nothing(device)
    threshold = _EVERYTHING if room == pruned else _sampled_threshold(gradient, count, room)
    for _ in range(_TRIES):
        found = _filter(gradient, threshold, room, 0, plan.shape[0])
        if count <= found.total <= room:
            return _largest(found.indices, found.values, count)
        if found.total < count:
            break
        threshold = _quantile(found.values, _AIM * count / found.total)
    return _by_strips(gradient, count, room)


def _nothing(device: torch.device) -> Growth:
    indices = torch.empty(0, dtype=torch.int64, device=device)
    return Growth(indices, torch.empty(0, device=device))


def _filter(gradient: Gradient, threshold: float, room: int, start: int, stop: int) -> Filtered:
    device = gradient.plan.device
    found = Filtering(
        torch.zeros((), dtype=torch.int32, device=device),
        torch.empty(room, dtype=torch.int64, device=device),
        torch.empty(room, device=device),
    )
    gradient.filter(threshold, found, start, stop)
    number = int(found.total)
    listed = slice(0, min(number, room))
    return Filtered(found.indices[listed], found.values[listed], number)


def _sampled_threshold(gradient: Gradient, count: int, room: int) -> float:
    """Return a threshold that about the wanted number exceeds, by rows from all over the weight."""
    plan = gradient.plan
    rows = max(1, min(plan.shape[0], room // plan.shape[1]))
    chosen = torch.arange(rows, device=plan.device) * plan.shape[0] // rows
    bit = torch.arange(plan.shape[1], device=plan.device)
    pruned = (plan.words[chosen][:, bit // 32] >> (bit % 32)) & 1 == 0
    magnitudes = gradient.sample(chosen)[pruned]
    left = plan.shape[0] * plan.shape[1] - plan.nnz
    return _quantile(magnitudes, _AIM * count / left) if magnitudes.numel() else 0.0


def _quantile(values: Tensor, fraction: float) -> float:
    """Return the magnitude that a fraction of the values exceeds, about."""
    rank = min(max(1, round(fraction * values.numel())), values.numel())
    return float(values.abs().nan_to_num(0.0).topk(rank).values[-1])


def _by_strips(gradient: Gradient, count: int, room: int) -> Growth:
    """Filter strips of rows in order, each against the least of the largest before it.

    A strip of one row always has room; one that exceeds it is filtered again, half as high.
    """
    rows, columns = gradient.plan.shape
    best = _nothing(gradient.plan.device)
    start, height = 0, max(1, room // columns)
    while start < rows:
        threshold = float(best.values.abs().min()) if best.values.numel() == count else _EVERYTHING
        stop = min(start + height, rows)
        found = _filter(gradient, threshold, room, start, stop)
        if found.total > room:
            height = max(1, height // 2)
            continue
        indices = torch.cat([best.indices, found.indices])
        best = _largest(indices, torch.cat([best.values, found.values]), count)
        start, height = stop, 2 * height
    return best


def _largest(indices: Tensor, values: Tensor, count: int) -> Growth:
    """Return the ``count`` largest magnitudes, ties to the lowest index, by increasing index."""
    if bool(values.isnan().any()):
        raise ValueError("a gradient is not a number")
    indices, order = indices.sort()
    values = values[order]
    chosen = values.abs().sort(descending=True, stable=True).indices[:count].sort().values
    return Growth(indices[chosen], values[chosen])
