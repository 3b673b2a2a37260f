"""Numbers that a user sets, refused by name where they are out of range."""

import numbers
from collections.abc import Mapping
from typing import Any


def check_whole(name: str, value: Any) -> int:
    """Return a whole number.

    Raises:
        TypeError: if ``value`` is none.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        TypeError: if ``value`` is no integer.
        ValueError: if it is below ``least``.
    """
    if check_whole(name, value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


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
