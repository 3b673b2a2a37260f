"""``python -m sparsefl.bench.claims.hidenseek``: HideNseek's bits a kept weight, and its step.

Bytes: it trains on Fashion-MNIST; the signs of every uplink message of a run are encoded by
themselves, headers included, as the message encodes them among the dense parameters. Steps: against
dense torch models under {0, 1} supermasks at all weights' scores, in turns in one process.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefl import codec
from sparsefl.bench.networks import seconds_of
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.experiment import Problem, Setting, load_problem
from sparsefl.fl.method import Client, Method, Task, load_method
from sparsefl.fl.methods._fedpm_network import MaskedNetwork, draw_constants
from sparsefl.measuring import torch_threads
from sparsefl.timing import Effort, StepTime, paired_ratio, stopwatch

from . import claim
from .claim import Claim, Limits
from .trial import SEED, client_step, federate, model_step, network

PAPER = "Vallapuram et al. 2022, arXiv 2206.04385"
DENSITY = 0.1
SETTING = Setting(dataset="fashion-mnist", model="cnn", clients=10, partition="dirichlet:0.5")
SCHEDULE = Schedule(clients_per_round=3, batch_size=16, local_steps=8)
ROUNDS = 8
RULES = ("sign_update", "vote", "mean", "beta", "accumulate")
MOST_BITS, MOST_FLIP_BITS, LEAST_STEP_FACTOR = 1.03, 0.4, 3.0
SCORE_FORMATS = ("int8", "fp32")
IMAGES = {"cnn": (1, 28, 28), "vgg11": (3, 32, 32)}
CLASSES = 10
BATCHES = (64, 32)
EFFORT = Effort(warmup=1, timed=9, probes=1, slow_s=float("inf"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure bytes and steps, and write the claims."""
    rows = {bytes_row(rule): functools.partial(rule_claim, rule) for rule in RULES}
    steps = {
        step_row(name, batch): functools.partial(step_claim, name, batch)
        for name in IMAGES
        for batch in BATCHES
    }
    return claim.main("hidenseek", {**rows, **steps}, argv)


def bytes_row(rule: str) -> str:
    """Name a row of bytes."""
    return f"3 HideNseek bytes, rule {rule}"


def step_row(name: str, batch: int) -> str:
    """Name a row of steps."""
    return f"3 HideNseek step, {name}, batch {batch}"


@dataclasses.dataclass
class Traffic:
    """Bytes and kept weights of the signs in some messages.

    Attributes:
        uplink: ``(bytes, weights)`` of each client's signs, in order.
    """

    uplink: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def watch(self, method: Method) -> Method:
        """Return the method, its reports noted here."""

        def report(client: Client, received: codec.Update, round: int) -> codec.Update:
            update = method.report(client, received, round)
            base = {**client.wire.supports, **received}
            self.uplink.append(part_bytes(update, client.wire.schema, base))
            return update

        return dataclasses.replace(method, report=report)


def part_bytes(
    update: codec.Update, schema: codec.Schema, base: Mapping[str, Any], value_format: Any = "fp32"
) -> tuple[int, int]:
    """Return the bytes of a message's signs and scores alone, and their number."""
    kept = {n: e for n, e in update.items() if isinstance(e, codec.Signs | codec.Sparse)}
    message = codec.encode(
        codec.Update(kept, round=update.round), schema, value_format, {n: base[n] for n in kept}
    )
    return len(message), sum(entry.support.nnz for entry in kept.values())


def rule_claim(rule: str, command: str) -> Claim:
    """Count the bytes of one rule on Fashion-MNIST."""
    with torch_threads(1):
        return count_rule(rule, load_problem(SETTING, SEED), ROUNDS, command)


def count_rule(rule: str, problem: Problem, rounds: int, command: str) -> Claim:
    """Count the bytes of one rule."""
    traffic, method = Traffic(), load_method("hidenseek")
    options = {"rule": rule}
    assert problem.in_shape is not None
    assert problem.classes is not None
    factory = network(SETTING.model, problem.in_shape, problem.classes)
    given = method.with_defaults(options)
    example = problem.clients[0][0][0][0][None]
    task = Task(factory, example, SEED, DENSITY, given, rounds)
    trains = [own[0] for own in problem.clients]
    federation = Federation(traffic.watch(method), task, trains, SCHEDULE)
    entries = [federation.play(round) for round in range(1, rounds + 1)]
    replies = sum(entry.clients for entry in entries)
    dense = 4 * sum(p.numel() for p in factory().parameters())
    up = sum(entry.uplink_bytes for entry in entries) / replies
    claimed = dense / method.claimed_uplink_bytes(federation.state)
    last = traffic.uplink[-entries[-1].clients :]
    bits = bits_of(traffic.uplink)
    return Claim(
        row=bytes_row(rule),
        claim=f"a sign supermask is 1 bit a kept weight on the uplink ({PAPER}); the rule "
        f"{rule} is this project's",
        accounting={
            "uplink_per_kept_weight_bits": 1.0,
            "uplink_factor": claimed,
            "paper_best_communication_share": 1 - 0.397,
        },
        measured={
            "uplink_per_kept_weight_bits": bits,
            "first_round_per_kept_weight_bits": bits_of(traffic.uplink[: entries[0].clients]),
            "last_round_per_kept_weight_bits": bits_of(last),
            **downlink(federation),
            "uplink_message_bytes": up,
            "setup_bytes": len(federation.setup_message or b""),
            "uplink_factor": dense / up,
            "kept_weights_alone_factor": 32 / DENSITY / bits,
        },
        realised_factor=dense / up / claimed,
        baseline={"name": "4 bytes a parameter of the dense model; first and last layer are dense"},
        settings={
            "rule": rule,
            "data": problem.label,
            "model": SETTING.model,
            "density": DENSITY,
            "rounds": rounds,
            "clients_per_round": SCHEDULE.clients_per_round,
            "local_steps": SCHEDULE.local_steps,
            "batch_size": SCHEDULE.batch_size,
            "seed": SEED,
        },
        goals=bytes_goals(rule),
        command=command,
    )


