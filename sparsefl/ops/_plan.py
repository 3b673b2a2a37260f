"""Plans: a support sorted the way the kernels walk it, built once a support.

A view cuts the weight's columns into blocks and sorts the kept positions by block, row and column,
so that the part of the operand that a block meets stays in a cache while all rows meet it. A view
of the weight serves the forward pass, one of its transpose the backward. Values are stored in the
order of one of them; the other says where in that order each value lies, so no step permutes
values.
"""

import dataclasses
import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sparsefl.ops import _dispatch
from sparsefl.ops._axis import Axis
from sparsefl.ops._compact import Compact, compact
from sparsefl.ops._dispatch import ByInput, Choice, Layout
from sparsefl.ops._kernel_plan import KernelPlan, kernel_plan
from sparsefl.ops._library import define
from sparsefl.ops._view import View, flat_view
from sparsefl.support import Support

# Columns of a linear block: 128 rows of 64 floats are the 32 KB of a first-level cache.
_LINEAR_BLOCK = 128
# With fewer kept positions in a block's row than this, loading and storing the row's sums, and the
# branch that the end of so short a loop costs, outweigh what the first-level cache saves: a block
# then covers part of what the second-level cache holds.
_IN_FORWARD_ROW = 20.0
_MOST_LINEAR_COLUMNS = 2048
# The backward pass multiplies twice what it loads, so the second-level cache suffices: it is enough
# that a block's row has so many positions, and that the values and their gradients of 128 such
# rows, which the forward pass meets as a square, stay in the first-level cache.
_IN_BACKWARD_ROW = 48.0
_MOST_COLUMNS = 65536
# A convolution's window of a block: as large as a first-level cache, since what the sums push out
# of that costs less than more blocks do; and the most worth spending to give a block's row so many
# kept positions: half as much more for enough of them (2 to 5 % of a forward), and part of what
# the second-level cache holds for the fewest.
_WINDOW_BYTES = 32 * 1024
_WIDER_WINDOWS = ((48 * 1024, 18.0), (256 * 1024, 10.0))
# Up to so many kept weights a channel, a pointwise convolution is faster as one than as a linear
# map of pixels: strips of its rows take any batch (csrc/bindings/conv2d.h).
_MOST_IN_POINTWISE_ROW = 10.0
# Pixels that a dilated kernel may span: a place in a tile's window, at most 25 times as large, is
# counted in elements of 16 lanes and int32.
_MOST_SPAN = 1 << 22
_PIXEL_BYTES = 64

define(
    "plan_forward(Tensor indices, int rows, int columns, int block)"
    " -> (Tensor begin, Tensor index, Tensor order, Tensor work)"
)
define(
    "plan_transposed(Tensor indices, Tensor order, int out, int inner, int groups, int block,"
    " int[] tap_phase, int phases)"
    " -> (Tensor begin, Tensor index, Tensor position, Tensor work)"
)


def _indices(support: Support) -> Tensor:
    if support.nnz >= 2**31:
        raise ValueError(f"support keeps {support.nnz} positions; expected fewer than 2**31")
    # The copy is writable, which torch.from_numpy asks for.
    return torch.from_numpy(support.indices.copy())


def _forward_view(indices: Tensor, rows: int, columns: int, block: int) -> tuple[View, Tensor]:
    begin, index, order, work = torch.ops.sparsefl.plan_forward(indices, rows, columns, block)
    return View(begin, index, None, work, block), order


def _linear_block(columns: int, density: float, wanted: float) -> int:
    """Return the columns of a block whose rows hold about so many ``wanted`` positions."""
    block = _LINEAR_BLOCK * round(wanted / _LINEAR_BLOCK / max(density, 1e-9))
    return max(1, min(columns, max(_LINEAR_BLOCK, min(block, _MOST_LINEAR_COLUMNS))))


class _Views(NamedTuple):
    order: Tensor
    forward: View
    transposed: View


