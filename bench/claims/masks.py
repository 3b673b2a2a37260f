"""``python -m sparsefl.bench.claims.masks``: what FedPM's sampled masks take on the wire.

FedPM trains on Fashion-MNIST; all uplink messages of a run, headers included, are held against
``n H(p)`` of the masks in them, p each client's own share of ones. The scores start about the logit
of p instead of 0, so that masks of several densities are trained.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsefl import codec, models
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.experiment import Problem, Setting, load_problem
from sparsefl.fl.method import Client, Method, Task, load_method
from sparsefl.fl.methods._votes import entropy_bits
from sparsefl.measuring import torch_threads

from . import claim
from .claim import Claim

DENSITIES = (0.5, 0.2, 0.1, 0.03, 0.01)
SETTING = Setting(dataset="fashion-mnist", model="cnn", clients=10, partition="dirichlet:0.5")
SCHEDULE = Schedule(clients_per_round=4, batch_size=16, local_steps=8)
ROUNDS = 4
SEED = 0
# Bits a parameter.
FEDPM_BITS, DELTAMASK_BITS = 1.0, 0.09
DENSE_BITS = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Train at every density, and write the claims."""
    return claim.main("masks", measure, argv)


def measure(command: str) -> list[Claim]:
    """Train at every density."""
    problem = load_problem(SETTING, SEED)
    with torch_threads(1):
        return [measure_density(density, problem, ROUNDS, command) for density in DENSITIES]


def measure_density(density: float, problem: Problem, rounds: int, command: str) -> Claim:
    """Train with masks that begin at a density; count all uplink messages of the run."""
    seen: list[tuple[int, int]] = []
    options = {"gain": math.sqrt(2 / density)}
    task = task_of(problem, options, rounds)
    federation = Federation(
        watched(load_method("fedpm"), seen), task, [own[0] for own in problem.clients], SCHEDULE
    )
    shift = math.log(density / (1 - density))
    begun = {name: s + shift for name, s in federation.state.scores.items()}
    federation.state = replace(federation.state, scores=begun)
    entries = [federation.play(round) for round in range(1, rounds + 1)]
    messages = sum(entry.clients for entry in entries)
    parameters = sum(count for count, _ in seen)
    bits = 8 * sum(entry.uplink_bytes for entry in entries)
    entropy = sum(entropy_bits(count, ones / count) for count, ones in seen)
    return Claim(
        row=f"8 masks, density {density:g}",
        claim="FedPM sends less than 1 bit a parameter (Isik et al. 2023, arXiv 2209.15328), "
        "n H(p) by its own count",
        accounting={
            "uplink_per_parameter_bits": entropy / parameters,
            "abstract_per_parameter_bits": FEDPM_BITS,
        },
        measured={
            "uplink_per_parameter_bits": bits / parameters,
            "uplink_message_bytes": bits / 8 / messages,
            "uplink_factor": DENSE_BITS * parameters / bits,
            "of_entropy": bits / entropy,
            "density_of_masks": sum(ones for _, ones in seen) / parameters,
        },
        realised_factor=entropy / bits,
        baseline={
            "name": "n H(p) of each message, p its own share of ones; beside it the 0.09 bit of "
            "DeltaMask (Tsouvalas et al. 2023, arXiv 2311.17299), which is not implemented here",
            "deltamask_per_parameter_bits": DELTAMASK_BITS,
        },
        settings={
            "data": problem.label,
            "model": SETTING.model,
            "messages": messages,
            "parameters": parameters // messages,
            "rounds": rounds,
            "clients_per_round": SCHEDULE.clients_per_round,
            "local_steps": SCHEDULE.local_steps,
            "batch_size": SCHEDULE.batch_size,
            "seed": SEED,
            "density": density,
            "options": options,
        },
        goals={"of_entropy": (None, 1.02), "uplink_per_parameter_bits": (None, FEDPM_BITS)},
        command=command,
    )


def task_of(problem: Problem, options: dict[str, Any], rounds: int) -> Task:
    """Return FedPM's task on a problem."""
    assert problem.in_shape is not None
    assert problem.classes is not None
    in_shape, classes = problem.in_shape, problem.classes
    example = problem.clients[0][0][0][0][None]
    given = load_method("fedpm").with_defaults(options)
    return Task(
        lambda: models.build(SETTING.model, in_shape, classes), example, SEED, 1.0, given, rounds
    )


def watched(method: Method, seen: list[tuple[int, int]]) -> Method:
    """Return a method that notes elements and ones of each mask message, all tensors together."""

    def report(client: Client, received: codec.Update, round: int) -> codec.Update:
        update = method.report(client, received, round)
        signs = [entry.signs for entry in update.values() if isinstance(entry, codec.Signs)]
        ones = sum(int(np.count_nonzero(own > 0)) for own in signs)
        seen.append((sum(own.size for own in signs), ones))
        return update

    return replace(method, report=report)


if __name__ == "__main__":
    sys.exit(main())
