"""``python -m sparsefl.bench.claims.privacy``: accuracy against what is trained, at equal epsilon.

FedPT's second claim: noise of deviation ``sigma C`` on each of |y| coordinates has a norm of about
``sigma C sqrt(|y|)``, so that fewer of them lose less. The 2NN is trained on Fashion-MNIST by
DP-FedAvg with all, some or few of its weights; every row has the same sigma, rounds and cohorts,
hence the same epsilon, and the same trials of the bound C on the server's development data. Final
runs have other seeds, and the test set is read by them alone.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparsefl import fl
from sparsefl.fl.experiment import Problem, Setting, load_problem, play

from . import claim
from .claim import Claim

CLAIM = (
    "Sidahmed et al. 2021 (arXiv 2110.03450), abstract: under differential privacy, partially "
    "trainable networks reach a better utility"
)
# All weights; without the first hidden layer's; without both hidden layers'.
ROWS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "all trained": ("fedavg", {}),
    "fc1 frozen": ("fedpt", {"frozen": "fc1"}),
    "fc1 and fc2 frozen": ("fedpt", {"frozen": "fc1,fc2"}),
}
SETTING = Setting(
    dataset="fashion-mnist",
    model="mlp",
    clients=200,
    partition="shards:5",
    rounds=25,
    schedule=fl.Schedule(clients_per_round=20, batch_size=16, local_steps=6, sampling="poisson"),
    dev_examples=2000,
    evaluate_every=0,
    threads=1,
    timed_steps=0,
)
PRIVACY = {"dp_noise": 1.0, "dp_delta": 1e-3}
TRIALS = (0.1, 0.5)
TUNING_SEED, SEEDS = 1000, (0, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the trials and the final runs of every row, and write the claims."""
    return claim.main("privacy", measure, argv)


def measure(command: str) -> list[Claim]:
    """Measure every row; each is held against the one that trains everything."""
    seeds = (TUNING_SEED, *SEEDS)
    problems = {seed: load_problem(SETTING, seed) for seed in seeds}
    claims: list[Claim] = []
    for row in ROWS:
        baseline = claims[0].measured["test_accuracy"] if claims else None
        claims.append(measure_row(row, SETTING, problems, baseline, command))
    return claims


def measure_row(
    row: str,
    setting: Setting,
    problems: Mapping[int, Problem],
    baseline: float | None,
    command: str,
) -> Claim:
    """Choose C, then make the final runs with noise, and one without any privacy.

    Args:
        row: One of ``ROWS``.
        setting: What is trained.
        problems: The data, by seed; the first seed's is for trials.
        baseline: Accuracy of the row that trains everything.
        command: How to repeat it.
    """
    method, options = ROWS[row]
    tuning, *seeds = problems
    tried = {}
    for clip in TRIALS:
        # The development data are in the place of the test set.
        known = problems[tuning]
        assert known.dev is not None
        trial = Problem(known.clients, None, known.dev, known.in_shape, known.classes, known.label)
        given = {**options, **PRIVACY, "dp_clip": clip}
        tried[clip] = play(method, setting, trial, tuning, given).accuracy
    chosen = max(tried, key=lambda clip: tried[clip])
    given = {**options, **PRIVACY, "dp_clip": chosen}
    private = [play(method, setting, problems[seed], seed, given) for seed in seeds]
    open_run = play(method, setting, problems[seeds[0]], seeds[0], options)
    accuracies = [result.accuracy for result in private]
    trained = private[0].costs.uplink_claimed_bytes
    updates = sum(entry.clients for entry in private[0].ledger.rounds)
    return Claim(
        row=f"2 FedPT under privacy, {row}",
        claim=CLAIM,
        accounting={"trained_parameters": trained // (4 * updates)},
        measured={
            "test_accuracy": statistics.fmean(accuracies),
            "least_accuracy": min(accuracies),
            "most_accuracy": max(accuracies),
            "accuracy_without_privacy": open_run.accuracy,
            "epsilon": private[0].ledger.rounds[-1].epsilon,
        },
        realised_factor=None,
        baseline={} if baseline is None else {"all trained, test_accuracy": baseline},
        settings={
            **asdict(setting),
            **given,
            "method": method,
            "seeds": list(seeds),
            "tuning_seed": tuning,
            "trials_dev_accuracy": {str(clip): value for clip, value in tried.items()},
        },
        command=command,
        goals={} if baseline is None else {"test_accuracy": (baseline, None)},
    )


if __name__ == "__main__":
    sys.exit(main())
