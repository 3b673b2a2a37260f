"""Plots of runs."""

import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sparsefl.figures import COLOURS, DPI, GREY, MARKERS, legend_below, name_ticks, open_figure
from sparsefl.fl.table import (
    Row,
    claimed_step_factor,
    claimed_uplink_factor,
    measured_step_factor,
    measured_uplink_factor,
    size,
)

Curve: TypeAlias = Sequence[tuple[float, float]]

# Rows that methods are judged against, not methods: drawn the same way in every plot.
_REFERENCES = {"linear": "#555555", "narrow": "#999999"}
# Parts of a client's memory, in the order in which they are stacked.
_PARTS = {
    "parameters_bytes": "parameters",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "activations_bytes": "saved activations",
    "workspace_bytes": "workspace",
}
_PART_HATCHES = ("", "//", "", "..", "")
# What the x axis of curves may be: label and format of a tick.
_SPENT: dict[str, tuple[str, Callable[[float], str]]] = {
    "bytes": ("bytes so far: set-up, down and up, all clients", size),
    "seconds": ("seconds of local training so far, all clients", lambda value: f"{value:g} s"),
}


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, marker and line of each name; reference rows are grey and dashed."""
    styles: dict[str, dict[str, Any]] = {}
    methods = 0
    for name in names:
        grey = next((c for key, c in _REFERENCES.items() if name.startswith(key)), None)
        if grey is not None:
            marker = "x" if grey == _REFERENCES["linear"] else "+"
            styles[name] = {"color": grey, "marker": marker, "linestyle": "--"}
            continue
        styles[name] = {
            "color": COLOURS[methods % len(COLOURS)],
            "marker": MARKERS[methods % len(MARKERS)],
            "linestyle": "-",
        }
        methods += 1
    return styles


def plot_curves(
    curves: Mapping[str, Curve],
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
    plot_seeds({name: [curve] for name, curve in curves.items()}, path, title)


def plot_seeds(
    runs: Mapping[str, Sequence[Curve]],
    path: str | pathlib.Path,
    title: str,
    spent: str = "bytes",
) -> None:
    """Draw accuracy against what was spent: the mean over seeds, in a band from least to most.

    Args:
        runs: ``{name: [[(spent so far, accuracy), ...] of each seed]}``.
        path: Image file to write.
        title: Above the plot.
        spent: "bytes" or "seconds".

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, ticker = open_figure()
    label, show = _SPENT[spent]
    for name, style in _styles(list(runs)).items():
        curves = [curve for curve in runs[name] if curve]
        if not curves:
            continue
        # Seeds are evaluated in the same rounds; one that was cut short ends the band.
        turns = list(zip(*curves, strict=False))
        x = [statistics.fmean(at for at, _ in points) for points in turns]
        accuracies = [[accuracy for _, accuracy in points] for points in turns]
        means = [statistics.fmean(values) for values in accuracies]
        axes.plot(x, means, label=name, markersize=4, linewidth=1.6, **style)
        if len(curves) > 1:
            least, most = [min(v) for v in accuracies], [max(v) for v in accuracies]
            axes.fill_between(x, least, most, color=style["color"], alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    name_ticks(axes.xaxis, ticker, show)
    axes.set(xlabel=label, ylabel="accuracy of the global model")
    seeds = max((len(curves) for curves in runs.values()), default=1)
    band = f"\n(mean of {seeds} seeds; band: lowest to highest)" if seeds > 1 else ""
    axes.set_title(title + band, fontsize=11)
    legend_below(figure, axes, columns=max(1, min(4, len(runs))))
    figure.savefig(path, dpi=DPI)


def plot_factors(rows: Sequence[Row], path: str | pathlib.Path) -> None:
    """Draw measured against claimed factors on log axes; on the diagonal a claim is realised.

    Args:
        rows: Rows of ``compare.json``; one colour a method, one marker a quantity. What claims
            nothing (a factor of 1: dense training) is left out.
        path: Image file to write.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, ticker = open_figure()
    quantities = (
        ("bytes up", "o", claimed_uplink_factor, measured_uplink_factor),
        ("local step", "s", claimed_step_factor, measured_step_factor),
    )
    styles = _styles(list(dict.fromkeys(row["method"] for row in rows)))
    drawn: list[str] = []
    values = [1.0]
    for row in rows:
        for _, marker, claim, measure in quantities:
            claimed, measured = claim(row), measure(row)
            if claimed is not None and measured is not None and claimed != 1.0:
                colour = styles[row["method"]]["color"]
                axes.scatter(
                    claimed, measured, s=52, color=colour, marker=marker, zorder=3, alpha=0.8
                )
                values += [claimed, measured]
                drawn.append(row["method"])
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        name_ticks(axis, ticker, lambda value: f"{value:g}x")
    axes.set_xlabel("claimed factor (dense / ours, by formula)")
    axes.set_ylabel("measured factor (dense / ours)")
    axes.set_title("Claimed against measured:\non the dashed line a claim is realised", fontsize=11)
    for name in dict.fromkeys(drawn):
        axes.plot([], [], color=styles[name]["color"], linewidth=6, label=name)
    for name, marker, _, _ in quantities:
        axes.scatter([], [], color="white", edgecolors="black", marker=marker, label=name)
    legend_below(figure, axes, columns=4)
    figure.savefig(path, dpi=DPI)


def plot_memory(cells: Mapping[str, Mapping[str, int]], path: str | pathlib.Path) -> None:
    """Draw the peak memory of a client's step by part, one bar a cell.

    Args:
        cells: ``{name: fields of sparsefl.fl.memory.Memory}``, bytes; the first bar is on top.
        path: Image file to write.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, ticker = open_figure(1.6 + 0.42 * max(3, len(cells)))
    names = list(cells)
    left = dict.fromkeys(names, 0.0)
    for (part, label), colour, hatch in zip(_PARTS.items(), COLOURS, _PART_HATCHES, strict=False):
        axes.barh(
            names,
            [cells[name][part] for name in names],
            left=[left[name] for name in names],
            label=label,
            color=colour,
            edgecolor="white",
            hatch=hatch,
            height=0.68,
        )
        left = {name: left[name] + cells[name][part] for name in names}
    for row, name in enumerate(names):
        axes.text(left[name], row, f" {size(left[name])}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16 * max([1.0, *left.values()]))
    axes.grid(False, axis="y")
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: size(value)))
    axes.set_xlabel("peak of a fresh process, less what it was after the imports")
    axes.set_title("Memory of a client's local step", fontsize=11)
    legend_below(figure, axes, columns=3)
    figure.savefig(path, dpi=DPI)


def plot_clients(accuracies: Mapping[str, Sequence[float]], path: str | pathlib.Path) -> None:
    """Draw how the global model's accuracy is distributed over the clients.

    Args:
        accuracies: ``{name: accuracy on each client's own held-out data}``, seeds together.
        path: Image file to write.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    figure, axes, _ = open_figure()
    for name, style in _styles(list(accuracies)).items():
        ordered = sorted(accuracies[name])
        share = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        axes.step([0.0, *ordered, 1.0], [0.0, *share, 1.0], where="post", label=name, **line)
    axes.set(xlim=(0, 1.005), ylim=(0, 1.01))
    axes.set_xlabel("accuracy on the client's own held-out data")
    axes.set_ylabel("share of clients at or below it")
    axes.set_title("The global model on each client: further right is better", fontsize=11)
    legend_below(figure, axes, columns=max(1, min(4, len(accuracies))))
    figure.savefig(path, dpi=DPI)
