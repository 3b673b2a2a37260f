"""``python -m sparsefl.bench.claims.summary``: what the studies found, as tables and a plot.

A row that has not been run with every seed says with how many; one without any run says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsefl.bench.markdown import markdown
from sparsefl.figures import COLOURS, MARKERS
from sparsefl.fl.ledger import SPENT
from sparsefl.fl.seeds import Spread
from sparsefl.fl.table import size

from .accuracy import HERE, RESULTS, STUDY, Results, found_widths
from .study import Row, Study, choose

SUPERMASKS = ("supermasks", "supermask_rules")
NAMES = ("longer", "methods", "bfloat16", *SUPERMASKS, *(f"{name}_cifar10" for name in SUPERMASKS))
STUDIES = (STUDY, *(HERE / f"{name}.toml" for name in NAMES))
PICTURE = RESULTS.with_suffix(".png")
TABLES = RESULTS.with_suffix(".md")
HEAD = ("", "accuracy", "clients: mean", "worst tenth", "bytes, all", "step", "seeds", "chosen")
# Where clients have models of their own.
PERSONAL = "own models: mean"
NOT_RUN = "not run yet"


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found for a row in a setting.

    Attributes:
        setting: Name of the setting.
        row: The row.
        accuracy: Of the last global model on the test set, over the seeds.
        clients: Mean over the clients, each on data of its own.
        worst_decile: Mean over the worst tenth of the clients.
        personal: Mean over the clients of their own models, each on data of its own; ``None`` where
            they have none.
        total_bytes: Set-up, down and up, all clients and rounds, mean over the seeds.
        step_factor: Seconds of a dense local step / seconds of this; ``None`` if not measured.
        options: What the trials chose.
        seeds: How many there were.
        data: What the data are called, their copy if it is not the official one.
        commits: Of the runs.
    """

    setting: str
    row: Row
    accuracy: Spread
    clients: Spread
    worst_decile: Spread
    personal: Spread | None
    total_bytes: float
    step_factor: float | None
    options: dict[str, Any]
    seeds: int
    data: str
    commits: frozenset[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables of every study and setting; draw the first one's accuracy against bytes."""
    parser = argparse.ArgumentParser(prog="python -m sparsefl.bench.claims.summary")
    parser.add_argument(
        "--study", type=pathlib.Path, nargs="+", default=STUDIES, help="what was run"
    )
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="its JSON lines")
    parser.add_argument("--plot", type=pathlib.Path, default=PICTURE, help="the picture")
    parser.add_argument("--tables", type=pathlib.Path, default=TABLES, help="the tables, markdown")
    args = parser.parse_args(argv)
    studies, results = [Study.read(path) for path in args.study], Results(args.results)
    found = [list(summarise(study, results)) for study in studies]
    parts = [
        f"# {path.stem}: {data_of(study, items)}, {study.rounds} rounds of {study.local_steps} "
        f"steps\n\n{tables(study, items)}"
        for path, study, items in zip(args.study, studies, found, strict=True)
    ]
    args.tables.write_text("\n".join(parts))
    print(args.tables.read_text())
    if found[0]:
        draw(found[0], args.plot)
    return 0


def summarise(study: Study, results: Results) -> Iterator[Found]:
    """Yield every row of every setting of which there is a final run."""
    study = study.with_widths(found_widths(study, results))
    chosen = choose(study, results.by_key)
    for setting in study.settings:
        for row in study.rows.values():
            jobs = [job for job in study.finals(setting, chosen) if job.row == row.name]
            runs = [results.by_key[study.key(j)] for j in jobs if study.key(j) in results.by_key]
            if not runs:
                continue
            spent = [
                # Runs of older versions had no set-up up.
                sum(run["ledger"].get(name, 0) for name in SPENT)
                for run in runs
            ]
            judged = [run["accuracy_per_client"] for run in runs]
            yield Found(
                setting=setting,
                row=row,
                accuracy=Spread.of([run["accuracy"] for run in runs]),
                clients=Spread.of([run["mean"] for run in judged]),
                worst_decile=Spread.of([run["worst_decile"] for run in judged]),
                personal=personal_of(judged),
                total_bytes=sum(spent) / len(spent),
                step_factor=results.by_key.get(study.step_key(row), {}).get("step_factor"),
                options=dict(jobs[0].options),
                seeds=len(runs),
                data=runs[0].get("data", study.dataset).split(",")[0],
                commits=frozenset(run["commit"] for run in runs),
            )


def personal_of(judged: Sequence[Mapping[str, Any]]) -> Spread | None:
    """Return the accuracy of the clients' own models, if all runs have any."""
    own = [run["personal"]["mean"] for run in judged if "personal" in run]
    return Spread.of(own) if len(own) == len(judged) else None


def data_of(study: Study, found: Sequence[Found]) -> str:
    """Name the data that the runs were made on; as the study does before there are any."""
    return ", ".join(dict.fromkeys(item.data for item in found)) or study.dataset


