"""``python -m sparsefl.bench.claims.fedtiny``: FedTiny on ResNet-18, claimed and measured.

Set-up and rounds are those of a real federation: two clients choose among five candidates, train,
and adjust the masks once; their examples are random numbers, which no length of a message asks
about. Times are the committed rows of the ResNet-18 step, of random masks of the same density.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch.utils.data import TensorDataset

from sparsefl import codec, models
from sparsefl.bench import rows
from sparsefl.bench.goals import GOALS, STEP
from sparsefl.bench.networks import BATCH, CLASSES, IMAGE
from sparsefl.fl.engine import Federation
from sparsefl.fl.flops import PASSES_PER_STEP, forward_flops
from sparsefl.fl.memory import Cell, Memory, measure_memory
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.methods import _fedtiny_accounting as paper
from sparsefl.fl.methods._fedtiny_pruning import growth_name
from sparsefl.fl.schedule import Schedule
from sparsefl.support import Support

from . import claim, growth_step
from .claim import Claim

DENSITIES = (0.1, 0.01)
# "95.91 % fewer FLOPs" and "94.01 % less memory", at best; the density of these is about 0.01.
CLAIMED_FLOPS_FACTOR, CLAIMED_MEMORY_FACTOR = 1 / (1 - 0.9591), 1 / (1 - 0.9401)
CLAIMED_AT = 0.01
# FedTiny's federation, for the FLOPs of a run: 5,000 images a client, 5 epochs of batches of 64,
# adjusted in every 10th of the first 100 of 300 rounds.
STEPS, ROUNDS, ADJUSTMENTS = 395, 300, 10
CLIENTS, EXAMPLES, SEED, THREADS = 2, 8, 0, 2
# Of an index and a value of torch's; processes of each kind that the growth step is measured in.
INDEX_BYTES, VALUE_BYTES, REPEATS = 8, 4, 3
RESULTS = pathlib.Path(rows.__file__).parent / "results" / "cpu.json"
SOURCE = "(Huang et al. 2022, arXiv 2212.01977)"


def main(argv: Sequence[str] | None = None) -> int:
    """Play and measure at both densities, and write the claims."""
    return claim.main("fedtiny", rows_of(DENSITIES), argv)


def rows_of(densities: Sequence[float]) -> dict[str, Callable[[str], Claim]]:
    """Return what measures each row, by its name."""
    kinds = {
        "step": step_claim,
        "memory": memory_claim,
        "growth": growth_claim,
        "bytes": bytes_claim,
    }
    return {
        f"4 FedTiny {kind}, ResNet-18, density {density:g}": functools.partial(
            measure, made, density
        )
        for density in densities
        for kind, made in kinds.items()
    }


def measure(made: Callable[..., Claim], density: float, command: str) -> Claim:
    """Measure a row of a federation that has not played yet."""
    settings = {
        "model": "resnet18",
        "image": list(IMAGE),
        "density": density,
        "seed": SEED,
        "masks": "the winner of 5 noise-uniform candidates, first layer and output dense",
    }
    return made(federate(density), density, settings, command)


def network() -> torch.nn.Module:
    """Return the dense model."""
    return models.build("resnet18", IMAGE, CLASSES)


def federate(density: float, **options: object) -> Federation:
    """Begin a federation: the candidates are judged, no round is played yet."""
    method = load_method("fedtiny")
    generator = torch.Generator().manual_seed(SEED)
    data = [
        TensorDataset(
            torch.randn(EXAMPLES, *IMAGE, generator=generator),
            torch.randint(CLASSES, (EXAMPLES,), generator=generator),
        )
        for _ in range(CLIENTS)
    ]
    given = method.with_defaults({"pretrain_epochs": 0, "adjust_every": 1, **options})
    task = Task(network, torch.zeros(1, *IMAGE), SEED, density, given, rounds=ROUNDS)
    return Federation(method, task, data, Schedule(batch_size=EXAMPLES), devs=data)


def step_claim(run: Federation, density: float, settings: dict, command: str) -> Claim:
    """Hold the timed step against the FLOPs of the paper's formula."""
    forward = forward_flops(network(), run.task.example_input, BATCH)
    dense = sum(forward.values())
    sparse = paper.sparse_forward_flops(run.state.supports, forward)
    plain = paper.round_flops(dense, sparse, STEPS)
    adjusted = paper.round_flops(dense, sparse, STEPS, adjusts=True)
    of_run = (ROUNDS - ADJUSTMENTS) * plain + ADJUSTMENTS * adjusted
    formula = dense / sparse
    timed = {
        row["density"]: row
        for row in rows.read(RESULTS)
        if row["table"] == STEP and row["provider"] == rows.OURS
    }
    row = timed[density]
    factor = row["ratio_to_dense"]
    return Claim(
        row=f"4 FedTiny step, ResNet-18, density {density:g}",
        claim=f"up to 95.91 % fewer FLOPs on a client, 24.4x, by accounting {SOURCE}; judged is "
        "the measured step, by the floor of this package's own table",
        accounting={
            "step_flops": PASSES_PER_STEP * sparse,
            "dense_step_flops": PASSES_PER_STEP * dense,
            "step_factor": formula,
            "run_factor": PASSES_PER_STEP * dense * STEPS * ROUNDS / of_run,
            "claimed_factor": CLAIMED_FLOPS_FACTOR,
        },
        measured={"step_factor": factor, "step_s": row["median_us"] / 1e6},
        realised_factor=factor / formula,
        baseline={"name": "dense torch.nn, channels_last", "of": "bench/results/cpu.json"},
        settings={
            **settings,
            "timed_masks": "random, uniform",
            "batch_size": BATCH,
            "threads": row["threads"],
            "timed_commit": row["commit"],
            "run": f"{ROUNDS} rounds of {STEPS} steps, {ADJUSTMENTS} with adjustments",
        },
        goals={"step_factor": (GOALS[STEP, rows.BASELINE][density].floor, None)},
        command=command,
    )


