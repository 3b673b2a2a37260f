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
# What fits across the figure in the legend's font, where a handle with its gaps takes the room of
# nine characters, and across the axes in the title's and the label's.
_LEGEND_CHARACTERS, _HANDLE_CHARACTERS, _TEXT_CHARACTERS = 74, 9, 58
# Numbers that fit side by side under the x axis.
_MOST_TICKS = 12
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
    widest = max(map(len, labels)) + _HANDLE_CHARACTERS
    columns = max(1, min(len(drawn), _LEGEND_CHARACTERS // widest))
    below = textwrap.wrap(
        f"smaller, not drawn: {', '.join(rest)}" if rest else "", _TEXT_CHARACTERS
    )
    lines = -(-len(drawn) // columns) + len(below)
    figure, axes, ticker = open_figure(SIZE_INCHES[1] + _LINE_INCHES * lines)
    axes.axhline(1.0, color="black", linewidth=1.2)
    for place, (layer, label) in enumerate(zip(drawn, labels, strict=True)):
        _line(axes, layer, label, place)
    axes.set(xscale="log", yscale="log")
    name_ticks(axes.xaxis, ticker, lambda value: f"{value:g}")
    axes.xaxis.set_major_locator(ticker.FixedLocator(_apart(crossover.densities)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    name_ticks(axes.yaxis, ticker, lambda value: f"{value:g}x")
    axes.set_xlabel("\n".join(["density of random masks", *below]))
    axes.set_ylabel("dense / sparse, forward + backward")
    title = [*textwrap.wrap(crossover.title, _TEXT_CHARACTERS), "above 1x sparse is faster"]
    axes.set_title("\n".join(title), fontsize=10)
    legend_below(figure, axes, columns, "dense is faster from density (open marks)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _apart(densities: tuple[float, ...]) -> list[float]:
    """Return the densities whose numbers do not run into one another on a log axis."""
    least = (densities[-1] / densities[0]) ** (1 / _MOST_TICKS)
    kept = [densities[0]]
    for density in densities[1:]:
        if density >= kept[-1] * least:
            kept.append(density)
    return kept


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
        axes.plot([layer.density], [1.0], markersize=7, markerfacecolor="white", zorder=4, **style)