def _linear_views(rows: int, columns: int, support: Support) -> _Views:
    """Build both views of a ``[rows, columns]`` matrix and choose the stored order.

    That is the transposed view's: it writes a gradient where the forward view reads a value, and
    random writes cost more. That of a full support is row-major: its values are the dense weight.
    """
    indices = _indices(support)
    # A full support's values are the dense weight where they lie row-major.
    block = _linear_block(columns, support.density, _IN_FORWARD_ROW)
    if _is_row_major(support):
        block = max(1, min(columns, _MOST_COLUMNS))
    forward, order = _forward_view(indices, rows, columns, block)
    block = _linear_block(rows, support.density, _IN_BACKWARD_ROW)
    begin, index, position, work = torch.ops.sparsefl.plan_transposed(
        indices, order, rows, columns, 1, block, [0], 1
    )
    if _is_row_major(support):
        return _Views(order, forward, View(begin, index, position, work, block))
    at = position.long()
    inverse = torch.empty_like(position)
    inverse[at] = torch.arange(len(at), dtype=position.dtype)
    forward = forward._replace(position=inverse)
    return _Views(order[at], forward, View(begin, index, None, work, block))


PlanT = TypeVar("PlanT", "LinearPlan", "Conv2dPlan")


@dataclasses.dataclass(frozen=True, eq=False)
class LinearPlan:
    """How ``sparse_linear`` and ``sign_linear`` walk a support of shape ``[out, in]``.

    Attributes:
        support: The kept positions.
        order: Row-major rank of every stored value, ``[nnz]`` int64.
        forward: View of the weight.
        transposed: View of its transpose.
        turned: Whether the values are stored in the order of the transpose.
        whole: Whether the stored values are the dense weight, row-major.
        layout: What is chosen where the batch is not known, when a model is compiled for example.
        compact: The kept rows and columns of a support that is made of such.
        choices: The layouts chosen so far, by call (:mod:`sparsefl.ops._dispatch`).
        kernels: What a GPU's kernels read, where some are used.
        host: The plan on the CPU that this one, on another device, was made of.
    """

    support: Support
    order: Tensor = dataclasses.field(init=False)
    forward: View = dataclasses.field(init=False)
    transposed: View = dataclasses.field(init=False)
    turned: bool = dataclasses.field(init=False)
    whole: bool = dataclasses.field(init=False)
    layout: Layout = dataclasses.field(init=False)
    compact: Compact | None = dataclasses.field(init=False)
    choices: ByInput[Choice] = dataclasses.field(init=False, default_factory=ByInput)
    kernels: KernelPlan | None = dataclasses.field(init=False, default=None)
    host: "LinearPlan | None" = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        """Build both views.

        Raises:
            ValueError: if the support is not two-dimensional.
        """
        if len(self.support.shape) != 2:
            raise ValueError(
                f"support covers shape {self.support.shape}, expected [out_features, in_features]"
            )
        _set(self, _linear_views(*self.support.shape, self.support))

    def to(self, device: torch.device | str) -> "LinearPlan":
        """Return the plan with its tensors on ``device``."""
        return _moved(self, device)


def _set(plan: "LinearPlan | Conv2dPlan", views: _Views, groups: int = 1) -> None:
    """Set the fields of a frozen plan that follow from its support."""
    support = plan.support
    whole = _is_row_major(support) and torch.equal(views.order, torch.arange(support.nnz))
    values = {
        **views._asdict(),
        "turned": views.forward.position is not None,
        "whole": whole,
        "layout": _dispatch.layout(support),
        "compact": compact(support, views.order, groups),
    }
    for name, value in values.items():
        object.__setattr__(plan, name, value)


def _is_row_major(support: Support) -> bool:
    """Tell whether the values are to be the dense weight as they lie."""
    full = support.nnz == math.prod(support.shape)
    return full and _dispatch.layout(support) == "dense"


def _moved(plan: PlanT, device: torch.device | str) -> PlanT:
    device = torch.device(device)
    if plan.order.device == device:
        return plan
    host: PlanT = plan.host or plan  # type: ignore[assignment]
    return host if device.type == "cpu" else on_device(host, device)


def on_device(host: PlanT, device: torch.device) -> PlanT:
    """Return a plan made of one on the CPU, as the device walks it."""
    moved = object.__new__(type(host))
    moved.__dict__.update(host.__dict__)
    forward, transposed, turned = host.forward, host.transposed, host.turned
    if _dispatch.accelerated(device):
        turned = turned and len(host.support.shape) == 2
        forward = transposed = flat_view(host.support, host.order, turned=turned)
    moved.__dict__.update(
        order=host.order.to(device),
        forward=forward.to(device),
        transposed=transposed.to(device),
        turned=turned,
        compact=host.compact and host.compact.to(device, channels_last=True),
        choices=ByInput(),
        host=host,
    )
    if isinstance(moved, Conv2dPlan):
        moved.__dict__["calls"] = ByInput()  # those of the plan hold its tensors
    moved.__dict__["kernels"] = kernel_plan(host, device)
    return moved


