"""``linear_growth``, ``conv2d_growth``: the largest weight gradients where a layer is pruned.

The dense gradient never exists: tiles of it are computed into one scratch, and a kernel keeps of
each what may still be among the largest.

Source: progressive pruning of FedTiny (Huang et al. 2022, arXiv 2212.01977), whose clients upload
the top gradients of inactive weights and must not hold them all.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsefl.ops import _device_growth, _dispatch
from sparsefl.ops._autograd import SHORT
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._plan import Conv2dPlan, LinearPlan
from sparsefl.support import Support

# Elements of a tile: 1 MB of float32, what a second-level cache holds; and the most rows of it.
_TILE = 1 << 18
_TILE_ROWS = 512
# Elements of a convolution's windows that meet a tile at a time.
_WINDOWS = 1 << 19
# Positions that a candidate of float32 has room for (csrc/cpu/growth.h).
_MOST_POSITIONS = 1 << 32
# Columns of a tile below which a product with it would read more than it computes.
_LEAST_COLUMNS = 128
# Candidates held beyond twice those wanted: thinning so few would take its time from the calls.
_LEAST_HELD = 1 << 12

define(
    "growth_collect(Tensor tile, Tensor kept, int first, int step, int count, Tensor(a!) held,"
    " Tensor(b!) state) -> ()"
)
define("growth_take(Tensor(a!) held, Tensor(b!) state, Tensor like, int count) -> (Tensor, Tensor)")


class Growth(NamedTuple):
    """The largest gradients among the pruned positions of a weight.

    Attributes:
        indices: Their flat row-major positions, ``[count]`` int64, increasing.
        values: The gradients there, ``[count]``, with their signs.
    """

    indices: Tensor
    values: Tensor


class Call(NamedTuple):
    """One use of a layer: its input and the gradient of its output."""

    x: Tensor
    grad: Tensor


@torch.no_grad()
def linear_growth(calls: Sequence[Call], plan: LinearPlan, count: int) -> Growth:
    """Find the ``count`` largest ``|g|`` off the support, ``g = sum over calls of grad.T @ x``.

    Equal magnitudes go to the lowest index. Memory is a tile of 1 MB and 16 bytes a candidate, of
    at most ``max(2 * count, count + 4096)`` (twice as much in float64); the time is that of the
    dense weight gradient and a pass over each tile while it is in the caches. On a GPU a kernel
    filters tiles in registers where it is verified; else strips of 64 MB are made.

    Args:
        calls: Inputs ``[N, in_features]`` and gradients of the outputs ``[N, out_features]``,
            float32, float64, bfloat16 or float16 (summed in float32), any strides; several where a
            layer is used several times.
        plan: Of the layer.
        count: How many, at most the pruned positions.

    Returns:
        Positions and gradients on the CPU, float64 where an input is, else float32.

    Raises:
        TypeError: if an operand is no floating-point tensor, or ``count`` no int.
        ValueError: if a shape or device does not fit, ``count`` is out of range, or a gradient is
            not a number.
    """
    out, inner = plan.support.shape
    dtype = _check(calls, (inner,), (out,), plan.support, count, plan.order.device)
    if count == 0:
        return _nothing(dtype)
    if _dispatch.accelerated(plan.order.device):
        return Growth(*_device_growth.linear_growth(calls, plan, count, dtype))
    pairs = [(call.x.to(dtype), call.grad.to(dtype)) for call in calls]
    found = _Candidates(plan.support, count, dtype)
    rows = min(out, _TILE_ROWS)
    columns = max(1, _TILE // max(rows, 1))
    for row in range(0, out, rows):
        for column in range(0, inner, columns):
            height, width = min(rows, out - row), min(columns, inner - column)
            tile = found.tile(height, width)
            for x, grad in pairs:
                tile.addmm_(grad[:, row : row + height].t(), x[:, column : column + width])
            found.collect(tile, row * inner + column)
    return found.take()


@torch.no_grad()
def conv2d_growth(calls: Sequence[Call], plan: Conv2dPlan, count: int) -> Growth:
    """Find the ``count`` largest ``|g|`` off the support, ``g`` the dense weight's gradient.

    ``g[o, c, r, s] = sum over calls, n, p, q of grad[n, o, p, q] * x[n, c, p * u + r * d - m, q * u
    + s * d - m]`` with stride ``u``, dilation ``d`` and padding ``m``. As :func:`linear_growth`,
    with a scratch of about 2 MB more for windows of the input; on a GPU by strips.

    Args:
        calls: Inputs ``[N, C, H, W]`` and gradients of the outputs ``[N, O, OH, OW]``.
        plan: Of the layer.
        count: How many, at most the pruned positions.

    Returns:
        Positions and gradients on the CPU, float64 where an input is, else float32.

    Raises:
        TypeError: if an operand is no floating-point tensor, or ``count`` no int.
        ValueError: if a shape or device does not fit, ``count`` is out of range, or a gradient is
            not a number.
    """
    out, inner, kh, kw = plan.support.shape
    sizes = ((inner * plan.groups, None, None), (out, None, None))
    dtype = _check(calls, *sizes, plan.support, count, plan.order.device)
    _check_images(calls, plan)
    if count == 0:
        return _nothing(dtype)
    if _dispatch.accelerated(plan.order.device):
        return Growth(*_device_growth.conv2d_growth(calls, plan, count, dtype))
    found = _Candidates(plan.support, count, dtype)
    taps, in_group = kh * kw, out // plan.groups
    rows = min(in_group, _TILE_ROWS, max(1, _TILE // taps))
    channels = max(1, min(inner, _TILE // max(rows * taps, 1), _most_channels(calls, taps)))
    scratch = torch.empty(0, dtype=dtype)
    for group in range(plan.groups):
        for row in range(group * in_group, (group + 1) * in_group, rows):
            for channel in range(0, inner, channels):
                height = min(rows, (group + 1) * in_group - row)
                width = min(channels, inner - channel)
                tile = found.tile(height, width * taps)
                first = group * inner + channel
                for call in calls:
                    for part in _parts(call, plan, width * taps):
                        windows, scratch = _windows(call.x, plan, first, width, part, scratch)
                        tile.addmm_(_gradients(call.grad, row, height, part, dtype), windows.t())
                found.collect(tile, (row * inner + channel) * taps)
    return found.take()


class _Candidates:
    """What may be among the largest of the tiles so far."""

    def __init__(self, support: Support, count: int, dtype: torch.dtype) -> None:
        self.count = count
        self.step = math.prod(support.shape[1:])
        # The copy is writable, which torch.from_numpy asks for.
        self.kept = torch.from_numpy(support.packed.copy())
        words = dtype.itemsize // 4
        self.held = torch.empty(max(2 * count, count + _LEAST_HELD) * words, dtype=torch.int64)
        self.state = torch.zeros(3, dtype=torch.int64)
        self.scratch = torch.empty(min(_TILE, support.numel), dtype=dtype)

    def tile(self, rows: int, columns: int) -> Tensor:
        """Return a tile of zeros, the memory of all."""
        if rows * columns > self.scratch.numel():
            self.scratch = self.scratch.new_empty(rows * columns)
        return self.scratch[: rows * columns].view(rows, columns).zero_()

    def collect(self, tile: Tensor, first: int) -> None:
        """Keep of a tile what may be wanted; its first element is at position ``first``."""
        torch.ops.sparsefl.growth_collect.default(
            tile, self.kept, first, self.step, self.count, self.held, self.state
        )

    def take(self) -> Growth:
        """Return the largest.

        Raises:
            ValueError: if a gradient is not a number.
        """
        if self.state[2]:
            raise ValueError("grad: the weight's gradient is not a number")
        taken = torch.ops.sparsefl.growth_take.default(
            self.held, self.state, self.scratch, self.count
        )
        return Growth(*taken)


def _nothing(dtype: torch.dtype) -> Growth:
    return Growth(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=dtype))


class _Part(NamedTuple):
    """Samples and rows of the output that are taken together, and whether samples lie innermost."""

    samples: slice
    rows: slice
    batch_last: bool


def _check(
    calls: Sequence[Call],
    x_size: Sequence[int | None],
    grad_size: Sequence[int | None],
    support: Support,
    count: int,
    device: torch.device,
) -> torch.dtype:
    """Check operands and count; return the dtype to sum in.

    Args:
        calls: The operands.
        x_size: Sizes of an input after the batch; None: any.
        grad_size: Sizes of an output's gradient.
        support: Of the layer.
        count: How many gradients are wanted.
        device: Where the operands are to be.
    """
    if not calls:
        raise ValueError("calls: expected at least one")
    for x, grad in calls:
        _check_operand("x", x, x_size, device)
        _check_operand("grad", grad, grad_size, device)
        if x.shape[0] != grad.shape[0]:
            raise ValueError(f"grad: expected {x.shape[0]} samples, got {grad.shape[0]}")
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count: expected an int, got {type(count).__name__}")
    pruned = support.numel - support.nnz
    if not 0 <= count <= pruned:
        raise ValueError(f"count: expected 0 to {pruned}, the pruned positions, got {count}")
    double = any(t.dtype == torch.float64 for call in calls for t in call)
    if support.numel > _MOST_POSITIONS and not double:
        raise ValueError(
            f"support covers {support.numel} positions, expected at most {_MOST_POSITIONS}"
        )
    return torch.float64 if double else torch.float32


def _check_operand(
    name: str, tensor: Tensor, size: Sequence[int | None], device: torch.device
) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in (torch.float32, torch.float64, *SHORT):
        raise TypeError(
            f"{name}: expected float32, float64, bfloat16 or float16, got {tensor.dtype}"
        )
    if tensor.device != device:
        where = "the CPU" if device.type == "cpu" else f"{device}, as the layer is"
        raise ValueError(f"{name}: expected a tensor on {where}, got {tensor.device}")
    fits = tensor.dim() == 1 + len(size) and all(
        expected in (None, got) for expected, got in zip(size, tensor.shape[1:], strict=True)
    )
    if not fits:
        shown = ", ".join("any" if n is None else str(n) for n in size)
        raise ValueError(f"{name}: expected [N, {shown}], got {list(tensor.shape)}")


def _check_images(calls: Sequence[Call], plan: Conv2dPlan) -> None:
    for x, grad in calls:
        size = plan.output_size(*x.shape[2:])
        if tuple(grad.shape[2:]) != size:
            raise ValueError(
                f"grad: expected {size[0]}x{size[1]} pixels of x {list(x.shape)}, got "
                f"{list(grad.shape)}"
            )


def _most_channels(calls: Sequence[Call], taps: int) -> int:
    """Return of how many channels the scratch holds the windows of a row of all samples.

    No fewer than make a product worth its time.
    """
    row = max(grad.shape[0] * grad.shape[3] for _, grad in calls)
    return max(_WINDOWS // max(row * taps, 1), _LEAST_COLUMNS // taps, 1)


def _parts(call: Call, plan: Conv2dPlan, columns: int) -> Iterator[_Part]:
    """Cut a call into parts whose windows are about as many elements as the scratch holds."""
    batch, _, height, width = call.grad.shape
    batch_last = call.grad.stride(0) == 1 and batch > 1
    pixels = max(1, _WINDOWS // columns)
    if batch_last:
        samples = max(1, min(batch, pixels // max(width, 1)))
        rows = max(1, min(height, pixels // max(samples * width, 1)))
    else:
        rows = max(1, min(height, pixels // max(width, 1)))
        samples = max(1, min(batch, pixels // max(rows * width, 1)))
    for row in range(0, height, rows):
        for sample in range(0, batch, samples):
            yield _Part(
                slice(sample, min(sample + samples, batch)),
                slice(row, min(row + rows, height)),
                batch_last,
            )


def _gradients(grad: Tensor, row: int, rows: int, part: _Part, dtype: torch.dtype) -> Tensor:
    """Return the output's gradient of a part, ``[rows, its samples and pixels]``."""
    cut = grad[part.samples, row : row + rows, part.rows]
    order = (1, 2, 3, 0) if part.batch_last else (1, 0, 2, 3)
    return cut.permute(order).reshape(rows, -1).to(dtype)


