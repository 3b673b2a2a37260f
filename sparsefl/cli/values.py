"""One setting's value: from text or TOML to the type of its field."""

import types
import typing
from typing import Any

from sparsefl.cli.config import NONE

_BOOLS = {"true": True, "yes": True, "false": False, "no": False}
_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def convertible(hint: Any) -> bool:
    """Return whether :func:`convert` knows the type."""
    plain, _ = _without_none(hint)
    origin = typing.get_origin(plain)
    return plain in _EXPECTED or origin is typing.Literal or origin is list


def convert(name: str, value: Any, hint: Any) -> Any:
    """Convert a value, as text or as TOML has it, to the type ``hint``.

    Args:
        name: Of the setting, for the message.
        value: Text of the command line, or a value of a TOML file.
        hint: ``int``, ``float``, ``bool``, ``str``, a list of these or a ``Literal``, or ``None``.

    Raises:
        ValueError: if it is no such value.
    """
    plain, optional = _without_none(hint)
    if optional and (value is None or value == NONE):
        return None
    if typing.get_origin(plain) is list:
        (item,) = typing.get_args(plain)
        return [convert(name, part, item) for part in _parts(value)]
    if typing.get_origin(plain) is typing.Literal:
        allowed = typing.get_args(plain)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
        return value
    try:
        return _scalar(value, plain)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {_EXPECTED[plain]}, got {value!r}") from None


def _scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _bool(value)
    if isinstance(value, bool | list) or (kind is int and isinstance(value, float)):
        raise TypeError
    return kind(value)


def _bool(value: Any) -> bool:
    if str(value).lower() not in _BOOLS:
        raise ValueError
    return _BOOLS[str(value).lower()]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list) else [value]


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return the type, and whether ``None`` is allowed beside it."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    optional = len(kinds) < len(typing.get_args(hint))
    return (kinds[0] if len(kinds) == 1 else hint), optional


def to_text(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(to_text, value)) if isinstance(value, list | tuple) else str(value)
