"""``gated_conv2d`` by its formula in plain torch, for devices without kernels that skip channels.

Nothing synchronises, so that a step can be captured in a CUDA graph.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from sparsefl.ops._autograd import SHORT
from sparsefl.ops._gated_types import (
    GatedGeometry,
    GatedOptions,
    GatedTensors,
    Result,
    Statistics,
)
from sparsefl.reference import gated_moments, gated_norm, gates


def gated_formula(
    x: Tensor,
    tensors: GatedTensors,
    geometry: GatedGeometry,
    options: GatedOptions,
    running: tuple[Tensor, Tensor] | None,
) -> Result:
    """Compute what :func:`sparsefl.ops.gated_conv2d` does with all channels, then close the gates.

    Under autocast the convolution alone takes its dtype: gates are compared and statistics summed
    in float32, and the result is rounded to the convolution's dtype.
    """
    weight, bias, gate_weight, gate_bias, norm_weight, norm_bias = tensors
    with torch.autocast(x.device.type, enabled=False):
        opened = gates(x, gate_weight, gate_bias, options.kept, options.sigmoid)
    z = conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation)
    dtype = z.dtype
    with torch.autocast(x.device.type, enabled=False):
        z = z.float() if dtype in SHORT else z
        statistics = None
        if running is None:
            mean, variance, count = gated_moments(z, opened, options.all_samples)
            planes = (count.detach() / (z.shape[2] * z.shape[3])).round().long()
            statistics = Statistics(mean.detach(), variance.detach(), planes)
            running = (mean, variance)
        y = gated_norm(
            z, opened, norm_weight, norm_bias, running, eps=options.eps, relu=options.relu
        )
    return y.to(dtype), opened.detach() > 0, statistics
