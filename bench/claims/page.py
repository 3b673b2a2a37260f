"""Claims as a page for an appendix: Markdown tables, and PNG plots of factors and curves."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence

from sparsefl.bench.markdown import markdown
from sparsefl.figures import COLOURS, DPI, GREY, MARKERS, legend_below, name_ticks, open_figure

from .claim import Claim, listed, read, realised, show

PAGE = "claims.md"
REALISED = "realised.png"
HEAD = ("row", "claim", "accounting", "measured", "realised factor", "baseline", "verdict")
TEXTS = {*HEAD} - {"realised factor"}
# Settings that a curve may run over, and those whose values are curves of their own.
AXES = ("density", "frozen_fraction")
SERIES = "model"
LEAST_POINTS = 3
_OUTCOMES = {"goals reached": COLOURS[0], "not reproduced": COLOURS[1], "no goal": GREY}
_BAR_INCHES, _FRAME_INCHES = 0.22, 1.1

Group = Mapping[str, Sequence[Claim]]


def load(paths: Sequence[pathlib.Path]) -> dict[str, list[Claim]]:
    """Read files of claims, by their names.

    Raises:
        FileNotFoundError, ValueError: if one is not there, or is no list of claims.
    """
    return {path.stem: read(path) for path in paths}


def write_page(groups: Group, folder: pathlib.Path, plots: bool = True) -> list[pathlib.Path]:
    """Write the page and its plots into a folder, which is created.

    Args:
        groups: Claims by the name of their file.
        folder: Where the files go.
        plots: Whether to draw.

    Returns:
        The files, the page first.

    Raises:
        ModuleNotFoundError: if plots are wanted without matplotlib; the page is written first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    page.write_text(text(groups, {}))
    if not plots:
        return [page]
    drawn = draw(groups, folder)
    page.write_text(text(groups, {name: path.name for name, path in drawn.items()}))
    return [page, *drawn.values()]


def text(groups: Group, pictures: Mapping[str, str]) -> str:
    """Format the page.

    Args:
        groups: Claims by the name of their file.
        pictures: File of the plot of each group, and of "" for the realised factors.
    """
    every = [own for claims in groups.values() for own in claims]
    failed = sum(bool(own.missed) for own in every)
    parts = [
        "# Claimed beside measured\n",
        f"{len(every)} rows, {failed} of them with a goal that was not reached. A realised factor "
        "is measured / claimed, each factor dense / ours: at 1 all that is claimed was measured.\n",
    ]
    if "" in pictures:
        parts.append(f"![realised factors]({pictures['']})\n")
    for name, claims in groups.items():
        parts += [f"## {name}\n", _table(claims)]
        if name in pictures:
            parts.append(f"![{name}]({pictures[name]})\n")
        parts.append(_footing(claims))
    return "\n".join(parts)


def _table(claims: Sequence[Claim]) -> str:
    def cells(own: Claim) -> Iterator[str]:
        yield from (own.row, own.claim, listed(own.accounting), listed(own.measured))
        yield from (realised(own), listed_baseline(own), own.verdict)

    lines = ([cell.replace("|", r"\|") for cell in cells(own)] for own in claims)
    return markdown(HEAD, lines, TEXTS)


def listed_baseline(own: Claim) -> str:
    """Format a baseline: its name, then its figures."""
    figures = {name: value for name, value in own.baseline.items() if name != "name"}
    name = str(own.baseline.get("name", ""))
    return "; ".join(part for part in (name, listed(figures) if figures else "") if part)


def overview(groups: Group) -> str:
    """Format one table of all claims, a line a kind of row: "3 HideNseek step" is one."""
    kinds: dict[str, list[Claim]] = {}
    for claims in groups.values():
        for own in claims:
            kinds.setdefault(own.row.partition(",")[0], []).append(own)
    ordered = sorted(kinds.items(), key=lambda kind: kind[0])
    head = ("row", "goals reached", "measured", "realised factor")
    if not ordered:
        return "Not measured yet.\n"
    return markdown(head, (_overview_line(kind, claims) for kind, claims in ordered), TEXTS)


def _overview_line(kind: str, claims: Sequence[Claim]) -> list[str]:
    judged = [own for own in claims if own.goals]
    reached = sum(not own.missed for own in judged)
    name = quantity_of(claims)
    values = sorted(own.measured[name] for own in claims if name in own.measured)
    factors = sorted(own.realised_factor for own in claims if own.realised_factor is not None)
    return [
        kind,
        f"{reached} of {len(judged)}" if judged else "-",
        _range([show(name, value) for value in values]) if name else "-",
        _range([f"{value:.3g}" for value in factors]),
    ]


def missed(groups: Group) -> str:
    """List the goals that were missed, a line a row of a claim."""
    lines = [
        f"- {own.row}: {', '.join(own.missed)}\n"
        for own in sorted((own for claims in groups.values() for own in claims), key=_by_row)
        if own.missed
    ]
    return "".join(lines) or "None.\n"


def _by_row(claim: Claim) -> str:
    return claim.row.partition(",")[0]