def memory_claim(run: Federation, density: float, settings: dict, command: str) -> Claim:
    """Measure a client's memory by parts, beside a dense client's."""
    ours, dense = memory_of(run), memory_of(dense_federation())
    supports = run.state.supports.values()
    sparse_bytes = paper.model_bytes(supports, run.state.parameters)
    parameters = sum(parameter.numel() for parameter in network().parameters())
    factor = dense.peak_bytes / ours.peak_bytes
    return Claim(
        row=f"4 FedTiny memory, ResNet-18, density {density:g}",
        claim=f"up to 94.01 % less memory on a client, 16.7x {SOURCE}",
        accounting={
            "model_bytes": sparse_bytes,
            "model_factor": 4 * parameters / sparse_bytes,
            "claimed_factor": CLAIMED_MEMORY_FACTOR,
        },
        measured={
            "peak_factor": factor,
            **asdict(ours),
            **{f"dense_{name}": value for name, value in asdict(dense).items()},
        },
        realised_factor=factor / CLAIMED_MEMORY_FACTOR,
        baseline={"name": "dense torch.nn under FedAvg, a fresh process as ours"},
        settings={**settings, "batch_size": BATCH, "threads": THREADS},
        goals={"peak_factor": (CLAIMED_MEMORY_FACTOR, None)} if density <= CLAIMED_AT else {},
        command=command,
    )


def dense_federation() -> Federation:
    """Return FedAvg's."""
    method = load_method("fedavg")
    task = Task(network, torch.zeros(1, *IMAGE), SEED, 1.0, method.defaults)
    return Federation(
        method, task, [TensorDataset(torch.zeros(1, *IMAGE), torch.zeros(1))], Schedule()
    )


