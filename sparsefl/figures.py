"""What all plots share; matplotlib is imported only when one is drawn."""

from collections.abc import Callable
from typing import Any

# Okabe and Ito's palette: told apart also without colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#888888"
# Small, so that the text stays readable where two plots share a README's width.
SIZE_INCHES = (5.6, 4.2)
DPI = 170


def open_figure(height_inches: float = SIZE_INCHES[1]) -> tuple[Any, Any, Any]:
    """Open a figure without any window system.

    Returns:
        The figure, its axes and ``matplotlib.ticker``.

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
    figure = matplotlib.figure.Figure(figsize=(SIZE_INCHES[0], height_inches), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.tick_params(which="minor", length=2)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes, matplotlib.ticker


def legend_below(figure: Any, axes: Any, columns: int, title: str | None = None) -> None:
    """Put the legend under the axes, where no data can be in its way."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        place = "outside lower center"
        figure.legend(handles, labels, loc=place, ncols=columns, frameon=False, title=title)


def name_ticks(axis: Any, ticker: Any, show: Callable[[float], str]) -> None:
    """Label a log axis: its decades, and 2 and 5 of each where it spans less than two of them."""
    low, high = axis.get_view_interval()
    if low > 0 and high / low < 100:
        axis.set_major_locator(ticker.LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_formatter(ticker.NullFormatter())
