"""``python -m sparsefl.bench.claims.adp``: ADP: steps against dense, rounds to accuracies.

Whole training steps and inference of VGG-11 and ResNet-32 at the paper's density, both batch
statistics, in turns with the dense model in plain torch (the faster of its memory formats). Then
FedAvg, FedProx and SCAFFOLD on Fashion-MNIST with and without gates: rounds until the global model
reaches accuracies on development data. ``--only`` measures one of the two and keeps the other rows.
"""

from __future__ import annotations

import argparse
import copy
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsefl import fl, models
from sparsefl.fl.engine import Schedule
from sparsefl.fl.experiment import Setting, load_problem, play
from sparsefl.fl.flops import PASSES_PER_STEP, forward_flops
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.methods.adp import ALGORITHMS
from sparsefl.fl.training import local_step
from sparsefl.nn import gate
from sparsefl.timing import Effort, StepTime, interleave, paired_ratio, stopwatch

from . import claim
from .claim import Claim, Limits, seconds

DENSITY, BATCH, IN_SHAPE, CLASSES = 0.7, 64, (3, 32, 32), 10
NETWORKS = ("vgg11", "resnet32")
STATS = ("active", "all")
EFFORT = Effort(warmup=2, timed=9, probes=1, slow_s=float("inf"))
# The step by the open gates' statistics is to take 0.8 of dense's time or less; by those of all
# channels, and inference, less than dense: the authors' code takes 1.3 of its time.
STEP_GOALS: Mapping[str, Mapping[str, Limits]] = {
    "active": {"step_factor": (1 / 0.8, None), "inference_factor": (1.0, None)},
    "all": {"step_factor": (1.0, None), "inference_factor": (1.0, None)},
}
FLOPS_CLAIM = "inference FLOPs -50 % at r = 0.7 (Yu et al. 2021, arXiv 2106.06921, abstract)"
ROUNDS_CLAIM = "communication -57 % (Yu et al. 2021, arXiv 2106.06921, abstract): fewer rounds"
CLAIMED_ROUNDS_FACTOR = 1 / (1 - 0.57)
ROUNDS_GOALS: Mapping[str, Limits] = {"rounds_factor": (CLAIMED_ROUNDS_FACTOR, None)}

SETTING = Setting(
    dataset="fashion-mnist",
    model="cnn",
    norm="batch",
    clients=10,
    partition="dirichlet:0.1",
    rounds=12,
    density=DENSITY,
    schedule=Schedule(batch_size=32, local_steps=8),
    dev_examples=1000,
    threads=1,
    timed_steps=0,
    model_options={"width": 0.5},
)
# The authors' optimizer, the same for every row.
OPTIONS = {"lr": 0.01, "momentum": 0.9}
TARGETS = (0.5, 0.6, 0.7)
SEED = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and write the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path, default=claim.HERE / "adp.json")
    parser.add_argument("--only", choices=list(_PARTS))
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS), choices=ALGORITHMS)
    args = parser.parse_args(argv)
    measured: list[Claim] = []
    for part in [args.only] if args.only else list(_PARTS):
        measured += _PARTS[part](args, "python -m sparsefl.bench.claims.adp")
    again = {one.row for one in measured}
    kept = [c for c in (claim.read(args.json) if args.json.exists() else []) if c.row not in again]
    claims = sorted([*kept, *measured], key=lambda one: one.row)
    claim.write(args.json, claims)
    print(claim.table(claims), end="")
    return 0


def measure_steps(args: argparse.Namespace, command: str) -> list[Claim]:
    """Time steps and inference of the networks."""
    return [one for name in args.networks for one in network_claims(name, command)]


def network_claims(name: str, command: str) -> list[Claim]:
    """Time one network's training steps and inference, gated and dense, in turns."""
    torch.manual_seed(SEED)
    dense = models.build(name, IN_SHAPE, CLASSES, "batch")
    gated = {stats: gate(dense, DENSITY, stats) for stats in STATS}
    last = copy.deepcopy(dense).to(memory_format=torch.channels_last)
    networks = {"dense": dense, "dense channels_last": last, **gated}
    steps = _timed({key: _step(copy.deepcopy(net)) for key, net in networks.items()})
    # The statistics make no difference to inference.
    networks.pop("all")
    passes = _timed({key: _inference(net) for key, net in networks.items()})
    forward = forward_flops(dense, torch.zeros(1, *IN_SHAPE), BATCH)
    claims = []
    for stats in STATS:
        flops = _claimed_flops(name, stats, forward)
        claimed = PASSES_PER_STEP * sum(forward.values()) / flops
        step, inference = _factor(steps, stats), _factor(passes, "active")
        claims.append(
            Claim(
                row=f"6 ADP step, {name}, statistics {stats}",
                claim=FLOPS_CLAIM,
                accounting={"step_flops": flops, "step_factor": claimed},
                measured={
                    "step_s": seconds(StepTime.of(steps[stats])),
                    "dense_step_s": seconds(StepTime.of(steps[_fastest(steps)])),
                    "step_factor": step,
                    "inference_s": seconds(StepTime.of(passes["active"])),
                    "dense_inference_s": seconds(StepTime.of(passes[_fastest(passes)])),
                    "inference_factor": inference,
                },
                realised_factor=step / claimed,
                baseline={
                    "name": "the same network dense in plain torch, the faster memory format",
                    "step_format": _fastest(steps),
                    "inference_format": _fastest(passes),
                },
                settings={
                    **{"network": name, "density": DENSITY, "stats": stats, "batch_size": BATCH},
                    **{"in_shape": IN_SHAPE, "optimizer": OPTIONS, "effort": asdict(EFFORT)},
                    "parameters_added": _size(gated[stats]) / _size(dense) - 1,
                },
                goals=STEP_GOALS[stats],
                command=command,
            )
        )
    return claims