def tables(study: Study, found: Sequence[Found]) -> str:
    """Format one table a setting, as markdown, with the rows that were not run."""
    texts = []
    for setting in study.settings:
        items = {item.row.name: item for item in found if item.setting == setting}
        body = table(study, items) if items else f"{NOT_RUN}: {'; '.join(study.rows)}\n"
        texts.append(f"## {setting}\n\n{body}")
    return "\n".join(texts)


def table(study: Study, found: Mapping[str, Found]) -> str:
    """Format the table of a setting, by row; own models have a column where there are any."""
    personal = any(item.personal is not None for item in found.values())
    head = [*HEAD[:4], PERSONAL, *HEAD[4:]] if personal else list(HEAD)

    def lines() -> Iterator[list[str]]:
        for name in study.rows:
            if name in found:
                yield line(found[name], personal)
            else:
                yield [name, NOT_RUN, *[""] * (len(head) - 2)]

    return markdown(head, lines())


def overview(study: Study, found: Sequence[Found]) -> str:
    """Format one table of all settings, as markdown: a line a row, accuracies in percent.

    What was not run with every seed says how many there were; rows without any run are left out.
    """
    by_cell = {(item.row.name, item.setting): item for item in found}

    def cell(row: str, setting: str) -> str:
        item = by_cell.get((row, setting))
        if item is None:
            return NOT_RUN
        full = item.seeds == len(study.seeds)
        return in_percent(item.accuracy) + (
            "" if full else f" ({item.seeds} of {len(study.seeds)} seeds)"
        )

    def lines() -> Iterator[list[str]]:
        for name in study.rows:
            items = [by_cell[name, s] for s in study.settings if (name, s) in by_cell]
            if not items:
                continue
            accuracies = [cell(name, setting) for setting in study.settings]
            yield [name_of(items[0]), *accuracies, size(items[0].total_bytes), step_of(items[0])]

    return markdown(["", *study.settings, "bytes, all", "step"], lines())


def line(item: Found, personal: bool) -> list[str]:
    """Format one row, with the accuracy of the clients' own models if ``personal``."""
    own = "-" if item.personal is None else in_percent(item.personal)
    return [
        name_of(item),
        in_percent(item.accuracy),
        in_percent(item.clients),
        in_percent(item.worst_decile),
        *([own] if personal else []),
        size(item.total_bytes),
        step_of(item),
        str(item.seeds),
        ", ".join(f"{name} {value}" for name, value in item.options.items()),
    ]


def step_of(item: Found) -> str:
    """Format how many times as fast as the dense row's a local step is."""
    return "-" if item.step_factor is None else f"{item.step_factor:.2f}x"


def name_of(item: Found) -> str:
    """Name a row, with the width that was found for it."""
    return f"{item.row.name}, width {item.row.width:g}" if item.row.like else item.row.name


def in_percent(spread: Spread) -> str:
    """Format mean and standard deviation, in percent."""
    deviation = "" if spread.std is None else f" ± {100 * spread.std:.1f}"
    return f"{100 * spread.mean:.1f}{deviation}"


def draw(found: Sequence[Found], path: pathlib.Path) -> None:
    """Draw accuracy against bytes, a panel a setting; the linear row is the line to beat.

    The densities of HideNseek are one line, each named beside its point.
    """
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(item.setting for item in found))
    figure = Figure(figsize=(4.4 * len(settings), 4.2), layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False, sharex=True, sharey=True)[0]
    for axes, setting in zip(panels, settings, strict=True):
        series: dict[str, list[Found]] = {}
        for item in (item for item in found if item.setting == setting):
            series.setdefault(item.row.name.split(" .")[0], []).append(item)
        for (name, items), marker, color in zip(series.items(), MARKERS, COLOURS, strict=False):
            draw_series(axes, name, items, marker, color)
        axes.set(xscale="log", xlabel="bytes of all messages")
        axes.set_title(setting, fontsize=9)
    panels[0].set_ylabel("test accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=130)


def draw_series(axes: Any, name: str, items: Sequence[Found], marker: str, color: str) -> None:
    """Draw the rows of one name, by their bytes, with the deviation over the seeds."""
    items = sorted(items, key=lambda item: item.total_bytes)
    sizes = [item.total_bytes for item in items]
    heights = [100 * item.accuracy.mean for item in items]
    errors = [100 * (item.accuracy.std or 0.0) for item in items]
    axes.errorbar(sizes, heights, yerr=errors, fmt=f"{marker}-", color=color, capsize=3, label=name)
    if any(item.row.model == "linear" for item in items):
        axes.axhline(heights[0], color=color, linestyle="--", zorder=0)
    for item, place in zip(items, zip(sizes, heights, strict=True), strict=True):
        if item.row.method == "hidenseek":
            text = f"{item.row.density:g}"
            axes.annotate(text, place, (5, 5), textcoords="offset points", color=color, fontsize=8)


if __name__ == "__main__":
    sys.exit(main())
