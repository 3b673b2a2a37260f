"""Draws what the README shows from the rows of a committed JSON file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from statistics import geometric_mean

from sparsefl.timing import crossover

from . import sweeps
from .rows import Row

COLORS = {"sparsefl": "tab:blue", "torch_sparse": "tab:orange", "torch_bf16": "tab:green"}
PANELS_A_LINE = 4
Curves = dict[str, dict[str, list[tuple[float, float]]]]


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
    columns = min(len(curves), PANELS_A_LINE)
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis in axes[len(curves) :]:
        axis.remove()
    for axis, (op, providers) in zip(axes, curves.items(), strict=False):
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
    figure.axes[0].set_ylabel("times faster than dense torch")
    figure.axes[0].legend()
    figure.suptitle(caption(rows), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def curves_of(rows: Sequence[Row]) -> Curves:
    """Collect (density, ratio) by panel and provider, on all threads.

    An op of the table ``ops`` is drawn by its shape with the most densities, another table by the
    geometric mean over its shapes, each provider by its fastest variant.
    """
    threads = max((row["threads"] for row in rows), default=0)
    kept = [
        row
        for row in rows
        if row["mode"] == whole_step(row) and row["threads"] == threads and row["correct"]
        if row["provider"] in COLORS and "ratio_to_dense" in row
    ]
    out: Curves = {}
    panels: dict[str, list[Row]] = {}
    for row in kept:
        panels.setdefault(row["op"] if row["table"] == sweeps.OPS else row["table"], []).append(row)
    for name, panel in panels.items():
        group = widest(panel) if panel[0]["table"] == sweeps.OPS else panel
        if len({row["density"] for row in group}) > 1:
            out[name] = means(group)
    return out


def whole_step(row: Row) -> str:
    """Name the mode that a row's table is about."""
    return sweeps.MODES_OF_TABLE.get(row["table"], ("full",))[-1]


def widest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the shape with the most densities."""
    by_shape: dict[tuple[tuple[str, int], ...], list[Row]] = {}
    for row in rows:
        by_shape.setdefault(tuple(row["shape"].items()), []).append(row)
    return max(by_shape.values(), key=lambda group: len({row["density"] for row in group}))


def means(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Average each provider's fastest variants over the shapes, densities ascending."""
    best: dict[tuple[str, float, tuple[tuple[str, int], ...]], float] = {}
    for row in rows:
        key = (row["provider"], row["density"], tuple(row["shape"].items()))
        best[key] = max(best.get(key, 0.0), row["ratio_to_dense"])
    ratios: dict[tuple[str, float], list[float]] = {}
    for (provider, density, _), ratio in best.items():
        ratios.setdefault((provider, density), []).append(ratio)
    out: dict[str, list[tuple[float, float]]] = {}
    for provider, density in sorted(ratios, key=lambda key: key[1]):
        mean = geometric_mean(ratios[provider, density])
        out.setdefault(provider, []).append((density, mean))
    return out


def caption(rows: Sequence[Row]) -> str:
    """Name machine, threads, torch and commits of the rows."""
    first = rows[0]
    threads = max(row["threads"] for row in rows)
    commits = sorted({row["commit"][:12] for row in rows})
    return (
        f"forward + backward, float32, {first['cpu']} ({first['isa']}), {threads} threads, "
        f"torch {first['torch']}, commit {', '.join(commits)}"
    )