def _block_channels(
    axes: tuple[Axis, Axis], channels: int, density: float, *, transposed: bool
) -> int:
    taps = axes[0].kernel * axes[1].kernel
    pixels = axes[0].window(transposed=transposed) * axes[1].window(transposed=transposed)
    channel_bytes = pixels * _PIXEL_BYTES
    phases = axes[0].stride * axes[1].stride if transposed else 1
    in_channel = max(taps * density / phases, 1e-9)  # kept positions of a row
    most = max(1, _WINDOW_BYTES // channel_bytes)
    for window_bytes, wanted in _WIDER_WINDOWS:
        most = max(most, min(int(wanted / in_channel), window_bytes // channel_bytes))
    most = min(most, _MOST_COLUMNS // taps)
    # Blocks of one size: a last one of few channels would load and store all sums for little.
    return max(1, math.ceil(channels / math.ceil(max(channels, 1) / most)))


@dataclasses.dataclass(frozen=True, eq=False)
class Conv2dPlan:
    """How ``sparse_conv2d`` and ``sign_conv2d`` walk a support of ``[out, in / groups, kh, kw]``.

    Attributes:
        support: The kept positions.
        stride: Vertical and horizontal step.
        padding: Zero padding on both sides, or ``"same"`` (torch's: the odd pixel goes last).
        dilation: Distance between taps.
        groups: Channel groups.
        order: Row-major rank of every stored value, ``[nnz]`` int64.
        forward: View of the weight as ``[out, in / groups * kh * kw]``.
        transposed: View of its transpose, one phase for each residue of the stride.
        turned: Whether the values are stored in the order of the transpose.
        whole: Whether the stored values are the dense weight, row-major.
        layout: What is chosen where the batch is not known, when a model is compiled for example.
        axes: The vertical and the horizontal one.
        pointwise: Whether this is a linear map of every pixel's channels.
        linear: Whether the linear operators compute it.
        compact: The kept rows and columns of a support that is made of such.
        choices: The layouts chosen so far, by call (:mod:`sparsefl.ops._dispatch`).
        calls: What is told the operators, by input (:mod:`sparsefl.ops._conv2d_call`).
        kernels: What a GPU's kernels read, where some are used.
        host: The plan on the CPU that this one, on another device, was made of.
    """

    support: Support
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    order: Tensor = dataclasses.field(init=False)
    forward: View = dataclasses.field(init=False)
    transposed: View = dataclasses.field(init=False)
    turned: bool = dataclasses.field(init=False)
    whole: bool = dataclasses.field(init=False)
    layout: Layout = dataclasses.field(init=False)
    compact: Compact | None = dataclasses.field(init=False)
    axes: tuple[Axis, Axis] = dataclasses.field(init=False)
    pointwise: bool = dataclasses.field(init=False)
    linear: bool = dataclasses.field(init=False)
    choices: ByInput[Choice] = dataclasses.field(init=False, default_factory=ByInput)
    calls: ByInput[Any] = dataclasses.field(init=False, default_factory=ByInput)
    kernels: KernelPlan | None = dataclasses.field(init=False, default=None)
    host: "Conv2dPlan | None" = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        """Check the geometry and build both views.

        Raises:
            TypeError: if an extent is no tuple.
            ValueError: if the support is not four-dimensional, ``groups`` does not divide its
                output channels, an extent is out of range, or ``padding="same"`` meets a stride.
        """
        self._check_types()
        self._check()
        object.__setattr__(self, "axes", self._axes())
        object.__setattr__(self, "pointwise", self._pointwise())
        channels = (self.support.shape[0] + self.support.shape[1]) / 2
        few = self.support.nnz <= _MOST_IN_POINTWISE_ROW * channels
        object.__setattr__(self, "linear", self.pointwise and not few)
        _set(self, self._views(), self.groups)

    def _views(self) -> _Views:
        out, inner, kh, kw = self.support.shape
        if self.linear:
            return _linear_views(out, inner, self.support)
        axes = self.axes
        indices = _indices(self.support)
        block = self._block(inner, transposed=False)
        forward, order = _forward_view(indices, out, inner * kh * kw, block)
        block = self._block(out // self.groups, transposed=True)
        phases = [
            axes[0].phase(y) * axes[1].stride + axes[1].phase(x)
            for y in range(kh)
            for x in range(kw)
        ]
        begin, index, position, work = torch.ops.sparsefl.plan_transposed(
            indices,
            order,
            out,
            inner,
            self.groups,
            block,
            phases,
            axes[0].stride * axes[1].stride,
        )
        return _Views(order, forward, View(begin, index, position, work, block))

    def _block(self, channels: int, *, transposed: bool) -> int:
        density = self.support.density
        taps = self.support.shape[2] * self.support.shape[3]
        if _is_row_major(self.support):
            return taps * max(1, min(channels, _MOST_COLUMNS // taps))
        return taps * _block_channels(self.axes, channels, density, transposed=transposed)

    def _check_types(self) -> None:
        for name in ("stride", "padding", "dilation"):
            given = getattr(self, name)
            if not isinstance(given, (tuple, str)):
                raise TypeError(f"{name}: expected a tuple, got {type(given).__name__}")

    def _check(self) -> None:
        shape = self.support.shape
        if len(shape) != 4:
            raise ValueError(
                f"support covers shape {shape}, expected [out_channels, in_channels / groups, "
                "kernel_height, kernel_width]"
            )
        if self.groups < 1 or shape[0] % self.groups:
            raise ValueError(f"groups={self.groups} does not divide out_channels={shape[0]}")
        for name, values in (("stride", self.stride), ("dilation", self.dilation)):
            if len(values) != 2 or min(values) < 1:
                raise ValueError(f"{name}={values}: expected two integers of at least 1")
        if isinstance(self.padding, str):
            if self.padding != "same":
                raise ValueError(f"padding={self.padding!r}: expected two integers or 'same'")
            if self.stride != (1, 1):
                raise ValueError(f"padding='same' needs stride 1, got stride={self.stride}")
        elif len(self.padding) != 2 or min(self.padding) < 0:
            raise ValueError(f"padding={self.padding}: expected two integers of at least 0")
        self._check_kernel()

    def _check_kernel(self) -> None:
        kh, kw = self.support.shape[2:]
        if not 1 <= kh * kw <= _MOST_COLUMNS:
            raise ValueError(f"support's kernel is {kh}x{kw}: expected 1 to {_MOST_COLUMNS} taps")
        height, width = (d * (k - 1) + 1 for d, k in zip(self.dilation, (kh, kw), strict=True))
        if height * width > _MOST_SPAN:
            raise ValueError(
                f"dilation={self.dilation} spreads the kernel over {height}x{width} pixels, "
                f"expected at most {_MOST_SPAN} in all"
            )

    def _axes(self) -> tuple[Axis, Axis]:
        """Return the vertical and the horizontal axis."""
        _, _, kh, kw = self.support.shape
        pads = (None, None) if isinstance(self.padding, str) else self.padding
        return (
            Axis(kh, self.stride[0], pads[0], self.dilation[0]),
            Axis(kw, self.stride[1], pads[1], self.dilation[1]),
        )

    def _pointwise(self) -> bool:
        """Tell whether this is a linear map of every pixel's channels."""
        plain = self.stride == (1, 1) and self.padding in ((0, 0), "same") and self.groups == 1
        return plain and self.support.shape[2:] == (1, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the output extents of an input of ``height`` x ``width`` pixels."""
        return self.axes[0].output(height), self.axes[1].output(width)

    def geometry(self, height: int, width: int) -> list[int]:
        """Return the operators' ``geometry`` argument (csrc/bindings/ops_conv2d.cpp)."""
        out, inner, kh, kw = self.support.shape
        y, x = self.axes
        return [
            *(out, inner * self.groups, self.groups),
            *(height, width, *self.output_size(height, width), kh, kw),
            *(y.stride, x.stride, y.pad_total()[0], x.pad_total()[0], y.dilation, x.dilation),
        ]

    def to(self, device: torch.device | str) -> "Conv2dPlan":
        """Return the plan with its tensors on ``device``."""
        return _moved(self, device)
