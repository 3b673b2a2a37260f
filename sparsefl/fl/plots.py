"""Plots of runs; matplotlib is imported only when one is drawn."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sparsefl.fl.table import (
    Row,
    claimed_step_factor,
    claimed_uplink_factor,
    measured_step_factor,
    measured_uplink_factor,
    size,
)

# Okabe and Ito's palette: told apart also without colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SIZE_INCHES = (6.4, 4.4)
_DPI = 150


def _figure() -> tuple[Any, Any, Any]:
    """Open a figure without any window system.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed; the message says how to.
    """
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need matplotlib: pip install 'sparsefl[cli]'", name="matplotlib"
        ) from error
    figure = matplotlib.figure.Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.tick_params(which="minor", length=2)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes, matplotlib.ticker


def _legend_below(figure: Any, axes: Any, columns: int) -> None:
    """Put the legend under the axes, where no data can be in its way."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def plot_curves(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    path: str | pathlib.Path,
    title: str = "Accuracy against bytes",
) -> None:
    """Draw accuracy against total bytes (set-up, down and up), one line a run.

    Args:
        curves: ``{name: [(total bytes so far, accuracy), ...]}``.
        path: Image file to write.
        title: Above the plot.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, ticker = _figure()
    for index, (name, points) in enumerate(curves.items()):
        if not points:
            continue
        axes.plot(
            [spent for spent, _ in points],
            [accuracy for _, accuracy in points],
            label=name,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=4,
            linewidth=1.6,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: size(value)))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("bytes so far: set-up, down and up, all clients")
    axes.set_ylabel("accuracy of the global model")
    axes.set_title(title, fontsize=11)
    _legend_below(figure, axes, columns=max(1, min(4, len(curves))))
    figure.savefig(path, dpi=_DPI)


def plot_factors(rows: Sequence[Row], path: str | pathlib.Path) -> None:
    """Draw measured against claimed factors on log axes; on the diagonal a claim is realised.

    Args:
        rows: Rows of ``compare.json``; one colour a method, one marker a quantity. What claims
            nothing (a factor of 1: dense training) is left out.
        path: Image file to write.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, ticker = _figure()
    quantities = (
        ("bytes up", "o", claimed_uplink_factor, measured_uplink_factor),
        ("local step", "s", claimed_step_factor, measured_step_factor),
    )
    claims = (claimed_uplink_factor, claimed_step_factor)
    names = list(dict.fromkeys(row["method"] for row in rows))
    values = [1.0]
    for row in rows:
        colour = _COLOURS[names.index(row["method"]) % len(_COLOURS)]
        for _, marker, claim, measure in quantities:
            claimed, measured = claim(row), measure(row)
            if claimed is not None and measured is not None and claimed != 1.0:
                axes.scatter(claimed, measured, s=52, color=colour, marker=marker, zorder=3)
                values += [claimed, measured]
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.plot([low, high], [low, high], color="#888888", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}x"))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("claimed factor (dense / ours, by formula)")
    axes.set_ylabel("measured factor (dense / ours)")
    axes.set_title("Claimed against measured; on the dashed line a claim is realised", fontsize=11)
    for index, name in enumerate(names):
        if any(claim(row) != 1.0 for row in rows if row["method"] == name for claim in claims):
            axes.scatter([], [], color=_COLOURS[index % len(_COLOURS)], marker="P", label=name)
    for name, marker, _, _ in quantities:
        axes.scatter([], [], color="white", edgecolors="black", marker=marker, label=name)
    _legend_below(figure, axes, columns=4)
    figure.savefig(path, dpi=_DPI)
