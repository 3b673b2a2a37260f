"""The choice of normalisation."""

import math
from typing import Literal, TypeAlias

from torch import nn

Norm: TypeAlias = Literal["batch", "group"] | None

# Groups of 4 to 64 channels in our layers. Our choice: Wu and He 2018 take 32 groups, which leaves
# the 32 channels of the CNN's first layer one each.
GROUPS = 8


def normalisation(norm: str, channels: int, dimensions: int) -> nn.Module:
    """Return the normalisation of ``[N, channels]`` or, with 2 dimensions, ``[N, channels, H, W]``.

    ``"group"`` takes ``GROUPS`` groups, and the greatest common divisor of ``GROUPS`` and
    ``channels`` where a width multiplier left a number that cannot be divided so.

    Raises:
        ValueError: if ``norm`` is another one.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    raise ValueError(f"norm must be 'batch', 'group' or None, got {norm!r}")
