"""``sparsefl inspect``: what a message holds, tensor by tensor."""

import argparse
import importlib
import json
import pathlib
from typing import Any, get_args

from sparsefl.cli.report import terminal_width


def add_to(commands: Any) -> None:
    """Declare the command."""
    inspect = commands.add_parser(
        "inspect",
        help="what a message holds, tensor by tensor",
        description="Decode a message, every check included, and print the form, the bytes and the "
        "bits a weight of each tensor.",
    )
    inspect.add_argument("message", metavar="MESSAGE", help="file with the bytes of a message")
    inspect.add_argument(
        "--schema",
        required=True,
        metavar="SCHEMA",
        help="what the message was encoded for: PKG.MOD:NET, called without arguments, or a JSON "
        'file {"fc.weight": [[128, 64], "float32"], ...} in the order of the tensors',
    )
    inspect.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="MESSAGE",
        help="message that the receiver had before (set-up, broadcast); repeatable",
    )
    inspect.set_defaults(command=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    codec = importlib.import_module("sparsefl.codec")
    data = _read(args.message)
    schema = _schema(codec, args.schema)
    base: dict[str, Any] = {}
    for path in args.base:
        base |= codec.decode(_read(path), schema, base=base)
    try:
        update = codec.decode(data, schema, base=base)
    except codec.CodecError as error:
        raise ValueError(f"{args.message} is refused, {error.reason.name}: {error}") from error
    found = _value_format(codec, update, schema, base, data)
    print(
        f"{args.message}: {len(data):,} bytes, round {update.round}, {len(update)} of "
        f"{len(schema)} tensors{'' if found is None else f', values as {found}'}\n"
    )
    print(_table(codec, update, schema, base, found))
    if found is None:
        print("\nIts tensors are of several value formats, so their bytes cannot be told apart.")
    else:
        fixed = len(data) - sum(_bytes(codec, update, name, schema, base, found) for name in update)
        print(f"\nHeader: {fixed:,} bytes.")
    return 0


def _read(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


def _schema(codec: Any, spec: str) -> Any:
    """Build a schema from a network's factory, or read it from a JSON file."""
    if ":" in spec:
        return codec.Schema.of(importlib.import_module("sparsefl.fl.loading").call(spec))
    try:
        return codec.Schema(
            {name: (s, dtype) for name, (s, dtype) in json.loads(_read(spec)).items()}
        )
    except (json.JSONDecodeError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"--schema {spec} is no JSON of tensors: {error}") from error


def _value_format(codec: Any, update: Any, schema: Any, base: Any, data: bytes) -> str | None:
    """Return the value format that gives these very bytes again, if one does for all tensors."""
    for name in get_args(codec.FormatName):
        try:
            if codec.encode(update, schema, value_format=name, base=base) == data:
                return str(name)
        except (TypeError, ValueError):  # noqa: PERF203 - values that this format cannot hold
            continue
    return None


def _bytes(codec: Any, update: Any, name: str, schema: Any, base: Any, value_format: str) -> int:
    """Return what one tensor adds to the message: descriptor, directory and body."""
    alone, empty = codec.Update({name: update[name]}), codec.Update({})
    with_it, without = (
        len(codec.encode(message, schema, value_format=value_format, base=base))
        for message in (alone, empty)
    )
    return int(with_it - without)


def _table(codec: Any, update: Any, schema: Any, base: Any, value_format: str | None) -> str:
    columns = [["tensor"], ["form"], ["shape"], ["kept"], ["density"], ["bytes"], ["bits a weight"]]
    for name, entry in update.items():
        spec = schema[name]
        support = getattr(entry, "support", None)
        kept = spec.numel if support is None else support.nnz
        cells = [
            name,
            type(entry).__name__,
            "x".join(map(str, spec.shape)) or "scalar",
            f"{kept:,}",
            f"{kept / max(1, spec.numel):.3g}",
        ]
        if value_format is not None:
            count = _bytes(codec, update, name, schema, base, value_format)
            cells += [f"{count:,}", f"{8 * count / max(1, kept):.3g}"]
        for column, cell in zip(columns, cells, strict=False):
            column.append(cell)
    known = [column for column in columns if len(column) > len(update)]
    lines = importlib.import_module("sparsefl.fl.table").align(known, terminal_width())
    return "\n".join(lines)
