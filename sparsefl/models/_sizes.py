"""The checks of sizes that all models share, and how a width multiplier scales them."""

import math

Shape = tuple[int, int, int]


def check_sizes(in_shape: Shape, num_classes: int, least_side: int = 1) -> None:
    """Check what every model takes.

    Args:
        in_shape: Channels, height and width of an image.
        num_classes: Size of the output.
        least_side: Smallest height and width that leave the model's last layer something.

    Raises:
        ValueError: if a size is not a positive int, or an image is too small.
    """
    sizes = (*in_shape, num_classes)
    if len(in_shape) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            "in_shape must be (channels, height, width) and num_classes a number of classes, got "
            f"{in_shape} and {num_classes}"
        )
    if min(in_shape[1:]) < least_side:
        raise ValueError(f"in_shape must be at least {least_side} by {least_side}, got {in_shape}")


def scaled(units: int, width: float) -> int:
    """Return ``width * units`` rounded to a whole number of units, at least 1.

    Raises:
        TypeError: if ``width`` is not a number.
        ValueError: if it is not positive and finite.
    """
    if isinstance(width, bool) or not isinstance(width, int | float):
        raise TypeError(f"width must be a number, got {type(width).__name__}")
    if not 0 < width < math.inf:
        raise ValueError(f"width must be positive and finite, got {width}")
    return max(1, round(width * units))
