"""Writes the figures of README and docs from the committed JSON files: none is typed by hand.

``python -m sparsefl.bench.tables README.md docs/*.md bench/results`` does so in place.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsefl.fl import table

from . import cap, goals, rows
from .claims import page, summary
from .claims.accuracy import HERE, METHODS, RESULTS, STUDY, Results
from .claims.study import Study
from .codec.tables import size_table, speed_table
from .markdown import fill, markdown
from .rows import BASELINE, Row, shape_text
from .sweeps import CONV_KERNELS, LINEAR_KERNELS, OPS

PROVIDERS = ("torch_dense", "torch_sparse", "sparsefl")
# The picture shows the others.
DENSITY = 0.1


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the tables of pages; takes their paths, and last the folder of the results."""
    *pages, results = map(pathlib.Path, argv if argv is not None else sys.argv[1:])
    tables = tables_of(results)
    for page_path in pages:
        page_path.write_text(fill(page_path.read_text(), tables))
    return 0


def tables_of(results: pathlib.Path) -> dict[str, str]:
    """Make every table, by name, from a folder of results."""
    measured = rows.read(results / "cpu.json")
    compared = json.loads((results / "compare.json").read_text())
    messages = rows.read(results / "codec.json")
    claimed = page.load(sorted(HERE.glob("*.json")))
    studied = Results(RESULTS)
    return {
        "ops": ops_table([row for row in measured if row["table"] == OPS]),
        "goals": goals_table(measured),
        "cap": cap.table(measured),
        "codec_sizes": size_table(messages),
        "codec_speed": speed_table(messages),
        "methods": methods_table(compared),
        "accuracy": accuracy_table(Study.read(METHODS), studied),
        "accuracy_densities": accuracy_table(Study.read(STUDY), studied),
        "claims": page.overview(claimed),
        "claims_missed": page.missed(claimed),
    }


def ops_table(measured: Sequence[Row]) -> str:
    """Make the table of full steps on all threads: a line a point, of the fastest variants."""
    threads = max(row["threads"] for row in measured)
    points: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in measured:
        if row["mode"] != "full" or row["threads"] != threads or not row["correct"]:
            continue
        if row["density"] != DENSITY:
            continue
        point = points.setdefault((row["op"], *row["shape"].values()), {})
        known = point.get(row["provider"])
        if known is None or row["median_us"] < known["median_us"]:
            point[row["provider"]] = row

    def line(found: Mapping[str, Row]) -> list[str]:
        row = found["sparsefl"]
        times = [f"{found[p]['median_us']:,.0f}" if p in found else "-" for p in PROVIDERS]
        label = f"`{row['op']}` {shape_text(row)}"
        return [label, *times, f"{row['ratio_to_dense']:.2f}x"]

    head = [f"us, density {DENSITY:g}", "dense torch", "MKL CSR", "sparsefl", "faster"]
    return markdown(head, map(line, points.values())) + "\n" + footing(measured[0], threads)


LABELS = {
    ("linear", "torch_dense"): "linear layers of 512 to 4096, batch 16 to 256: dense torch",
    (LINEAR_KERNELS, "torch_dense"): "the same layers' kernels alone: dense torch's",
    ("linear", "torch_sparse"): "the same layers: MKL CSR",
    ("conv", "torch_dense"): "ResNet convolutions on CIFAR, batch 64: dense torch",
    (CONV_KERNELS, "torch_dense"): "the same layers' kernels alone: dense torch's",
    ("conv", "torch_sparse"): "the same layers: im2col and MKL CSR",
    ("fl", "torch_dense"): "small layers of federated models, batch 10 to 32: dense torch",
    (goals.STEP, "torch_dense"): "ResNet-18, whole step, batch 64: dense torch",
    (goals.MEMORY, "torch_dense"): "its peak memory, of dense",
}


def goals_table(measured: Sequence[Row]) -> str:
    """Make the table of means: a line a table and peer, a column a density; the worst below it."""
    found = {(c.table, c.peer, c.density): c for c in goals.cells(measured)}
    densities = sorted({d for table, peer, d in found if (table, peer) in LABELS}, reverse=True)

    def text(cell: goals.Cell | None) -> str:
        if cell is None:
            return "-"
        worst = "" if cell.shapes == 1 else f" ({cell.worst:.2g})"
        return f"{cell.mean:.2f}{worst}" if cell.less else f"{cell.mean:.3g}x{worst}"

    def line(key: tuple[str, str]) -> list[str]:
        return [LABELS[key], *(text(found.get((*key, density))) for density in densities)]

    present = [key for key in LABELS if any(key == (table, peer) for table, peer, _ in found)]
    commits = sorted(
        {row["commit"][:12] for row in measured if (row["table"], BASELINE) in present}
    )
    note = (
        "\nGeometric means over a table's shapes, forward and backward, in and out batch-last, "
        "of the linear layers of 512 to 4096 row-major. Layers run through autograd, as in "
        "training; *kernels alone* are both sides' operators called directly. No bias is "
        "trained in these, nor in the convolutions. "
        f"Commit {', '.join(commits)}.\n"
    )
    failed = list(goals.wrong(measured))
    if failed:
        note += f"\nNot in the means, since our result was wrong: {'; '.join(failed)}.\n"
    head = ["times faster (worst shape) than", *(f"density {d:g}" for d in densities)]
    return markdown(head, map(line, present)) + note if present else "Not measured yet.\n"


def footing(row: Row, threads: int) -> str:
    """State what the rows were measured on."""
    return (
        f"{row['cpu']} ({row['isa']}), {threads} threads, torch {row['torch']}, float32, medians "
        f"of interleaved steps, commit {row['commit']}.\n"
    )


def methods_table(compared: Mapping[str, Any]) -> str:
    """Make the table of the methods: accuracy, and factors claimed beside measured."""

    def times(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}x"

    def pair(row: Row, claim: Callable[..., Any], measure: Callable[..., Any]) -> list[str]:
        claimed, measured = claim(row), measure(row)
        share = table.realised(measured, claimed)
        return [times(claimed), times(measured), "-" if share is None else f"{share:.2f}"]

    def line(row: Row) -> list[str]:
        return [
            f"{row['method']} ({row['model']}, density {row['density']:g})",
            f"{row['accuracy']:.3f}",
            *pair(row, table.claimed_uplink_factor, table.measured_uplink_factor),
            *pair(row, table.claimed_step_factor, table.measured_step_factor),
        ]

    head = ["method", "accuracy"]
    for quantity in ("bytes up", "step"):
        head += [f"{quantity}: claimed", "measured", "realised"]
    first = compared["rows"][0]
    return markdown(head, map(line, compared["rows"])) + (
        f"\n{first['rounds']} rounds, {first['threads']} threads, seed {first['seed']}, "
        f"commit {compared['commit']}.\n"
    )


def accuracy_table(study: Study, results: Results) -> str:
    """Make the table of the accuracy study as far as it has been run."""
    found = list(summary.summarise(study, results))
    absent = sorted(set(study.rows) - {item.row.name for item in found})
    commits = sorted({commit[:12] for item in found for commit in item.commits})
    return (
        summary.overview(study, found)
        + f"\nTest accuracy in percent, mean and standard deviation over {len(study.seeds)} seeds; "
        "bytes of all messages and local step against FedAvg's in the first setting; "
        f"{study.rounds} rounds of {study.local_steps} steps, batch {study.batch_size}. "
        f"Not run yet: {', '.join(absent) or 'nothing'}. Commit {', '.join(commits) or 'none'}.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
