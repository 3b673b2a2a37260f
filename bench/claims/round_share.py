"""``python -m sparsefl.bench.claims.round_share``: what of a round is training, what aggregation.

Rounds of ten clients of one network on Fashion-MNIST, by method and local work: the share of the
wall clock that clients train, and what the server takes a reply. Then the aggregation of ten
replies by their bytes: methods whose messages differ in size, of one network, in turns.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sparsefl import codec
from sparsefl.bench.networks import median, seconds_of
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.experiment import Problem, Setting, load_problem
from sparsefl.fl.ledger import Round
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.serving import Serving, answer
from sparsefl.fl.training import local_step
from sparsefl.timing import Effort, StepTime, stopwatch

from . import claim
from .claim import Claim
from .trial import SEED, federate, network

SETTING = Setting(dataset="fashion-mnist", model="cnn", clients=10, partition="dirichlet:0.5")
METHODS = ("fedavg", "fedprox", "scaffold", "adp", "fedpm", "hidenseek", "fedtiny", "fedpt")
# Those that gate or select by batch norm.
NORMS = {"adp": "batch", "fedtiny": "batch"}
# Local steps, batch size and rounds that are timed.
WORK = ((12, 16, 3), (32, 32, 1))
LEAST_SHARE = 0.9
DENSITY = 0.1
CLIENTS = 10
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
# Settings of each method whose replies are added up, by what names them.
SIZES: Mapping[str, Sequence[tuple[str, Mapping[str, Any], float]]] = {
    "hidenseek": [(f"density_{d:g}", {"iterations": 5}, d) for d in DENSITIES],
    "fedpt": [
        (f"frozen_{'_'.join(names)}", {"frozen": ",".join(names)}, 1.0)
        for names in (("conv1",), ("conv2",), ("fc1",), ("conv1", "conv2", "fc1"))
    ],
}
# Least and most slope of the logarithm of the seconds over that of the bytes.
SLOPES = (0.5, 1.1)
EFFORT = Effort(warmup=3, timed=15, probes=1, slow_s=float("inf"))
IMAGE, CLASSES = (1, 28, 28), 10


def main(argv: Sequence[str] | None = None) -> int:
    """Time rounds and aggregations, and write the claims."""
    rounds = {
        share_row(method, steps, batch): functools.partial(
            share_of, method, steps, batch, timed_rounds
        )
        for method in METHODS
        for steps, batch, timed_rounds in WORK
    }
    grown = {growth_row(method): functools.partial(growth_claim, method) for method in SIZES}
    return claim.main("round_share", {**rounds, **grown}, argv)


def share_row(method: str, steps: int, batch: int) -> str:
    """Name a row of a round."""
    return f"9 Round, {method}, {steps} steps of {batch}"


def growth_row(method: str) -> str:
    """Name a row of aggregation by bytes."""
    return f"9 Aggregation, {method}"


def share_of(method: str, steps: int, batch: int, timed_rounds: int, command: str) -> Claim:
    """Time rounds of one method on Fashion-MNIST."""
    setting = replace(SETTING, norm=NORMS.get(method))
    return share_claim(
        method, setting, load_problem(setting, SEED), steps, batch, timed_rounds, command
    )


def share_claim(
    method: str,
    setting: Setting,
    problem: Problem,
    steps: int,
    batch: int,
    timed_rounds: int,
    command: str,
) -> Claim:
    """Time rounds of one method, after one of a single step."""
    federation = begun(method, setting, problem, timed_rounds + 1)
    federation.play(1)
    federation.schedule = Schedule(batch_size=batch, local_steps=steps)
    entries, walls = timed(federation, timed_rounds)
    replies = sum(entry.clients for entry in entries)
    shares = [entry.train_s / wall for entry, wall in zip(entries, walls, strict=True)]
    return Claim(
        row=share_row(method, steps, batch),
        claim="at least 90 % of a round is client training (this project's goal)",
        accounting={},
        measured={
            "training_share": statistics.median(shares),
            "round_s": statistics.median(walls),
            "aggregation_a_reply_s": sum(entry.aggregate_s for entry in entries) / replies,
            "encoding_a_client_s": sum(entry.encode_s for entry in entries) / replies,
            "receiving_a_client_s": sum(entry.decode_s for entry in entries) / replies,
            "received_bytes": round(sum(entry.uplink_bytes for entry in entries) / timed_rounds),
        },
        realised_factor=None,
        baseline={
            "name": "the wall clock of the round, both ends' messages and the ledger included"
        },
        settings={
            "data": problem.label,
            "model": setting.model,
            "norm": setting.norm,
            "density": DENSITY if federation.method.prunes else 1.0,
            "clients": len(problem.clients),
            "local_steps": steps,
            "batch_size": batch,
            "rounds": timed_rounds,
            "seed": SEED,
            "threads": torch.get_num_threads(),
        },
        goals={"training_share": (LEAST_SHARE, None)},
        command=command,
    )


def begun(method: str, setting: Setting, problem: Problem, rounds: int) -> Federation:
    """Begin a federation whose rounds have one local step."""
    assert problem.in_shape is not None
    assert problem.classes is not None
    factory = network(setting.model, problem.in_shape, problem.classes, norm=setting.norm)
    chosen, example = load_method(method), problem.clients[0][0][0][0][None]
    task = Task(factory, example, SEED, DENSITY, chosen.with_defaults({}), rounds)
    trains, devs = ([own[part] for own in problem.clients] for part in (0, 1))
    return Federation(chosen, task, trains, Schedule(local_steps=1), devs=devs)


def timed(federation: Federation, rounds: int) -> tuple[list[Round], list[float]]:
    """Play rounds; return their entries and seconds."""
    entries, walls = [], []
    for round in range(2, rounds + 2):
        started = time.perf_counter()
        entries.append(federation.play(round))
        walls.append(time.perf_counter() - started)
    return entries, walls


def growth_claim(method: str, command: str, effort: Effort = EFFORT) -> Claim:
    """Time the aggregation of ten replies of each size, in turns."""
    factory = network(SETTING.model, IMAGE, CLASSES, norm=NORMS.get(method))
    lengths: dict[str, int] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, options, density in SIZES[method]:
        federation = federate(
            method, factory, IMAGE, CLASSES, density=density, batch=16, options=options
        )
        reply, base = reply_of(federation), base_of(federation)
        lengths[name] = CLIENTS * len(reply)
        runs[name] = functools.partial(aggregate, federation, reply, base)
    times = seconds_of({name: stopwatch(run) for name, run in runs.items()}, effort)
    middles = {name: median(times[name]) for name in runs}
    logs = [np.log(list(own.values())) for own in (lengths, middles)]
    return Claim(
        row=growth_row(method),
        claim="aggregation grows with the bytes received (this project's goal)",
        accounting={"slope": 1.0},
        measured={
            "slope": float(np.polyfit(*logs, 1)[0]),
            **{
                name: {
                    "received_bytes": lengths[name],
                    "aggregation_s": claim.seconds(StepTime.of(times[name])),
                }
                for name in runs
            },
        },
        realised_factor=None,
        baseline={"name": "the method's own replies of other sizes"},
        settings={
            "model": SETTING.model,
            "norm": NORMS.get(method),
            "clients": CLIENTS,
            "data": "random",
            "threads": torch.get_num_threads(),
            "timed": effort.timed,
        },
        goals={"slope": SLOPES},
        command=command,
    )


def reply_of(federation: Federation) -> bytes:
    """Return what a client sends after a local step."""
    method, client = federation.method, federation.new_client()
    received = federation.receive(client, federation.broadcast(1))
    if method.recall is not None:
        method.recall(client, None)
    inputs, labels = federation.datasets[0].tensors  # type: ignore[attr-defined]
    local_step(client.model.train(), method.optimizer(client, 1), inputs, labels)
    return answer(method, client, received)


def base_of(federation: Federation) -> codec.Base:
    """Return what replies are coded against."""
    return Serving(federation.method, federation.views(), 1).of(None, 0).base


def aggregate(federation: Federation, reply: bytes, base: codec.Base) -> object:
    """Add ten replies up, and take the server's step; the federation stays as it is."""
    serving = Serving(federation.method, federation.views(), 1)
    (pool,) = serving.pools.values()
    for _ in range(CLIENTS):
        pool.add(reply, 1.0, base)
    return federation.method.aggregate(federation.state, serving.mean())


if __name__ == "__main__":
    sys.exit(main())