def bytes_goals(rule: str) -> dict[str, Limits]:
    """Return what is to be reached; signs that change seldom cost less than those of changes."""
    goals: dict[str, Limits] = {"uplink_per_kept_weight_bits": (None, MOST_BITS)}
    if rule != "sign_update":
        goals["last_round_per_kept_weight_bits"] = (None, MOST_FLIP_BITS)
    return goals


def bits_of(counted: Sequence[tuple[int, int]]) -> float:
    """Return bits a weight."""
    return 8 * sum(count for count, _ in counted) / sum(weights for _, weights in counted)


def downlink(federation: Federation) -> dict[str, float]:
    """Return the bits a kept weight of the next broadcast, by the format of the scores."""
    wire, sent = federation.wire, federation.method.broadcast(federation.state, 1)
    if federation.state.rule.broadcasts_signs:
        return {
            "downlink_signs_per_kept_weight_bits": bits_of(
                [part_bytes(sent, wire.schema, wire.supports)]
            )
        }
    return {
        f"downlink_{form}_per_kept_weight_bits": bits_of(
            [part_bytes(sent, wire.schema, wire.supports, form)]
        )
        for form in SCORE_FORMATS
    }


class _Threshold(torch.autograd.Function):
    """``m = [theta >= 1/2]``; the gradient of m passes to theta as it is."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:
        return (theta >= 0.5).to(theta.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class ThresholdNetwork(MaskedNetwork):
    """FedPM's network without its sampling: the cheapest {0, 1} supermask of dense torch."""

    def _mask(self, scores: Tensor) -> Tensor:
        mask: Tensor = _Threshold.apply(scores.sigmoid())  # type: ignore[no-untyped-call]
        return mask


def step_claim(name: str, batch: int, command: str, effort: Effort = EFFORT) -> Claim:
    """Time one network's step at one batch size."""
    factory, image = network(name, IMAGES[name], CLASSES), IMAGES[name]
    # The masks' number of iterations matters to the accuracy, not to the step.
    ours = federate(
        "hidenseek",
        factory,
        image,
        CLASSES,
        density=DENSITY,
        batch=batch,
        options={"iterations": 5},
    )
    sampled = federate("fedpm", factory, image, CLASSES, batch=batch)
    dense = federate("fedavg", factory, image, CLASSES, batch=batch)
    plain = factory()
    threshold = ThresholdNetwork(plain, draw_constants(plain, SEED, 1.0), "sampled")
    adam = torch.optim.Adam(threshold.scores().values(), lr=0.01)
    steps = {
        "ours": client_step(ours),
        "supermask": client_step(sampled),
        "threshold": model_step(threshold, adam, sampled.datasets[0].tensors, batch),
        "dense": client_step(dense),
    }
    times = seconds_of({side: stopwatch(step) for side, step in steps.items()}, effort)
    factors = {side: paired_ratio(taken, times["ours"]) for side, taken in times.items()}
    return Claim(
        row=step_row(name, batch),
        claim=f"up to 46.8 % less training time than masked baselines ({PAPER}, abstract)",
        accounting={"step_factor": 1 / (1 - 0.468)},
        measured={
            "step_factor": factors["supermask"],
            "against_threshold_factor": factors["threshold"],
            "against_dense_factor": factors["dense"],
            **{
                f"{side}_step_s": claim.seconds(StepTime.of(taken)) for side, taken in times.items()
            },
        },
        realised_factor=factors["supermask"] * (1 - 0.468),
        baseline={
            "name": "FedPM's {0, 1} supermask in dense torch, straight-through, sampled each step; "
            "beside it one by threshold, and dense FedAvg"
        },
        settings={
            "model": name,
            "density": DENSITY,
            "batch_size": batch,
            "dense_layers": "first,last",
            "threads": torch.get_num_threads(),
            "timed_steps": effort.timed,
        },
        goals={"step_factor": (LEAST_STEP_FACTOR, None)},
        command=command,
    )


if __name__ == "__main__":
    sys.exit(main())
