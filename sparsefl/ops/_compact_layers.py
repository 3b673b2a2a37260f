"""Linear maps and convolutions through dense torch on the kept rows and columns of a support."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

from sparsefl.ops._compact import Compact, gather, spread, undisturbed
from sparsefl.ops._conv2d import evenly_padded
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import Conv2dPlan, LinearPlan
from sparsefl.ops.batch_last import row_major


def compact_linear(
    x: Tensor, stored: Tensor, bias: Tensor | None, magnitude: Magnitude | None, plan: LinearPlan
) -> Tensor:
    """Return the map ``[N, in] -> [N, out]``, in the memory order of ``x``."""
    kept = held(plan)
    with undisturbed(x):
        part, weight = gather(x, kept.columns), kept.weight(stored, magnitude)
        own = _own_bias(bias, kept)
        if part.shape[0] > 1 and part.t().is_contiguous():
            y = (
                weight @ part.t() if own is None else torch.addmm(own[:, None], weight, part.t())
            ).t()
        else:
            y = linear(part, weight, own)
        return _whole(y, bias, kept, plan)


def compact_conv2d(
    x: Tensor, stored: Tensor, bias: Tensor | None, magnitude: Magnitude | None, plan: Conv2dPlan
) -> Tensor:
    """Return the convolution ``[N, C, H, W] -> [N, O, P, Q]``, in torch's memory order."""
    kept = held(plan)
    with undisturbed(x):
        part, padding = evenly_padded(gather(x, kept.columns), plan)
        if part.permute(1, 2, 3, 0).is_contiguous():
            part = row_major(part)  # torch would copy it itself, more slowly
        weight = kept.weight(stored, magnitude)
        own = _own_bias(bias, kept)
        y = conv2d(part, weight, own, plan.stride, padding, plan.dilation, plan.groups)
        return _whole(y, bias, kept, plan)


def held(plan: LinearPlan | Conv2dPlan) -> Compact:
    """Return the rows and columns of a plan that has them."""
    assert plan.compact is not None
    return plan.compact


def _own_bias(bias: Tensor | None, kept: Compact) -> Tensor | None:
    """Return the bias of the kept rows; where some are not kept, ``spread`` gives its gradient."""
    if bias is None or kept.rows is None:
        return bias
    return bias.detach().index_select(0, kept.rows)


def _whole(y: Tensor, bias: Tensor | None, kept: Compact, plan: LinearPlan | Conv2dPlan) -> Tensor:
    return y if kept.rows is None else spread(y, kept.rows, plan.support.shape[0], bias)