def _windows(
    x: Tensor, plan: Conv2dPlan, channel: int, channels: int, part: _Part, scratch: Tensor
) -> tuple[Tensor, Tensor]:
    """Gather what each weight column meets in a part: ``[channels * taps, samples and pixels]``.

    Returns:
        The windows, and the scratch that holds them.
    """
    kh, kw = plan.support.shape[2:]
    pixels, width = part.rows.stop - part.rows.start, plan.axes[1].output(x.shape[3])
    x = x[part.samples, channel : channel + channels]
    samples = x.shape[0]
    # Places of the rows and the columns of pixels in the part.
    x, size, at = (
        (x.permute(1, 2, 3, 0), (pixels, width, samples), 1)
        if part.batch_last
        else (x.transpose(0, 1), (samples, pixels, width), 2)
    )
    numel = channels * kh * kw * math.prod(size)
    if numel > scratch.numel():
        scratch = scratch.new_empty(numel)
    windows = scratch[:numel].view(channels, kh, kw, *size)
    for r in range(kh):
        to_rows, from_rows = _meets(plan, 0, r, part.rows, x.shape[at])
        for s in range(kw):
            to_columns, from_columns = _meets(plan, 1, s, slice(0, width), x.shape[at + 1])
            tap = windows[:, r, s]
            inside = _zero_around(_zero_around(tap, at, to_rows), at + 1, to_columns)
            lead = (slice(None),) * at
            inside.copy_(x[(*lead, from_rows, from_columns)])
    return windows.view(channels * kh * kw, -1), scratch