def _step(network: nn.Module) -> Callable[[], object]:
    x, y = torch.randn(BATCH, *IN_SHAPE), torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.SGD(network.train().parameters(), **OPTIONS)
    return lambda: local_step(network, optimizer, x, y)


def _inference(network: nn.Module) -> Callable[[], object]:
    x = torch.randn(BATCH, *IN_SHAPE)
    network.eval()

    def infer() -> None:
        with torch.no_grad():
            network(x)

    return infer


def _timed(runs: dict[str, Callable[[], object]]) -> dict[str, Any]:
    timed = interleave({key: stopwatch(run) for key, run in runs.items()}, EFFORT)
    return {key: parts[-1] for key, parts in timed.items()}


def _fastest(timed: dict[str, Any]) -> str:
    dense = [key for key in timed if key.startswith("dense")]
    return min(dense, key=lambda key: float(np.median(timed[key])))


def _factor(timed: dict[str, Any], ours: str) -> float:
    return paired_ratio(timed[_fastest(timed)], timed[ours])


def _claimed_flops(name: str, stats: str, forward: dict[str, int]) -> int:
    method = load_method("adp")
    task = Task(
        lambda: models.build(name, IN_SHAPE, CLASSES, "batch"),
        *(torch.zeros(1, *IN_SHAPE), SEED, DENSITY, method.with_defaults({"stats": stats})),
    )
    return method.claimed_flops(method.init(task), forward)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def measure_rounds(args: argparse.Namespace, command: str) -> list[Claim]:
    """Train every algorithm with and without gates."""
    return [one for name in args.algorithms for one in algorithm_claims(name, command)]


def algorithm_claims(algorithm: str, command: str) -> list[Claim]:
    """Train one algorithm on the dense model, and on the gated one by both statistics."""
    problem = load_problem(SETTING, SEED)
    dense = play(algorithm, SETTING, problem, SEED, OPTIONS)
    claims = []
    for stats in STATS:
        options = {**OPTIONS, "algorithm": algorithm, "stats": stats}
        gated = play("adp", SETTING, problem, SEED, options)
        faster = {f"rounds_to_{target:g}": _rounds(gated, dense, target) for target in TARGETS}
        reached = [a for a in faster.values() if None not in a]
        factor = reached[-1][1] / reached[-1][0] if reached else None
        claims.append(
            Claim(
                row=f"6 ADP rounds, {algorithm}, statistics {stats}",
                claim=ROUNDS_CLAIM,
                accounting={"rounds_factor": CLAIMED_ROUNDS_FACTOR},
                measured={
                    "rounds_factor": factor,
                    **{key: a for key, (a, _) in faster.items()},
                    **{f"dense_{key}": b for key, (_, b) in faster.items()},
                    "test_accuracy": gated.accuracy,
                    "dense_test_accuracy": dense.accuracy,
                    "uplink_bytes": gated.ledger.total("uplink_bytes"),
                    "dense_uplink_bytes": dense.ledger.total("uplink_bytes"),
                },
                realised_factor=factor and factor / CLAIMED_ROUNDS_FACTOR,
                baseline={"name": f"{algorithm} on the dense model, same settings"},
                settings={
                    **{"data": problem.label, "model": gated.config["model"], "density": DENSITY},
                    "norm": SETTING.norm,
                    **{"rounds": SETTING.rounds, **asdict(SETTING.schedule), "seed": SEED},
                    "options": dict(gated.config["options"]),
                },
                goals=ROUNDS_GOALS,
                command=command,
            )
        )
    return claims


def _rounds(gated: fl.Result, dense: fl.Result, target: float) -> tuple[int | None, int | None]:
    return gated.rounds_to(target), dense.rounds_to(target)


_PARTS = {"steps": measure_steps, "rounds": measure_rounds}

if __name__ == "__main__":
    sys.exit(main())
