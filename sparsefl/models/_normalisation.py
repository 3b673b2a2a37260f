"""The choice of normalisation, and the checks that all models share."""

from typing import Literal, TypeAlias

from torch import nn

Norm: TypeAlias = Literal["batch", "group"] | None

# Groups of 4 to 25 channels in our layers. Our choice: Wu and He 2018 take 32 groups, which leaves
# the 32 channels of the CNN's first layer one each.
GROUPS = 8


def check_sizes(in_shape: tuple[int, int, int], num_classes: int) -> None:
    """Check what every model takes.

    Raises:
        ValueError: if a size is not a positive int.
    """
    sizes = (*in_shape, num_classes)
    if len(in_shape) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            "in_shape must be (channels, height, width) and num_classes a number of classes, got "
            f"{in_shape} and {num_classes}"
        )


def normalisation(norm: str, channels: int, dimensions: int) -> nn.Module:
    """Return the normalisation of ``[N, channels]`` or, with 2 dimensions, ``[N, channels, H, W]``.

    Raises:
        ValueError: if ``norm`` is another one.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels) if dimensions == 2 else nn.BatchNorm1d(channels)
    if norm == "group":
        return nn.GroupNorm(GROUPS, channels)
    raise ValueError(f"norm must be 'batch', 'group' or None, got {norm!r}")
