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
        header = codec.Header.of(data)
        print(f"{args.message}: {len(data):,} bytes\n{_header(header)}")
        summary = codec.summarise(data, schema)
        update = codec.decode(data, schema, base=base)
    except codec.CodecError as error:
        raise ValueError(f"{args.message}: {error}") from error
    print(f"{len(update)} of {len(schema)} tensors\n")
    bounds = {t.name: _bound(codec, update, t, schema, base) for t in summary.tensors}
    print(_table(update, summary, bounds, schema))
    total = sum(bounds.values())
    print(
        f"\nBound: {total:,} bytes; the message takes {len(data) / max(1, total):.4g} times that."
    )
    return 0


def _header(header: Any) -> str:
    """Return the fields of a header, whatever it is worth."""
    major, minor = header.version
    base = f"{header.base_fingerprint:#018x}" if header.base_fingerprint else "none"
    return (
        f"version {major}.{minor}, profile {header.profile}, round {header.round}, "
        f"{header.tensors:,} tensors, {header.chunks:,} chunks, {header.nbytes:,} bytes stated\n"
        f"schema {header.schema_fingerprint:#018x}, base {base}"
    )


def _bound(codec: Any, update: Any, tensor: Any, schema: Any, base: Any) -> int:
    """Return the information bound of one tensor, in bytes."""
    known = tensor.value_mode in get_args(codec.FormatName)
    formats = {tensor.name: tensor.value_mode} if known else {}
    alone = codec.Update({tensor.name: update[tensor.name]})
    return int(codec.bound_bytes(alone, schema, formats, base))


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


def _table(update: Any, summary: Any, bounds: dict[str, int], schema: Any) -> str:
    """Return a line a tensor."""
    head = ("tensor", "form", "values", "shape", "kept", "density", "support", "coders")
    columns = [[name] for name in (*head, "bytes", "bits a weight", "of bound")]
    for tensor in summary.tensors:
        kept = tensor.kept or (tensor.numel if tensor.support_mode == "seed" else 0)
        cells = [
            tensor.name,
            type(update[tensor.name]).__name__,
            tensor.value_mode,
            "x".join(map(str, schema[tensor.name].shape)) or "scalar",
            f"{kept:,}",
            f"{kept / max(1, tensor.numel):.3g}",
            tensor.support_mode,
            "+".join(tensor.coders) or "-",
            f"{tensor.nbytes:,}",
            f"{8 * tensor.nbytes / max(1, kept):.3g}",
            f"{tensor.nbytes / max(1, bounds[tensor.name]):.4g}x",
        ]
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    lines = importlib.import_module("sparsefl.fl.table").align(columns, terminal_width())
    return "\n".join(lines)