def growth_claim(run: Federation, density: float, settings: dict, command: str) -> Claim:
    """Measure what the gradients of pruned weights add to the peak of a client's step."""
    counts, supports = run.state.counts, run.state.supports
    dense = {name: VALUE_BYTES * supports[name].numel for name in counts}
    message = run.setup_message, run.broadcast(1)
    # Processes differ by some of what is measured: the middle one of a few.
    last, plain = (
        sorted(growth_step.peak_bytes(cell_of(run, i), *message, step) for i in range(REPEATS))
        for step in ("last", "plain")
    )
    added = last[REPEATS // 2] - plain[REPEATS // 2]
    found = (INDEX_BYTES + VALUE_BYTES) * sum(counts.values())
    return Claim(
        row=f"4 FedTiny growth, ResNet-18, density {density:g}",
        claim=f"the largest a_l gradients of pruned weights take memory of a_l {SOURCE}",
        accounting={
            "gradients": sum(counts.values()),
            "topk_bytes": found,
            "dense_gradient_bytes": sum(dense.values()),
        },
        measured={
            "growth_bytes": added,
            "growth_spread_bytes": max(last[-1] - last[0], plain[-1] - plain[0]),
            "plain_step_peak_bytes": plain[REPEATS // 2],
            "largest_layers_dense_gradient_bytes": max(dense.values()),
        },
        realised_factor=None,
        baseline={"name": "the same client's step without them, a fresh process each"},
        settings={
            **settings,
            "batch_size": BATCH,
            "threads": THREADS,
            "block": sorted(counts),
            "processes": REPEATS,
        },
        # Dense gradients, each made and freed at once, add 6.4 MB at density 0.1; kept, 21 MB.
        goals={"growth_bytes": (None, found)},
        command=command,
    )


def memory_of(run: Federation) -> Memory:
    """Measure a client of a federation in a process of its own."""
    return measure_memory(cell_of(run), run.setup_message, run.broadcast(1))


def cell_of(run: Federation, seed: int = SEED) -> Cell:
    """Describe a client of a federation; its examples are drawn from the seed."""
    return Cell(
        method=run.method.name,
        factory="sparsefl.models:build",
        arguments={"name": "resnet18", "in_shape": IMAGE, "num_classes": CLASSES},
        input_shape=IMAGE,
        classes=CLASSES,
        batch_size=BATCH,
        seed=seed,
        density=run.task.density,
        options=run.task.options,
        threads=THREADS,
    )


def bytes_claim(run: Federation, density: float, settings: dict, command: str) -> Claim:
    """Count the messages of the selection, of a round, and of an adjustment."""
    down, up = (total / CLIENTS for total in run.exchanged_bytes)
    masks_down = federate(density, pool="masks").exchanged_bytes[0] / CLIENTS
    state = run.state
    # By the formula, of the weights alone as they travel: both ways, without any adjustment.
    claimed = 2 * paper.model_bytes(state.supports.values(), state.parameters)
    seen: dict[str, int] = {}
    report = run.method.report

    def noted(client, received, round):  # type: ignore[no-untyped-def]
        sent = report(client, received, round)
        names = {growth_name(name) for name in state.supports}
        gradients = codec.Update({n: e for n, e in sent.items() if n in names}, round)
        seen["bytes"] = len(codec.encode(gradients, client.wire.schema))
        return sent

    counts = dict(state.counts)
    run.method = replace(run.method, report=noted)
    entry = run.play(1)
    measured = (entry.uplink_bytes + entry.downlink_bytes) / CLIENTS - seen["bytes"]
    changed = run.state.supports
    sent = sum(mask_bytes(changed[name], state.supports[name]) for name in counts)
    spared = federate(density, drops="recomputed", pool_size=1)
    spared.play(1)
    left = spared.method.held_supports(spared.state, 1)
    grown = sum(mask_bytes(spared.state.supports[name], left[name]) for name in counts)
    paid = sum(paper.coo_bits(changed[name].numel, count) for name, count in counts.items()) / 8
    return Claim(
        row=f"4 FedTiny bytes, ResNet-18, density {density:g}",
        claim=f"2 O_sparse a round, and O_topk where masks are adjusted {SOURCE}",
        accounting={
            "round_bytes": claimed,
            "topk_bytes": paid,
            "round_factor": dense_round() / claimed,
        },
        measured={
            "round_bytes": measured,
            "round_factor": dense_round() / measured,
            "setup_downlink_bytes": down,
            "setup_downlink_as_masks_bytes": masks_down,
            "setup_uplink_bytes": up,
            "first_mask_bytes": len(run.setup_message or b""),
            "topk_bytes": seen["bytes"],
            "adjusted_mask_bytes": sent,
            "adjusted_mask_recomputed_drops_bytes": grown,
            "exchanged_weights": sum(counts.values()),
        },
        realised_factor=claimed / measured,
        baseline={"name": "dense fp32 both ways, by the formula", "round_bytes": dense_round()},
        settings={**settings, "candidates": 5, "value_format": "fp32, lossless"},
        goals={"round_bytes": (None, claimed)},
        command=command,
    )


def dense_round() -> int:
    """Return 4 bytes a parameter, both ways."""
    return 8 * sum(parameter.numel() for parameter in network().parameters())


def mask_bytes(support: Support, base: Support) -> int:
    """Return what a mask takes against another that the receiver holds."""
    return len(codec.encode_support(support.to_mask(), base=base))


if __name__ == "__main__":
    sys.exit(main())
