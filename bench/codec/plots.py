"""Draws ``codec_sizes.png`` and ``codec_speed.png`` from the rows of a committed JSON file.

``python -m sparsefl.bench.codec.plots bench/results`` draws both beside ``codec.json``.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from .. import rows as row_files
from ..goals import CODEC_SIZES, CODEC_SPEED
from ..rows import OURS, Row
from .tables import commits

SUPPORT = "support"
NAMES = {
    (OURS, "rans"): "sparsefl",
    (OURS, "plain"): "sparsefl, no rANS",
}
COLORS = {"sparsefl": "C0", "sparsefl, no rANS": "navy"}
# More than this over the bound is said by the panel of bytes.
MOST_RATIO = 2.2
SPEED_DENSITIES = (0.1, 0.01)
# Whole updates: at which density, from what, and what is compared with.
UPDATE, UPDATE_DENSITY, COPY = "update", 0.1, "memcpy"
UPDATE_NAMES = {
    (OURS, "from_dense"): "sparsefl",
    (OURS, ""): "sparsefl",
    ("np_save_dense", ""): "np.save, dense",
    ("torch_topk_np_save", ""): "torch.topk, np.save",
}
UPDATE_MODES = ("encode", "accumulate")
Curve = list[tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw both pictures of a folder of results."""
    (folder,) = map(pathlib.Path, argv if argv is not None else sys.argv[1:])
    found = row_files.read(folder / "codec.json")
    draw_sizes(found, folder / "codec_sizes.png")
    draw_speed(found, folder / "codec_speed.png")
    return 0


def draw_sizes(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draw bytes and their ratio to the information bound over the density.

    Raises:
        ValueError: if there are no rows of random supports.
    """
    from matplotlib.figure import Figure

    found = _rows(rows, CODEC_SIZES, "size")
    lengths, ratios = curves(found, "bytes"), curves(found, "ratio")
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    # The first color of the cycle is ours.
    peers = [name for name in lengths if name not in COLORS]
    colors = {name: f"C{1 + place % 9}" for place, name in enumerate(peers)} | COLORS
    for name, points in lengths.items():
        color = colors[name]
        left.plot(*zip(*points, strict=True), ".-", color=color, label=name)
        shown = [(density, ratio) for density, ratio in ratios[name] if ratio <= MOST_RATIO]
        if shown:
            right.plot(*zip(*shown, strict=True), ".-", color=color)
    bound = sorted({(row["density"], row["bound_bytes"]) for row in found})
    left.plot(*zip(*bound, strict=True), "k--", label="information bound")
    right.axhline(1.0, color="black", linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="density", ylabel="bytes")
    right.set(xscale="log", xlabel="density", ylabel="times the bound")
    figure.legend(loc="outside right center", fontsize=7)
    figure.suptitle(f"random supports of {found[0]['shape']['numel']:,} positions", fontsize=9)
    _save(figure, found, path)


def draw_speed(rows: Sequence[Row], path: pathlib.Path) -> None:
    """Draw indices a second of supports' encoders and decoders, a panel a density, and updates.

    Raises:
        ValueError: if there are no rows of random supports.
    """
    from matplotlib.figure import Figure

    by_mode = {mode: _rows(rows, CODEC_SPEED, mode) for mode in ("encode", "decode")}
    figure = Figure(figsize=(13, 4), layout="constrained")
    *axes, beside = figure.subplots(1, len(SPEED_DENSITIES) + 1)
    names = list(curves(by_mode["decode"], "gindices_per_s"))
    for axis, density in zip(axes, SPEED_DENSITIES, strict=True):
        for place, (mode, found) in enumerate(by_mode.items()):
            rates = {
                name: dict(points)[density]
                for name, points in curves(found, "gindices_per_s").items()
                if density in dict(points)
            }
            height = [names.index(name) + 0.4 * place - 0.2 for name in rates]
            axis.barh(height, list(rates.values()), 0.38, label=mode)
        axis.set(xscale="log", xlabel="G indices a second", title=f"density {density:g}")
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        axis.grid(axis="x", linewidth=0.3)
        axis.invert_yaxis()
    axes[0].legend(fontsize=7)
    _draw_updates(rows, beside)
    _save(figure, by_mode["decode"], path)


def _draw_updates(rows: Sequence[Row], axis: Any) -> None:
    """Draw the milliseconds of a whole update, and of a copy of its dense tensor as a line."""
    found = [
        row
        for row in rows
        if (row["table"], row["op"], row["density"]) == (CODEC_SPEED, UPDATE, UPDATE_DENSITY)
        and row["correct"]
    ]
    names = list(dict.fromkeys(UPDATE_NAMES.values()))
    for place, mode in enumerate(UPDATE_MODES):
        taken = {
            UPDATE_NAMES[row["provider"], row["variant"]]: row["median_us"] / 1000
            for row in found
            if row["mode"] == mode and (row["provider"], row["variant"]) in UPDATE_NAMES
        }
        height = [names.index(name) + 0.4 * place - 0.2 for name in taken]
        axis.barh(height, list(taken.values()), 0.38, label=mode)
    for row in found:
        if row["provider"] == COPY:
            axis.axvline(row["median_us"] / 1000, color="black", linestyle="--", label=COPY)
    axis.set(xscale="log", xlabel="ms", title=f"whole update, density {UPDATE_DENSITY:g}")
    axis.set_yticks(range(len(names)), names)
    axis.grid(axis="x", linewidth=0.3)
    axis.invert_yaxis()
    if found:
        axis.legend(fontsize=7)


def curves(rows: Sequence[Row], field: str) -> dict[str, Curve]:
    """Collect (density, field) by provider, densities ascending, ours first."""
    out: dict[str, Curve] = {}
    for row in sorted(rows, key=lambda r: (r["provider"] != OURS, r["density"])):
        name = NAMES.get((row["provider"], row["variant"]), row["provider"])
        out.setdefault(name, []).append((row["density"], row[field]))
    return out


def _rows(rows: Sequence[Row], table: str, mode: str) -> list[Row]:
    kept = [
        row
        for row in rows
        if row["table"] == table and row["op"] == SUPPORT and row["mode"] == mode and row["correct"]
    ]
    if not kept:
        raise ValueError(f"rows: none of table {table}, op {SUPPORT}, mode {mode}: nothing to draw")
    return kept


def _save(figure: Any, rows: Sequence[Row], path: pathlib.Path) -> None:
    first = rows[0]
    figure.supxlabel(
        f"{first['cpu']} ({first['isa']}), one thread, commit {commits(rows)}", fontsize=7
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
