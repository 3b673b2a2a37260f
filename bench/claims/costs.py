"""``python -m sparsefl.bench.claims.costs FILE``: bytes and time of each method, as a picture."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from sparsefl.figures import COLOURS, GREY
from sparsefl.fl.table import size

from .accuracy import METHODS, RESULTS, Results
from .study import Study
from .summary import Found, in_percent, summarise

# Of the study of all methods: FedAvg and the four, without their controls.
SHOWN = ("fedavg", "adp .7", "fedtiny .1", "fedtiny .01", "fedpt", "hidenseek .1")


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the committed results of the study of all methods; takes the picture's path."""
    (path,) = argv if argv is not None else sys.argv[1:]
    draw(list(summarise(Study.read(METHODS), Results(RESULTS))), pathlib.Path(path))
    return 0


def draw(found: Sequence[Found], path: pathlib.Path) -> None:
    """Draw bytes of all messages and the time of a local step of the first setting's rows.

    Args:
        found: What a study found; rows not in ``SHOWN`` are left out.
        path: Where to; the suffix chooses the format.

    Raises:
        ValueError: if none of them was run.
    """
    from matplotlib.figure import Figure

    by_name = {item.row.name: item for item in reversed(found)}
    items = [by_name[name] for name in SHOWN if name in by_name]
    if not items:
        raise ValueError(f"found: none of {', '.join(SHOWN)} was run")
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    dense = items[0].step_factor
    times = [dense / item.step_factor if dense and item.step_factor else 0.0 for item in items]
    traffic = [item.total_bytes for item in items]
    _bars(left, traffic, [size(value) for value in traffic])
    left.set(xscale="log", xlim=(min(traffic) / 10, None), title="bytes of all messages")
    _bars(right, times, [f"{value:.2f}" if value else "not measured" for value in times])
    right.set(title="time of a local step, of FedAvg's")
    labels = [f"{item.row.name}: {in_percent(item.accuracy)} %" for item in items]
    left.set_yticks(range(len(items)), labels)
    left.invert_yaxis()
    figure.savefig(path, dpi=130)


def _bars(axes: Any, values: Sequence[float], texts: Sequence[str]) -> None:
    """Draw a bar a row, its value beside it; the dense row is grey."""
    colours = [GREY, *[COLOURS[0]] * (len(values) - 1)]
    bars = axes.barh(range(len(values)), values, color=colours)
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    axes.margins(x=0.18)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
