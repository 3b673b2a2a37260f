"""TOML files of settings, and ``--set`` pairs, as plain mappings."""

import difflib
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "config.toml"
# TOML has no null: what is not set is written so, and read so again.
NONE = "none"


def read(path: str | pathlib.Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ValueError: if there is no such file, or it is no TOML; the message says where.
    """
    try:
        return tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is no TOML: {error}") from error


def parse_pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts; a value is TOML where it is that, else it is the text itself.

    Raises:
        ValueError: if a text has no key, or a key comes twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not key or not sign:
            raise ValueError(f"--set takes KEY=VALUE, got {text!r}")
        if key in pairs:
            raise ValueError(f"--set gives {key} twice")
        try:
            pairs[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            pairs[key] = value
    return pairs


def write(path: pathlib.Path, head: str, settings: Mapping[str, Any]) -> None:
    """Write settings as TOML, tables last; the comment above them says what reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    lines = [f"# {head} {path.name}", *_lines(plain)]
    for name, table in settings.items():
        if isinstance(table, Mapping) and table:
            lines += ["", f"[{name}]", *_lines(table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_literal(value)}" for key, value in settings.items()]


def _literal(value: Any) -> str:
    if value is None:
        return json.dumps(NONE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    # A JSON string is a TOML string, but for one control character that JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def nearest(unknown: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean x?"`` with the most similar known name, or all where none is."""
    names = sorted(known)
    similar = difflib.get_close_matches(unknown, names, n=1, cutoff=0.5)
    return f"; did you mean {similar[0]}?" if similar else f"; there are: {', '.join(names)}"
