"""Arguments that are one number, checked by name."""

from __future__ import annotations

import operator


def as_integer(value: object, what: str) -> int:
    """Returns an integer.

    Raises:
        TypeError: if it is none.
    """
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {type(value).__name__}") from None


def as_number(value: object, what: str) -> float:
    """Returns a real number.

    Raises:
        TypeError: if it is none.
    """
    try:
        if not isinstance(value, str | bytes | bytearray):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{what} must be a number, got {type(value).__name__}")
