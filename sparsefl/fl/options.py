"""Numbers that a user sets, as Python's own, refused by name where they are out of range."""

import numbers
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return a number of any library, numpy's scalars above all, as Python's own; else the value.

    Reports and checkpoints hold these alone.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_whole(name: str, value: Any) -> int:
    """Return a whole number.

    Raises:
        TypeError: if ``value`` is none.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number that is not too small.

    Raises:
        TypeError: if ``value`` is no integer.
        ValueError: if it is below ``least``.
    """
    count = check_whole(name, value)
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_at_least(options: Mapping[str, Any], least: Mapping[str, float]) -> None:
    """Refuse options below their bounds.

    Raises:
        ValueError: if one is.
    """
    for key, bound in least.items():
        if not options[key] >= bound:
            raise ValueError(f"{key} must be at least {bound}, got {options[key]}")


def check_positive(options: Mapping[str, Any], *keys: str) -> None:
    """Refuse options that are not above 0.

    Raises:
        ValueError: if one is not.
    """
    for key in keys:
        if not options[key] > 0:
            raise ValueError(f"{key} must be above 0, got {options[key]}")
