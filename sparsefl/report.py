"""Methods side by side: the table, the plots and ``compare.json`` of a comparison."""

import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from sparsefl.allocator import describe_allocator
from sparsefl.fl.experiment import Setting, check, load_problem, play
from sparsefl.fl.ledger import SPENT, Round
from sparsefl.fl.plots import plot_clients, plot_factors, plot_memory, plot_seeds
from sparsefl.fl.result import Result
from sparsefl.fl.saved import Run, name_runs
from sparsefl.fl.table import merge_seeds
from sparsefl.machine import cpu_name, version
from sparsefl.names import CHECKPOINT, COMPARISON, LINEAR, run_folder
from sparsefl.ops import isa

DENSE = "dense"
_GIT_TIMEOUT_S = 10


def compare(
    setting: Setting,
    methods: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, Mapping[str, Any]],
    folder: str | os.PathLike[str],
    on_round: Callable[[str, int, Round], None] | None = None,
    resume: bool = False,
) -> list[Result]:
    """Run methods on the same data, and write what came of it into a folder.

    ``compare.json`` holds the rows, ``METHOD-SEED/`` the log and the result of each run.

    Args:
        setting: What is trained on what; the same for all.
        methods: Some of ``sparsefl.names.ROWS``.
        seeds: One run of every method for each.
        options: Options by method.
        folder: Where the files go; created where it is missing.
        on_round: Called with method, seed and entry after each round.
        resume: Go on with what the folder holds; what is finished is only measured again.

    Every method is tried on the data before the first is run.

    Returns:
        The results, methods within seeds.

    Raises:
        ValueError: if a name is unknown or a size impossible.
    """
    folder = pathlib.Path(folder)
    results = []
    for seed in seeds:
        problem = load_problem(setting, seed, methods)
        for method in methods:
            check(method, setting, problem, seed, options.get(method))
        folder.mkdir(parents=True, exist_ok=True)
        for method in methods:

            def report_round(entry: Round, method: str = method, seed: int = seed) -> None:
                if on_round is not None:
                    on_round(method, seed, entry)

            own = folder / run_folder(method, seed)
            result = play(
                method,
                setting,
                problem,
                seed,
                options.get(method),
                report_round,
                checkpoint=own / CHECKPOINT,
                resume=resume,
            )
            result.save(own)
            results.append(result)
            # Written after every run, so that an interrupted comparison is not lost.
            write_json(setting, results, folder / COMPARISON)
    return results


def write_json(setting: Setting, results: Sequence[Result], path: pathlib.Path) -> None:
    """Write ``compare.json``: commit, machine, configuration and one row a run."""
    report = {
        "commit": commit(),
        "machine": machine(),
        "config": {
            **asdict(setting),
            "options": {result.config["label"]: result.config["options"] for result in results},
        },
        "rows": [result.row() for result in results],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def draw(runs: Sequence[Run], folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Draw what is known of the runs, and return the files.

    ``accuracy.png`` and ``seconds.png`` (accuracy against bytes and against seconds of training,
    where there is a log), ``factors.png`` (claimed against measured), ``memory.png`` (by part,
    where it was measured) and ``clients.png`` (the clients' own accuracies, where they have data).

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    folder = pathlib.Path(folder)
    named = name_runs(runs)
    by_bytes = {name: [run.curve(*SPENT) for run in own] for name, own in named.items()}
    by_seconds = {name: [run.curve("train_s") for run in own] for name, own in named.items()}
    memory = _memory_cells(named)
    clients = {name: _client_accuracies(own) for name, own in named.items()}
    clients = {name: values for name, values in clients.items() if values}
    drawn = []

    def add(plot: Callable[..., None], name: str, *data: Any) -> None:
        drawn.append(folder / name)
        plot(data[0], drawn[-1], *data[1:])

    if any(curve for curves in by_bytes.values() for curve in curves):
        on = _data_line(runs)
        add(plot_seeds, "accuracy.png", by_bytes, f"Accuracy against bytes{on}")
        add(plot_seeds, "seconds.png", by_seconds, f"Accuracy against seconds{on}", "seconds")
    rows = [
        {**merge_seeds([run.row for run in own])[0], "method": name} for name, own in named.items()
    ]
    add(plot_factors, "factors.png", rows)
    if memory:
        add(plot_memory, "memory.png", memory)
    if clients:
        add(plot_clients, "clients.png", clients)
    return drawn


def _data_line(runs: Sequence[Run]) -> str:
    """Return a second line for a title: the data, where all runs are on the same."""
    labels = {run.row.get("data") for run in runs}
    return f"\n{labels.pop()}" if len(labels) == 1 and None not in labels else ""


def _client_accuracies(runs: Sequence[Run]) -> list[float]:
    each = [run.row["accuracy_per_client"].get("each", ()) for run in runs]
    return [value for values in each for value in values if value is not None]


def _memory_cells(named: Mapping[str, Sequence[Run]]) -> dict[str, Mapping[str, int]]:
    """Return each method's memory, and below them that of their models trained dense."""
    first = {name: runs[0] for name, runs in named.items() if runs[0].memory}
    cells = {name: run.memory["client"] for name, run in first.items()}
    dense = {run.row["model"]: run.memory["dense"] for run in first.values()}
    dense.pop(LINEAR, None)
    for model, parts in dense.items():
        cells[DENSE if len(dense) == 1 else f"{DENSE} {model}"] = parts
    return cells


def machine() -> dict[str, Any]:
    """Describe what measurements were made on and with."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparsefl": version(),
        "isa": isa(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "allocator": describe_allocator(),
        "denormals_flushed": bool(torch.tensor(1e-39).mul(1.0) == 0),
    }


def commit() -> str:
    """Return the commit that the package is run from, ``-dirty`` when changed, else "unknown"."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
