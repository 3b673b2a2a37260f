"""Methods side by side: the table, the plots and ``compare.json`` of a comparison."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from sparsefl.fl.experiment import Setting, load_problem, play
from sparsefl.fl.ledger import Round
from sparsefl.fl.plots import plot_curves, plot_factors
from sparsefl.fl.result import Result
from sparsefl.fl.table import format_table
from sparsefl.ops import isa

METHODS = ("linear", "fedavg", "fedpt", "hidenseek")
_GIT_TIMEOUT_S = 10


def compare(
    setting: Setting,
    methods: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, Mapping[str, Any]],
    folder: str | os.PathLike[str],
    on_round: Callable[[str, int, Round], None] | None = None,
) -> list[Result]:
    """Run methods on the same data, and write what came of it into a folder.

    ``compare.json`` holds the rows, ``accuracy.png`` and ``factors.png`` the plots,
    ``METHOD-SEED/`` the log and the result of each run.

    Args:
        setting: What is trained on what; the same for all.
        methods: Some of ``METHODS``.
        seeds: One run of every method for each.
        options: Options by method.
        folder: Where the files go; created where it is missing.
        on_round: Called with method, seed and entry after each round.

    Returns:
        The results, methods within seeds.

    Raises:
        ValueError: if a name is unknown or a size impossible.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in seeds:
        problem = load_problem(setting, seed)
        for method in methods:

            def report_round(entry: Round, method: str = method, seed: int = seed) -> None:
                if on_round is not None:
                    on_round(method, seed, entry)

            result = play(method, setting, problem, seed, options.get(method), report_round)
            result.save(folder / f"{method}-{seed}")
            results.append(result)
            # Written after every run, so that an interrupted comparison is not lost.
            write_json(setting, results, folder / "compare.json")
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


def draw(results: Sequence[Result], folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Write ``accuracy.png`` and ``factors.png``, and return their paths.

    With several seeds each method's curve is the first one's.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        curves.setdefault(result.config["label"], result.ledger.curve())
    accuracy, factors = (pathlib.Path(folder) / name for name in ("accuracy.png", "factors.png"))
    plot_curves(curves, accuracy)
    plot_factors([result.row() for result in results], factors)
    return [accuracy, factors]


def table(results: Sequence[Result]) -> str:
    """Format all runs, claimed beside measured."""
    return format_table([result.row() for result in results])


def machine() -> dict[str, Any]:
    """Describe what measurements were made on and with."""
    allocator = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "LD_PRELOAD"))}
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
        "allocator": f"{' '.join(platform.libc_ver())} {allocator or 'defaults'}",
        "denormals_flushed": bool(torch.tensor(1e-39).mul(1.0) == 0),
    }


def version() -> str:
    """Return the installed version, or "source tree" when the package is not installed."""
    try:
        return importlib.metadata.version("sparsefl")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


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
