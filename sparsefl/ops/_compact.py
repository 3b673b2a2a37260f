"""Supports of whole rows and columns: dense torch on what they keep.

Where every kept row of a weight keeps the same columns, the kept weights are a smaller dense
weight. The input's kept channels are gathered, torch's dense kernels compute the smaller map, and
its output is spread over all output channels; those that are pruned have the bias alone.
"""

import contextlib
import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsefl.ops._magnitude import Magnitude, kept_weights, stored_gradient
from sparsefl.support import Support


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """The kept rows and columns of a support that is made of such.

    Attributes:
        rows: Kept output channels, ascending, int64; None: all.
        columns: Kept input channels, of all groups, ascending, int64; None: all.
        shape: Of the kept weight, ``[rows, columns of a group, *taps]``.
        source: Stored element of each place of the kept weight in memory, ``[nnz]`` int64.
        place: Place of each stored element, ``[nnz]`` int64.
        channels_last: Whether the kept weight lies channels_last in memory.
    """

    rows: Tensor | None
    columns: Tensor | None
    shape: tuple[int, ...]
    source: Tensor
    place: Tensor
    channels_last: bool = False

    def to(self, device: torch.device, channels_last: bool) -> "Compact":
        """Return it on a device.

        Args:
            device: Where to.
            channels_last: Whether a convolution's kept weight is to lie channels_last there.
        """
        place, last = self.place, channels_last and len(self.shape) == 4
        if last:
            row, inner, *taps = self.shape
            at = torch.arange(len(place)).view(row, math.prod(taps), inner).transpose(1, 2)
            place = at.reshape(-1).index_select(0, place)
        rows, columns = (None if t is None else t.to(device) for t in (self.rows, self.columns))
        source, place = _inverse(place).to(device), place.to(device)
        return Compact(rows, columns, self.shape, source, place, last)

    def weight(self, stored: Tensor, magnitude: Magnitude | None) -> Tensor:
        """Return the kept weight, differentiable by the stored elements.

        Args:
            stored: Values or scores, ``[nnz]``.
            magnitude: That of a sign operator, or None.
        """
        flat: Tensor = _Weight.apply(stored, magnitude, self)
        if not self.channels_last:
            return flat.view(self.shape)
        out, inner, height, width = self.shape
        return flat.view(out, height, width, inner).permute(0, 3, 1, 2)


