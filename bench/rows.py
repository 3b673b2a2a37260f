"""The rows of a benchmark: what one measures, how it is read, written and printed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]
OURS = "sparsefl"
BASELINE = "torch_dense"
# Products of a mode, each of 2 * nnz * output positions.
FLOPS_OF_MODE = {"fwd": 1, "bwd": 2, "full": 3}

# What all rows of a run have in common; a file holds it once a run.
CONTEXT = (
    *("device", "cpu", "cores", "system", "python", "torch", "sparsefl", "isa"),
    *("omp_wait_policy", "allocator", "denormals_flushed", "commit", "date"),
)


def identity(row: Row) -> tuple[object, ...]:
    """Return what a row measures, for matching it with another run's."""
    return (*point_of(row), *(row[name] for name in ("provider", "variant", "mode", "isa")))


def point_of(row: Row) -> tuple[object, ...]:
    """Return the point of a sweep that a row belongs to."""
    named = (row["table"], row["op"], row["density"], row["threads"])
    return (*named, *sorted(row["shape"].items()))


def by_variant(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """Group the rows of one provider's variant: its modes by name."""
    groups: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(identity({**row, "mode": ""}), {})[row["mode"]] = row
    return list(groups.values())


def read(path: pathlib.Path) -> list[Row]:
    """Read what :func:`write` wrote."""
    held = json.loads(path.read_text())
    return [{**row, **held["runs"][row["run"]]} for row in held["rows"]]


def write(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Write rows as JSON, a line each, what they have in common once a run."""
    runs: list[Row] = []
    lines = []
    for row in rows:
        run = {name: row[name] for name in CONTEXT}
        if run not in runs:
            runs.append(run)
        own = {k: v for k, v in row.items() if k not in CONTEXT and k != "run" and v is not None}
        lines.append(json.dumps({"run": runs.index(run), **own}))
    path.parent.mkdir(parents=True, exist_ok=True)
    head = ",\n".join(map(json.dumps, runs))
    body = ",\n".join(lines)
    path.write_text(f'{{"runs": [\n{head}\n],\n"rows": [\n{body}\n]}}\n')


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return the old rows with those replaced that were measured again, and the others appended.

    Raises:
        ValueError: if they were measured on different processors.
    """
    cpus = {row["cpu"] for row in (*old, *new)}
    if len(cpus) > 1:
        raise ValueError(f"the file's rows are of another processor: {' and '.join(sorted(cpus))}")
    again = {point_of(row) for row in new}
    return [*(row for row in old if point_of(row) not in again), *new]


def shape_text(row: Row) -> str:
    """Name the sizes of a point in a few words."""
    shape = row["shape"]
    batch = f", batch {shape['batch']}"
    if "in_features" in shape:
        return f"{shape['in_features']}x{shape['out_features']}{batch}"
    if "in_channels" not in shape:
        return f"{row['op']}{batch}"
    channels = f"{shape['in_channels']}"
    if shape["out_channels"] != shape["in_channels"]:
        channels += f" to {shape['out_channels']}"
    kernel, size = (f"{n}x{n}" for n in (shape["kernel"], shape["size"]))
    stride = f", stride {shape['stride']}" if shape["stride"] > 1 else ""
    return f"{channels} channels, {kernel} on {size}{stride}{batch}"


def line(modes: dict[str, Row]) -> str:
    """Format the rows of one provider's variant for reading."""
    row = modes["full"] if "full" in modes else next(iter(modes.values()))
    head = (
        f"{row['op']:14}{shape_text(row):44}density {row['density']:<5}{row['threads']} threads  "
        f"{row['provider'] + ':' + row['variant']:26}"
    )
    if not row["correct"]:
        return f"{head} WRONG RESULT, not timed"
    if "peak_bytes" in row:
        return (
            f"{head} peak {row['peak_bytes'] / 1e6:,.0f} MB, {row['ratios'][BASELINE]:.2f} of dense"
        )
    times = "  ".join(f"{mode} {own['median_us']:9.1f}" for mode, own in modes.items())
    text = f"{head} us: {times}  {row['ratio_to_dense']:7.2f}x dense"
    floored = row.get("floor") and row["provider"] == OURS
    return f"{text} (floor {row['floor']}x)" if floored else text


def comparison(old: Sequence[Row], new: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each step of ours in both runs: ratio to dense now and then."""
    before = {identity(row): row["ratio_to_dense"] for row in old if "ratio_to_dense" in row}
    for modes in by_variant(new):
        row = modes["full"] if "full" in modes else next(iter(modes.values()))
        known = before.get(identity(row))
        if row["provider"] == OURS and known is not None:
            change = row["ratio_to_dense"] / known - 1
            yield f"{line(modes)}, was {known:.2f}x: {change:+.0%}"
