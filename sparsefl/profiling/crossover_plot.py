"""The factor of every layer over the density, as a picture."""

from __future__ import annotations

import pathlib
import textwrap
from typing import TYPE_CHECKING, Any

from sparsefl.figures import (
    COLOURS,
    DPI,
    MARKERS,
    SIZE_INCHES,
    legend_below,
    name_ticks,
    open_figure,
)

if TYPE_CHECKING:
    from sparsefl.profiling.crossover import Crossover, LayerCrossover

# More lines are told apart by nobody.
MOST_DRAWN = 12
# Of the figure's width in the legend's and in the label's font.
_LEGEND_CHARACTERS, _LABEL_CHARACTERS = 62, 78
# What a line of the legend and of the label adds to the figure's height.
_LINE_INCHES = 0.2


def check(path: pathlib.Path) -> None:
    """Refuse a file that could not be drawn to, before anything is measured for it.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if matplotlib writes no such format.
    """
    figure, _, _ = open_figure()
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(sorted(formats))}")


def draw(crossover: Crossover, path: pathlib.Path) -> None:
    """Draw factor against density on log axes; see :meth:`Crossover.plot`."""
    check(path)
    drawn, rest = _largest(crossover.layers)
    labels = [f"{layer.name or 'the model'}: {layer.dense_from}" for layer in drawn]
    columns = max(1, min(len(drawn), _LEGEND_CHARACTERS // (max(map(len, labels)) + 6)))
    below = textwrap.wrap(f"smaller, not drawn: {', '.join(rest)}", _LABEL_CHARACTERS)
    below = below if rest else []
    lines = -(-len(drawn) // columns) + len(below)
    figure, axes, ticker = open_figure(SIZE_INCHES[1] + _LINE_INCHES * max(0, lines - 1))
    axes.axhline(1.0, color="black", linewidth=1.2)
    for place, (layer, label) in enumerate(zip(drawn, labels, strict=True)):
        _line(axes, layer, label, place)
    axes.set(xscale="log", yscale="log")
    name_ticks(axes.xaxis, ticker, lambda value: f"{value:g}")
    name_ticks(axes.yaxis, ticker, lambda value: f"{value:g}x")
    axes.set_xlabel("\n".join(["density of random masks", *below]))
    axes.set_ylabel("dense / sparse, forward + backward")
    axes.set_title(
        f"{crossover.title}\nabove the line sparse is faster; below, layers and the density from\n"
        "which on dense is (open marks)",
        fontsize=10,
    )
    legend_below(figure, axes, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _largest(layers: tuple[LayerCrossover, ...]) -> tuple[list[LayerCrossover], list[str]]:
    """Return the largest layers and the names of the others, both in the order of the calls."""
    by_size = sorted(range(len(layers)), key=lambda place: -layers[place].numel)
    chosen = set(by_size[:MOST_DRAWN])
    drawn = [layer for place, layer in enumerate(layers) if place in chosen]
    return drawn, [layer.name for place, layer in enumerate(layers) if place not in chosen]


def _line(axes: Any, layer: LayerCrossover, label: str, place: int) -> None:
    turn, kind = divmod(place, len(COLOURS))
    style = {"color": COLOURS[kind], "marker": MARKERS[kind]}
    densities, factors = zip(*layer.curve, strict=True)
    axes.plot(
        densities, factors, label=label, markersize=4, linestyle="--" if turn else "-", **style
    )
    if layer.density is not None:
        axes.plot([layer.density], [1.0], markersize=8, markerfacecolor="white", zorder=4, **style)