def _zero_around(tensor: Tensor, dimension: int, places: slice) -> Tensor:
    """Zero a tensor before and after some places of a dimension; return what lies at them."""
    begin, end, size = places.start, places.stop, tensor.shape[dimension]
    if begin > 0:
        tensor.narrow(dimension, 0, begin).zero_()
    if end < size:
        tensor.narrow(dimension, end, size - end).zero_()
    return tensor.narrow(dimension, begin, end - begin)


def _meets(plan: Conv2dPlan, axis: int, tap: int, pixels: slice, size: int) -> tuple[slice, slice]:
    """Return which of the output's ``pixels`` meet the input at a tap, from the first on, and it.

    Args:
        plan: The convolution.
        axis: 0 for rows, 1 for columns.
        tap: The kernel's.
        pixels: Of the output.
        size: Of the input.
    """
    along = plan.axes[axis]
    offset = tap * along.dilation - along.pad_total()[0]
    begin = max(pixels.start, -(offset // along.stride))
    end = min(pixels.stop, (size - 1 - offset) // along.stride + 1)
    if end <= begin:
        return slice(0, 0), slice(0, 0)
    first = begin * along.stride + offset
    last = (end - 1) * along.stride + offset
    return (
        slice(begin - pixels.start, end - pixels.start),
        slice(first, last + 1, along.stride),
    )


@torch.library.register_fake("sparsefl::growth_collect", lib=LIBRARY)
def _(tile: Tensor, *others: Any) -> None:
    return None


@torch.library.register_fake("sparsefl::growth_take", lib=LIBRARY)
def _(held: Tensor, state: Tensor, like: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return held.new_empty(count), like.new_empty(count)
