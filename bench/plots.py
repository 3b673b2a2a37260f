"""Draws what the README shows from the rows of a committed JSON file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from sparsefl.timing import crossover

Row = dict[str, Any]
COLORS = {"sparsefl": "tab:blue", "torch_sparse": "tab:orange"}


def draw(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draw the ratio to dense torch over the density, one panel an op, the crossover marked.

    Args:
        rows: As ``bench.runner`` writes them; full steps of the highest thread count are drawn.
        path: Where to; the suffix chooses the format.

    Raises:
        ValueError: if no op has rows of one shape at two densities or more.
    """
    from matplotlib.figure import Figure

    curves = curves_of(rows)
    if not curves:
        raise ValueError("rows: no op was measured at two densities or more, nothing to draw")
    figure = Figure(figsize=(3.2 * len(curves), 3.4), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (op, providers) in zip(axes, curves.items(), strict=True):
        for provider, points in providers.items():
            densities, ratios = zip(*points, strict=True)
            color = COLORS[provider]
            axis.plot(densities, ratios, "o-", color=color, label=provider, markersize=4)
            crossing = crossover(points)
            if crossing is not None:
                axis.axvline(crossing, color=color, linestyle=":")
                axis.annotate(f"{crossing:.2f} ", (crossing, 1.05), color=color, ha="right")
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set(xscale="log", yscale="log", title=op, xlabel="density")
    axes[0].set_ylabel("times faster than dense torch")
    axes[0].legend()
    figure.suptitle(caption(rows), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def curves_of(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Collect (density, ratio) by op and provider, of the shape with the most densities."""
    threads = max((row["threads"] for row in rows), default=0)
    kept = [
        row
        for row in rows
        if row["mode"] == "full" and row["threads"] == threads and row["correct"]
        if row["provider"] in COLORS
    ]
    out: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for op in dict.fromkeys(row["op"] for row in kept):
        by_shape: dict[tuple[tuple[str, int], ...], list[Row]] = {}
        for row in kept:
            if row["op"] == op:
                by_shape.setdefault(tuple(row["shape"].items()), []).append(row)
        widest = max(by_shape.values(), key=lambda group: len({row["density"] for row in group}))
        if len({row["density"] for row in widest}) < 2:
            continue
        providers: dict[str, list[tuple[float, float]]] = {}
        for row in sorted(widest, key=lambda row: float(row["density"])):
            points = providers.setdefault(row["provider"], [])
            points.append((row["density"], row["ratio_to_dense"]))
        out[op] = providers
    return out


def caption(rows: Sequence[Row]) -> str:
    """Name machine, threads, torch and commit of the rows."""
    first = rows[0]
    threads = max(row["threads"] for row in rows)
    return (
        f"forward + backward, float32, {first['cpu']} ({first['isa']}), {threads} threads, "
        f"torch {first['torch']}, commit {first['commit']}"
    )
