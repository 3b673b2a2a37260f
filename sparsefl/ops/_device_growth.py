"""``linear_growth`` on devices other than the CPU: a kernel where it is verified, else torch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.ops import _dispatch
from sparsefl.ops._kernel_linear import launcher
from sparsefl.ops._plan import LinearPlan

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
    if _dispatch.growth_kernel(plan.support, device, dtype):
        kinds = {tensor.dtype for pair in pairs for tensor in pair}
        kind = kinds.pop() if len(kinds) == 1 else dtype
        x, grad = (torch.cat([pair[i] for pair in pairs]).to(kind) for i in (0, 1))
        mask = plan.kernels.mask if plan.kernels else None
        mask = mask or MaskPlan.from_mask(plan.support, device)
        indices, values = launcher("linear_growth")(grad, x, mask, count)
    else:
        indices, values = _by_strips(pairs, plan, count, dtype)
    return indices.cpu(), values.cpu()


def _by_strips(
    pairs: Sequence[tuple[Tensor, Tensor]], plan: LinearPlan, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Find them in strips of rows of the dense gradient, of which one is in memory."""
    (out, inner), device = plan.support.shape, pairs[0][0].device
    mask = plan.support.to_numpy_mask()
    indices = torch.empty(0, dtype=torch.int64, device=device)
    values = torch.empty(0, dtype=dtype, device=device)
    height = max(1, _STRIP // max(inner, 1))
    for row in range(0, out, height):
        strip = torch.zeros(min(height, out - row), inner, dtype=dtype, device=device)
        for x, grad in pairs:
            strip.addmm_(grad[:, row : row + height].t().to(dtype), x.to(dtype))
        pruned = torch.from_numpy(np.flatnonzero(~mask[row : row + height])).to(device)
        gradients = strip.view(-1).index_select(0, pruned)
        if bool(gradients.isnan().any()):
            raise ValueError("grad: the weight's gradient is not a number")
        indices, values = _largest(
            torch.cat([indices, pruned + row * inner]), torch.cat([values, gradients]), count
        )
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
