"""Growth on devices other than the CPU: a kernel where it is verified, else torch, by strips."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sparsefl.kernels.conv2d_plan import Geometry
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.ops import _passes
from sparsefl.ops._conv2d import evenly_padded
from sparsefl.ops._kernel_weight import launcher
from sparsefl.ops._plan import Conv2dPlan, LinearPlan
from sparsefl.support import Support

# Elements of a strip of the dense gradient that torch computes at a time: 64 MB of float32.
_STRIP = 1 << 24


def linear_growth(
    pairs: Sequence[tuple[Tensor, Tensor]], plan: LinearPlan, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return positions and gradients of :func:`sparsefl.ops.linear_growth`, on the CPU.

    They are few, and are sent. Waits for the device.

    Args:
        pairs: Checked inputs and gradients of the outputs.
        plan: Of the layer.
        count: How many, at least one.
        dtype: To sum in.

    Raises:
        ValueError: if a gradient is not a number.
    """
    device = pairs[0][0].device
    kernel = _passes.growth_kernel(plan.support, device, dtype)
    if kernel is not None:
        x, grad = _joined(pairs, dtype)
        mask = plan.kernels.mask if plan.kernels else None
        mask = mask or MaskPlan.from_mask(plan.support, device)
        indices, values = launcher(kernel)(grad, x, mask, count)
    else:
        indices, values = _by_strips(_linear_strips(pairs, plan, dtype), plan.support, count)
    return indices.cpu(), values.cpu()


def conv2d_growth(
    pairs: Sequence[tuple[Tensor, Tensor]], plan: Conv2dPlan, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return positions and gradients of :func:`sparsefl.ops.conv2d_growth`, on the CPU.

    Arguments and errors are those of :func:`linear_growth`.
    """
    device = pairs[0][0].device
    kernel = _passes.growth_kernel(plan.support, device, dtype)
    # Images of one size are as one batch.
    alike = len({x.shape[1:] for x, _ in pairs}) == 1
    if kernel is not None and plan.groups == 1 and alike:
        x, grad = _joined(pairs, dtype)
        x, padding = evenly_padded(x, plan)
        kernel_size = (plan.support.shape[2], plan.support.shape[3])
        geometry = Geometry(kernel_size, plan.stride, padding, plan.dilation)
        mask = MaskPlan.from_mask(plan.support, device)
        indices, values = launcher(kernel)(grad, x, mask, geometry, count)
    else:
        indices, values = _by_strips(_conv2d_strips(pairs, plan, dtype), plan.support, count)
    return indices.cpu(), values.cpu()


def _joined(pairs: Sequence[tuple[Tensor, Tensor]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the calls of a layer as one: in their dtype, or where that differs in ``dtype``."""
    kinds = {tensor.dtype for pair in pairs for tensor in pair}
    kind = kinds.pop() if len(kinds) == 1 else dtype
    x, grad = (torch.cat([pair[i].to(kind) for pair in pairs]) for i in (0, 1))
    return x, grad


def _linear_strips(
    pairs: Sequence[tuple[Tensor, Tensor]], plan: LinearPlan, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield the dense gradient in strips of rows, ``[rows, in_features]``."""
    (out, inner), device = plan.support.shape, pairs[0][0].device
    height = max(1, _STRIP // max(inner, 1))
    for row in range(0, out, height):
        strip = torch.zeros(min(height, out - row), inner, dtype=dtype, device=device)
        for x, grad in pairs:
            strip.addmm_(grad[:, row : row + height].t().to(dtype), x.to(dtype))
        yield strip


def _conv2d_strips(
    pairs: Sequence[tuple[Tensor, Tensor]], plan: Conv2dPlan, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield the dense gradient in strips of output channels, ``[rows, in / groups, kh, kw]``."""
    out, *size = plan.support.shape
    inner, in_group = size[0], out // plan.groups
    height = max(1, _STRIP // max(math.prod(size), 1))
    padded = [evenly_padded(x.to(dtype), plan) for x, _ in pairs]
    for row in (
        row for first in range(0, out, in_group) for row in range(first, first + in_group, height)
    ):
        group = row // in_group
        rows = slice(row, min(row + height, (group + 1) * in_group))
        channels = slice(group * inner, (group + 1) * inner)
        shape = (rows.stop - rows.start, *size)
        strip = torch.zeros(shape, dtype=dtype, device=pairs[0][0].device)
        for (x, padding), (_, grad) in zip(padded, pairs, strict=True):
            strip += torch.ops.aten.convolution_backward.default(
                grad[:, rows].to(dtype),
                x[:, channels],
                x.new_empty(1).expand(shape),  # only asked for its shape
                None,
                plan.stride,
                padding,
                plan.dilation,
                False,
                (0, 0),
                1,
                (False, True, False),
            )[1]
        yield strip


def _by_strips(strips: Iterator[Tensor], support: Support, count: int) -> tuple[Tensor, Tensor]:
    """Find the largest in the strips of the dense gradient, of which one is in memory."""
    mask, first = support.to_numpy_mask().reshape(-1), 0
    indices, values = torch.empty(0, dtype=torch.int64), torch.empty(0)
    for strip in strips:
        pruned = torch.from_numpy(np.flatnonzero(~mask[first : first + strip.numel()]))
        pruned = pruned.to(strip.device)
        gradients = strip.view(-1).index_select(0, pruned)
        if bool(gradients.isnan().any()):
            raise ValueError("grad: the weight's gradient is not a number")
        if first == 0:
            indices, values = indices.to(pruned), values.to(gradients)
        indices, values = _largest(
            torch.cat([indices, pruned + first]), torch.cat([values, gradients]), count
        )
        first += strip.numel()
    return indices, values


def _largest(indices: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest magnitudes of increasing indices, ties to the lowest index."""
    if values.numel() <= count:
        return indices, values
    magnitudes = values.abs()
    least = magnitudes.topk(count).values[-1]
    among = (magnitudes >= least).nonzero().flatten()
    order = magnitudes[among].sort(descending=True, stable=True).indices[:count]
    chosen = among[order].sort().values
    return indices[chosen], values[chosen]