def compact(support: Support, order: Tensor, groups: int = 1) -> Compact | None:
    """Return the rows and columns that a support keeps; None where it is not made of such.

    None, too, where everything or nothing is kept, and where groups keep different numbers of rows.

    Args:
        support: The kept positions, ``[out, in, *taps]``.
        order: Row-major rank of every stored element, ``[nnz]`` int64, on the CPU.
        groups: Channel groups of a convolution.
    """
    found = _rows_and_columns(support)
    if found is None:
        return None
    rows, columns = found
    out, inner, *taps = support.shape
    in_group = np.bincount(rows // (out // groups), minlength=groups)
    if in_group.min() != in_group.max():
        return None
    of_all = (np.arange(groups)[:, None] * inner + columns).reshape(-1)
    return Compact(
        None if len(rows) == out else torch.from_numpy(rows),
        None if len(columns) == inner else torch.from_numpy(of_all),
        (len(rows), len(columns), *taps),
        _inverse(order),
        order,
    )


def _rows_and_columns(support: Support) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the rows and the columns whose every crossing is kept, and nothing else; or None."""
    indices, taps = support.indices, math.prod(support.shape[2:])
    of_row = support.shape[1] * taps
    if support.nnz in (0, support.numel):
        return None
    kept = int(np.searchsorted(indices, (indices[0] // of_row + 1) * of_row))
    if support.nnz % kept or kept % taps:
        return None
    # Almost every support that is not made of rows and columns is known by its first two rows.
    for lines in (indices[: 2 * kept], indices):
        matrix = lines.reshape(-1, kept)
        rows = matrix[:, 0] // of_row
        if (matrix - (rows * of_row)[:, None] != matrix[0] - rows[0] * of_row).any():
            return None
    places = (matrix[0] - rows[0] * of_row).reshape(-1, taps)
    columns = places[:, 0] // taps
    if (places != columns[:, None] * taps + np.arange(taps)).any():
        return None
    return rows, columns


def _inverse(permutation: Tensor) -> Tensor:
    inverse = torch.empty_like(permutation)
    inverse[permutation] = torch.arange(len(permutation))
    return inverse


def gather(x: Tensor, channels: Tensor | None) -> Tensor:
    """Return some channels (dimension 1) of ``x``, in its memory order; all where None is given."""
    return x if channels is None else _Gather.apply(x, channels)  # type: ignore[no-any-return]


def spread(part: Tensor, channels: Tensor, size: int, bias: Tensor | None) -> Tensor:
    """Return ``size`` channels (dimension 1): those of ``part``, and the bias in all others.

    Args:
        part: Some channels, the bias added to them already, without its gradient.
        channels: Which ones, ascending.
        size: How many there are.
        bias: Of all, or None for zero. It gets the gradient of all channels, those of ``part``
            included.
    """
    return _Spread.apply(part, bias, channels, size)  # type: ignore[no-any-return]


def undisturbed(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return what keeps autocast from casting the operands of a layer."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class _Weight(torch.autograd.Function):
    """The weights of the stored elements in the order of a kept weight in memory."""

    @staticmethod
    def forward(ctx: Any, stored: Tensor, magnitude: Magnitude | None, kept: Compact) -> Tensor:
        ctx.magnitude, ctx.kept = magnitude, kept
        return kept_weights(stored, magnitude).index_select(0, kept.source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return stored_gradient(grad.index_select(0, ctx.kept.place), ctx.magnitude), None, None


class _Gather(torch.autograd.Function):
    """Some channels; torch's own adds their gradients into zeros, in no certain order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: Tensor) -> Tensor:
        ctx.channels, ctx.size = channels, x.shape[1]
        return _gathered(x, channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _spread(grad, ctx.channels, ctx.size, None), None


class _Spread(torch.autograd.Function):
    """Some channels among all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, bias: Tensor | None, channels: Tensor, size: int) -> Tensor:
        ctx.channels = channels
        return _spread(part, channels, size, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_part = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_part = _gathered(grad, ctx.channels)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.sum([d for d in range(grad.dim()) if d != 1])
        return grad_part, grad_bias, None, None


def _gathered(x: Tensor, channels: Tensor) -> Tensor:
    memory = _memory_order(x)
    found = x.permute(memory).index_select(memory.index(1), channels)
    return found.permute(_back(memory))


def _spread(part: Tensor, channels: Tensor, size: int, fill: Tensor | None) -> Tensor:
    memory = _memory_order(part)
    lain, at = part.permute(memory), memory.index(1)
    shape = [size if d == at else length for d, length in enumerate(lain.shape)]
    if fill is None:
        out = lain.new_zeros(shape)
    else:
        along = fill.view([size if d == at else 1 for d in range(lain.dim())])
        out = along.expand(shape).clone(memory_format=torch.contiguous_format)
    return out.index_copy_(at, channels, lain).permute(_back(memory))


# Memory orders that channels are moved in without turning them: row-major, batch-last, and
# channels_last; of a linear layer the first two.
_MEMORY_ORDERS = {2: ((0, 1), (1, 0)), 4: ((0, 1, 2, 3), (1, 2, 3, 0), (0, 2, 3, 1))}


def _memory_order(x: Tensor) -> tuple[int, ...]:
    """Return the dimensions of ``x`` from the outermost in memory to the innermost."""
    orders = _MEMORY_ORDERS[x.dim()]
    return next((order for order in orders if x.permute(order).is_contiguous()), orders[0])


def _back(order: tuple[int, ...]) -> list[int]:
    return [order.index(d) for d in range(len(order))]
