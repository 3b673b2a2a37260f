"""``gated_update`` on CUDA devices, in plain torch."""

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY


def gated_update(
    running_mean: Tensor,
    running_variance: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    pixels: int,
    momentum: float,
) -> None:
    """Move running statistics in place, as :func:`sparsefl.ops.update_running` says.

    Args:
        running_mean: ``[C]``.
        running_variance: ``[C]``, unbiased.
        mean: Of the batch, ``[C]``.
        variance: Of the batch, biased, ``[C]``.
        count: Planes that they are of, ``[C]`` int64.
        pixels: Of a plane.
        momentum: Share of the batch's.
    """
    values = count * pixels
    unbiased = variance * values / (values - 1).clamp(min=1)
    for running, target, least in ((running_mean, mean, 1), (running_variance, unbiased, 2)):
        moved = running.lerp(target.to(running.dtype), momentum)
        running.copy_(torch.where(values >= least, moved, running))


LIBRARY.impl("gated_update", gated_update, "CUDA")
