"""``sparsefl inspect``: what a message holds, tensor by tensor, or what is wrong with it.

The exit status is 1 where the message is refused, 2 where the arguments are.
"""

import argparse
import importlib
import json
import pathlib
import sys
from typing import Any, get_args

from sparsefl.cli.report import terminal_width
from sparsefl.columns import align

REFUSED = 1
# Header bytes, and bytes a descriptor: FORMAT.md, "Layout".
_HEADER_BYTES, _DESCRIPTOR_BYTES, _ORDINAL_BYTES = 64, 24, 4


def add_to(commands: Any) -> None:
    """Declare the command."""
    inspect = commands.add_parser(
        "inspect",
        help="what a message holds, tensor by tensor",
        description="Decode a message, every check included, and print the form, the coders, the "
        "bytes and the ratio to the order-0 bound of each tensor. Without --schema its header and "
        "modes are printed, and its lengths and checksums checked.",
    )
    inspect.add_argument("message", metavar="MESSAGE", help="file with the bytes of a message")
    inspect.add_argument(
        "--schema",
        metavar="SCHEMA",
        help="what the message was encoded for: PKG.MOD:NET, called without arguments, or a JSON "
        'file {"fc.weight": [[128, 64], "float32"], ...} in the order of the tensors; of a support '
        'alone {"support": [[128, 64], "bool"]}',
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
    schema = None if args.schema is None else _schema(codec, args.schema)
    if schema is None and args.base:
        raise ValueError("--base is read with a schema: give --schema too")
    base: dict[str, Any] = {}
    path = args.message
    try:
        for path in args.base:
            before = _read(path)
            base |= codec.decode(before, schema, base=base)
        path = args.message
        header = codec.Header.of(data)
        print(f"{path}: {len(data):,} bytes\n{_header(header)}")
        if schema is None:
            print(_outline(codec.outline(data)))
        else:
            _describe(codec, data, schema, base)
    except codec.CodecError as error:
        broken = data if path == args.message else before
        print(f"sparsefl: {path}: {_reason(codec, error, broken, schema)}", file=sys.stderr)
        return REFUSED
    return 0


def _describe(codec: Any, data: bytes, schema: Any, base: Any) -> None:
    """Print the tensors of a message; without its bound where the base is not at hand."""
    summary = codec.summarise(data, schema)
    print(f"{len(summary.tensors)} of {len(schema)} tensors\n")
    missing, bounds = "", {}
    try:
        update = codec.decode(data, schema, base=base)
        bounds = {t.name: _bound(codec, update, t, schema, base) for t in summary.tensors}
    except codec.CodecError as error:
        if error.reason is not codec.CodecReason.BASE_MISSING:
            raise
        codec.outline(data)
        missing = _tensor(data, error.where, schema)
    print(_table(summary, bounds, schema))
    if missing:
        print(
            f"\nLengths and checksums are right, no more was checked: {missing} refers to what the "
            "receiver had (BASE_MISSING). Give that message with --base."
        )
        return
    total = sum(bounds.values())
    print(
        f"\nOrder-0 bound: {total:,} bytes; the message takes {len(data) / max(1, total):.4g} "
        "times that.\nIt is of random order: less is what runs of bits take, and values that are "
        "coded by classes of\nblocks (format 1.1)."
    )


def _header(header: Any) -> str:
    """Return the fields of a header, whatever it is worth."""
    major, minor = header.version
    base = f"{header.base_fingerprint:#018x}" if header.base_fingerprint else "none"
    return (
        f"version {major}.{minor}, profile {header.profile}, round {header.round}, "
        f"{header.tensors:,} tensors, {header.chunks:,} chunks, {header.nbytes:,} bytes stated\n"
        f"schema {header.schema_fingerprint:#018x}, base {base}"
    )


def _outline(outline: Any) -> str:
    """Return what is known of the tensors without a schema."""
    columns = [
        ["tensor", *(f"#{t.ordinal}" for t in outline.tensors)],
        ["form", *(_form(t) for t in outline.tensors)],
        ["values", *(t.value_mode for t in outline.tensors)],
        ["kept", *(f"{t.kept:,}" for t in outline.tensors)],
        ["support", *(t.support_mode for t in outline.tensors)],
    ]
    return (
        f"\n{_align(columns)}\n\n"
        f"Supports {outline.support_bytes:,} bytes, values {outline.value_bytes:,}. Lengths and "
        "checksums are right.\nNames, coders, bytes of each and the bound take the schema: give "
        "--schema."
    )


def _form(tensor: Any) -> str:
    """Return the class of an entry, by its modes."""
    if tensor.value_mode == "none":
        return "Regenerated" if tensor.support_mode == "seed" else "SupportOnly"
    if tensor.value_mode in ("sign", "flips"):
        return "Signs"
    if tensor.value_mode == "modular":
        return "Modular"
    return "Dense" if tensor.support_mode == "dense" else "Sparse"


def _reason(codec: Any, error: Any, data: bytes, schema: Any) -> str:
    """Return why a message is refused, with the numbers that say so."""
    reasons, reason = codec.CodecReason, error.reason
    text = f"{reason.name}: {reason.meaning}"
    if error.where is not None:
        text += f" In {_tensor(data, error.where, schema)}."
    if reason in (reasons.TRUNCATED, reasons.LENGTH):
        if len(data) < _HEADER_BYTES:
            return f"{text} The file has {len(data):,} bytes, a header {_HEADER_BYTES}."
        return f"{text} The file has {len(data):,} bytes, states {codec.Header.of(data).nbytes:,}."
    if reason is reasons.SCHEMA and schema is not None:
        text += f" That of --schema is {schema.fingerprint:#018x}."
    return text


def _tensor(data: bytes, where: int, schema: Any) -> str:
    """Name a tensor of a message, counted from 0."""
    at = _HEADER_BYTES + _DESCRIPTOR_BYTES * where
    ordinal = int.from_bytes(data[at : at + _ORDINAL_BYTES], "little")
    names = [] if schema is None else list(schema)
    return repr(names[ordinal]) if ordinal < len(names) else f"tensor {where} of the message"


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


def _table(summary: Any, bounds: dict[str, int], schema: Any) -> str:
    """Return a line a tensor; bounds are left out where there are none."""
    head = ("tensor", "form", "values", "shape", "kept", "density", "support", "coders")
    columns = [[name] for name in (*head, "bytes", "bits a weight", "of bound")]
    for tensor in summary.tensors:
        kept = tensor.kept or (tensor.numel if tensor.support_mode == "seed" else 0)
        bound = bounds.get(tensor.name)
        cells = [
            tensor.name,
            _form(tensor),
            tensor.value_mode,
            "x".join(map(str, schema[tensor.name].shape)) or "scalar",
            f"{kept:,}",
            f"{kept / max(1, tensor.numel):.3g}",
            tensor.support_mode,
            "+".join(tensor.coders) or "-",
            f"{tensor.nbytes:,}",
            f"{8 * tensor.nbytes / max(1, kept):.3g}",
            "-" if bound is None else f"{tensor.nbytes / max(1, bound):.4g}x",
        ]
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return _align(columns)


def _align(columns: list[list[str]]) -> str:
    return "\n".join(align(columns, terminal_width()))
