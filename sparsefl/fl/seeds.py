"""The same run from several seeds: every result, and their mean and spread."""

import json
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from sparsefl.fl.batches import Dataset
from sparsefl.fl.ledger import Round
from sparsefl.fl.method import Method
from sparsefl.fl.options import check_whole
from sparsefl.fl.result import Result
from sparsefl.fl.runner import run
from sparsefl.fl.table import IDENTITY, format_table
from sparsefl.names import seed_folder

Clients = Sequence[Sequence[Dataset]]


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds.

    Attributes:
        mean: Mean.
        std: Sample standard deviation; ``None`` of a single seed.
        least: Smallest.
        most: Largest.
    """

    mean: float
    std: float | None
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, min(values), max(values))

    def __str__(self) -> str:
        """Mean and standard deviation."""
        return f"{self.mean:.4g}" + (f" +- {self.std:.2g}" if self.std is not None else "")


@dataclass(frozen=True)
class SeedResults:
    """Results of one configuration that differ in the seed alone.

    Attributes:
        results: One a seed, in the order of the seeds.
    """

    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        """Raises: ValueError: if there is no result."""
        if not self.results:
            raise ValueError("results must hold at least one result")

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return [result.config["seed"] for result in self.results]

    @property
    def accuracy(self) -> Spread:
        """Test accuracy over the seeds."""
        return Spread.of([result.accuracy for result in self.results])

    def summary(self) -> dict[str, Spread]:
        """Return the spread of every measured number of the rows, those of clients by dotted name.

        What one of the seeds has not measured is left out.
        """
        flat = [_numbers(result.row()) for result in self.results]
        names = [name for name in flat[0] if all(name in row for row in flat)]
        return {name: Spread.of([row[name] for row in flat]) for name in names}

    def table(self) -> str:
        """Format mean and spread, claimed beside measured."""
        return format_table([result.row() for result in self.results])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write each result into ``seed-N/``, and ``summary.json``."""
        folder = pathlib.Path(folder)
        for seed, result in zip(self.seeds, self.results, strict=True):
            result.save(folder / seed_folder(seed))
        report = {
            "label": self.results[0].config["label"],
            "seeds": self.seeds,
            "spread": {name: asdict(spread) for name, spread in self.summary().items()},
        }
        (folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n")


def _numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return what was measured; what says what was run is left out."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if not prefix and name in ("seed", *IDENTITY):
            continue
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            flat[prefix + name] = value
    return flat


def run_seeds(
    method: str | Method,
    model: Callable[[], nn.Module],
    clients: Clients | Callable[[int], Clients],
    test: Dataset,
    *,
    seeds: Sequence[int],
    on_round: Callable[[int, Round], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **arguments: Any,
) -> SeedResults:
    """Make one run a seed.

    Args:
        method: As for :func:`sparsefl.fl.run`.
        model: As for it.
        clients: The same clients for every seed, or ``(seed) -> clients``.
        test: As for it.
        seeds: Seeds, each once.
        on_round: Called with seed and entry after each round.
        checkpoint: Folder of the checkpoints, ``seed-N/`` each.
        arguments: Any other argument of :func:`sparsefl.fl.run`.

    Raises:
        TypeError: if a seed is no integer.
        ValueError: if there is no seed, or one comes twice.
    """
    each = [check_whole("seeds", seed) for seed in seeds]
    if not each or len(set(each)) < len(each):
        raise ValueError(f"seeds must be different integers, at least one, got {each}")
    results = []
    for seed in each:

        def report_round(entry: Round, seed: int = seed) -> None:
            if on_round is not None:
                on_round(seed, entry)

        result = run(
            method,
            model,
            clients(seed) if callable(clients) else clients,
            test,
            seed=seed,
            on_round=report_round,
            checkpoint=None if checkpoint is None else pathlib.Path(checkpoint) / seed_folder(seed),
            **arguments,
        )
        results.append(result)
    return SeedResults(tuple(results))