def _range(texts: Sequence[str]) -> str:
    if not texts:
        return "-"
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _footing(claims: Sequence[Claim]) -> str:
    """Say how to repeat the rows, and on what they were measured."""
    commands = dict.fromkeys(own.command for own in claims)
    machines = dict.fromkeys(
        f"{own.machine.get('cpu')}, {own.settings.get('threads', own.machine.get('threads'))} "
        f"threads, torch {own.machine.get('torch')}, {own.machine.get('isa')}"
        for own in claims
    )
    commits = dict.fromkeys(own.commit[:12] for own in claims)
    said = ", ".join(f"`{command}`" for command in commands)
    settings = [f"- {own.row}: {listed(own.settings)}\n" for own in claims]
    head = f"Repeat with {said}. Measured on {'; '.join(machines)}; commit {', '.join(commits)}.\n"
    return f"{head}\nSettings:\n\n{''.join(settings)}"


def draw(groups: Group, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Draw the realised factors, under the name "", and every group that has a curve.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    drawn = {}
    factors = [
        own for claims in groups.values() for own in claims if own.realised_factor is not None
    ]
    if factors:
        drawn[""] = folder / REALISED
        draw_realised(factors, drawn[""])
    for name, claims in groups.items():
        axis, quantity = axis_of(claims), quantity_of(claims)
        if axis is not None and quantity is not None:
            drawn[name] = folder / f"{name}.png"
            draw_curve(claims, axis, quantity, drawn[name])
    return drawn


def draw_realised(claims: Sequence[Claim], path: pathlib.Path) -> None:
    """Draw a bar a row, from 1 to its factor, in a colour that tells what became of its goals."""
    figure, axes, ticker = open_figure(_FRAME_INCHES + _BAR_INCHES * len(claims))
    ordered = sorted(claims, key=lambda own: own.row)
    for label, colour in _OUTCOMES.items():
        shown = [(i, own) for i, own in enumerate(ordered) if _outcome(own) == label]
        if shown:
            places, values = zip(*((i, own.realised_factor) for i, own in shown), strict=True)
            axes.barh(places, [v - 1 for v in values], left=1.0, color=colour, label=label)
            axes.plot(values, places, color=colour, marker="o", markersize=3, linestyle="")
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.set_xscale("log")
    name_ticks(axes.xaxis, ticker, lambda value: f"{value:g}")
    axes.set_yticks(range(len(ordered)), [own.row for own in ordered], fontsize=6)
    axes.set_ylim(len(ordered) - 0.5, -0.5)
    # Of the figure, not of the axes: beside long names these are narrower than the text.
    figure.suptitle("realised factor: measured / claimed", fontsize="medium")
    legend_below(figure, axes, columns=3)
    _save(figure, path)


def _outcome(own: Claim) -> str:
    """Return the name of what became of a claim's goals."""
    reached, missed, none = _OUTCOMES
    return missed if own.missed else reached if own.goals else none


def axis_of(claims: Sequence[Claim]) -> str | None:
    """Return the setting that a curve runs over: numbers, some different ones in one series."""
    for axis in AXES:
        values = [own.settings.get(axis) for own in claims]
        if all(isinstance(v, int | float) for v in values) and len(set(values)) >= LEAST_POINTS:
            return axis
    return None


def quantity_of(claims: Sequence[Claim]) -> str | None:
    """Return the first quantity that all have measured as a number."""
    for name in claims[0].measured:
        if all(isinstance(own.measured.get(name), int | float) for own in claims):
            return name
    return None


def draw_curve(claims: Sequence[Claim], axis: str, quantity: str, path: pathlib.Path) -> None:
    """Draw a measured quantity over a setting, and what the accounting says of it, dashed."""
    figure, axes, ticker = open_figure()
    series = dict.fromkeys(own.settings.get(SERIES) for own in claims)
    for model, colour, marker in zip(series, COLOURS, MARKERS, strict=False):
        own = sorted(
            (c for c in claims if c.settings.get(SERIES) == model), key=lambda c: c.settings[axis]
        )
        places = [c.settings[axis] for c in own]
        values = [c.measured[quantity] for c in own]
        axes.plot(places, values, color=colour, marker=marker, label=f"{model}, measured")
        if all(quantity in c.accounting for c in own):
            claimed = [c.accounting[quantity] for c in own]
            axes.plot(places, claimed, color=colour, linestyle="--", label=f"{model}, claimed")
    if axis == AXES[0]:
        axes.set_xscale("log")
        name_ticks(axes.xaxis, ticker, lambda value: f"{value:g}")
    axes.set_yscale("log")
    name_ticks(axes.yaxis, ticker, lambda value: f"{value:g}")
    axes.set_xlabel(axis.replace("_", " "))
    axes.set_ylabel(quantity.replace("_", " "))
    legend_below(figure, axes, columns=2)
    _save(figure, path)


def _save(figure: object, path: pathlib.Path) -> None:
    figure.savefig(path, dpi=DPI)  # type: ignore[attr-defined]
