"""The codec's tables as text and as the README shows them, from rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..goals import CODEC_SIZES, CODEC_SPEED, DENSE_SHARE
from ..markdown import markdown
from ..rows import OURS, Row

# What the README has of each kind, by the start of the op.
LABELS = {
    "support": "random support, density {density:g}",
    "layers": "32 layers, lognormal density, mean {density:g}",
    "rows": "rows of 512, lognormal density, mean {density:g}",
    "changes": "{changes:,} drops and as many additions, density {density:g}",
    "additions": "{changes:,} additions, density {density:g}",
    "flips": "signs, {density:.0%} of them flipped",
    "values_fp32": "values, fp32",
    "values_bf16": "values, bf16",
    "values_int8": "values, int8",
    "values_int4": "values, int4",
    "values_ternary": "values, ternary",
    "message_normal": "whole update, density {density:g}, int8, normal values",
    "message_student_t": "whole update, density {density:g}, int8, values of Student's t",
}
SHOWN_PEERS = ("bitmap_zstd1", "roaring", "pcodec")
# Changes, values and whole updates have the same peers under other names.
AS_PEER = {
    **{"xor_zstd3": "bitmap_zstd1", "xor_roaring": "roaring"},
    **{"zstd1": "bitmap_zstd1", "the_same_zstd3": "bitmap_zstd1"},
}
# Of the shares of flips.
SHOWN_FLIPS = (0.01, 0.1, 0.3)
MODES = {
    **{"encode": ": encode", "decode": ": decode", "positions": ": decode to positions"},
    **{"accumulate": ": decode and add", "fwd": ""},
}
# What is timed, by the start of the op.
DONE = {
    "support": "support, Golomb-Rice, density {density:g}",
    "bytes": "rANS of {kind}",
    "update": "update, int8, density {density:g}",
    "pack": "signs packed",
    "unpack": "signs unpacked",
    "top": "exact top-k, density {density:g}",
    "majority": "majority vote of {clients:,} clients, {numel:,} positions",
    "weighted": "weighted mean of {clients:,} clients, {numel:,} positions",
}
YARDSTICKS = {"zstd1": "zstd -1", "numpy_max": "reading", "torch": "torch"}


def line(row: Row) -> str:
    """Format a row for reading."""
    shape = row["shape"]
    more = f", {shape['changes']} changed" if "changes" in shape else ""
    more += f", {shape['clients']} clients" if "clients" in shape else ""
    head = f"{row['op']:18}{shape['numel']}{more}, density {row['density']:<6g}"
    head = f"{head:54}{row['provider'] + ':' + row['variant']:24}{row['mode']:11}"
    if not row["correct"]:
        return f"{head} WRONG RESULT"
    if row["table"] == CODEC_SIZES:
        text = f"{head}{row['bytes']:>12,} bytes {row['ratio']:10.4f} of the bound"
        if "code_ratio" in row:
            text += f", its code {row['code_ratio']:.4f}"
        if "dense_share" in row:
            text += f", {row['dense_share']:.4f} of dense"
        return text + _verdict(row)
    rate = next(f"{row[name]:8.3f} {name}" for name in row if name.endswith("_per_s"))
    text = f"{head}{row['median_us']:>12,.0f} us {rate}"
    if row.get("figure") == "faster":
        text += f", {row['faster']:.3g}x as fast as {row['yardstick']}"
    elif "faster" in row:
        text += f", {row['slower']:.2f}x the time of {row['yardstick']}"
    return text + _verdict(row)


def _verdict(row: Row) -> str:
    if "aim" not in row:
        return ""
    if row["table"] == CODEC_SIZES:
        return f" (aim {row['aim']}: {'reached' if row['reached'] else 'MISSED'})"
    return f" (floor {row['floor']}, aim {row['aim']}: {row['verdict']})"


def summary(rows: Sequence[Row]) -> str:
    """Return what has an aim and misses it, and how many do not; nothing without such rows."""
    judged = [r for r in rows if r["table"] in (CODEC_SIZES, CODEC_SPEED) and "aim" in r]
    if not judged:
        return ""
    missed = [row for row in judged if not row["reached"]]
    found = f"codec: {len(judged) - len(missed)} of {len(judged)} aims reached"
    return "\n".join([found, *map(line, missed)])


def size_table(rows: Sequence[Row]) -> str:
    """Make the table of lengths over bounds: a line for each content that has an aim."""
    sizes = [row for row in rows if row["table"] == CODEC_SIZES and row["correct"]]
    points: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in sizes:
        label = _label(row)
        if label is not None:
            name = row["variant"] if row["provider"] == OURS else row["provider"]
            key = (row["op"], row["density"], row["shape"].get("changes", 0))
            points.setdefault(key, {})[AS_PEER.get(name, name)] = row

    def cells(found: dict[str, Row]) -> Iterator[str]:
        ours = found["rans"]
        yield _label(ours) or ""
        yield f"{ours['bytes']:,}"
        yield f"{ours['ratio']:.4f}"
        yield f"{ours['code_ratio']:.4f}"
        yield f"{ours['aim']:g}"
        plain = found.get("plain")
        yield "-" if plain is None else f"{plain['code_ratio']:.4f}"
        for peer in SHOWN_PEERS:
            yield f"{found[peer]['ratio']:.3f}" if peer in found else "-"

    head = ["bytes over the information bound", "bytes", "message", "its code", "aim"]
    head += ["without rANS"]
    head += ["zstd", "roaring", "pcodec"]
    judged = [found for found in points.values() if "aim" in found["rans"]]
    table = markdown(head, map(list, map(cells, judged))) + footing(sizes)
    table += (
        "\n*Its code* leaves out header, descriptors and directory; the aims are of it, those of "
        "whole updates of the message.\n"
    )
    return table + _dense_shares([found["rans"] for found in judged])


def _dense_shares(rows: Sequence[Row]) -> str:
    """State whole messages as a share of the tensors in float32, beside that of their bound."""
    shares = [
        f"{_label(row)}: {row['dense_share']:.4f} (bound {row['dense_share'] / row['ratio']:.4f})"
        for row in rows
        if "dense_share" in row
    ]
    stated = "; ".join(shares)
    return f"\nOf the dense tensor in float32, aim {DENSE_SHARE:g}: {stated}.\n" if shares else ""


def _label(row: Row) -> str | None:
    if row["op"] == "flips" and row["density"] not in SHOWN_FLIPS:
        return None
    text = LABELS.get(row["op"])
    changes = row["shape"].get("changes", 0)
    return None if text is None else text.format(density=row["density"], changes=changes)


def speed_table(rows: Sequence[Row]) -> str:
    """Make the table of what has a floor and an aim."""
    speeds = [row for row in rows if row["table"] == CODEC_SPEED and row["correct"]]
    units = {
        "gindices_per_s": "{rate:.2f} G indices/s",
        "faster": "{rate:.3g}x as fast as {beside}",
        "slower": "{rate:.2f}x the time of {beside}",
    }

    def cells(row: Row) -> list[str]:
        figure, beside = row["figure"], row.get("yardstick", "")
        text = units[figure].format(rate=row[figure], beside=YARDSTICKS.get(beside, beside))
        return [_done(row), text, f"{row['floor']:g}", f"{row['aim']:g}"]

    judged = [row for row in speeds if "aim" in row]
    return markdown(["one thread", "seen", "floor", "aim"], map(cells, judged)) + footing(speeds)


def _done(row: Row) -> str:
    """Name what a row of speeds times."""
    start, _, kind = row["op"].partition("_")
    clients = row["shape"].get("clients", 0)
    sizes = {"density": row["density"], "numel": row["shape"]["numel"]}
    name = DONE[start].format(kind=kind, clients=clients, **sizes)
    way = f", {row['variant'].replace('_', ' ')}" if row["variant"].startswith("from") else ""
    return f"{name}{way}{MODES[row['mode']]}"


def footing(rows: Sequence[Row]) -> str:
    """State what the rows were measured on."""
    if not rows:
        return "\nNot measured yet.\n"
    first = rows[0]
    numel = max(row["shape"]["numel"] for row in rows)
    return f"\n{numel:,} positions, {first['cpu']} ({first['isa']}), commit {commits(rows)}.\n"


def commits(rows: Sequence[Row]) -> str:
    """Name the commits of rows; "-dirty" stays: what was measured then is in none of them."""
    every = {row["commit"] for row in rows}
    return ", ".join(sorted("-".join([c[:12], *c.split("-")[1:]]) for c in every))
