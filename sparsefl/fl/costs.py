"""What a run should have cost by formula, and what a step of it costs when measured."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparsefl.fl.batches import Reader
from sparsefl.fl.engine import Federation
from sparsefl.fl.flops import PASSES_PER_STEP, forward_flops
from sparsefl.fl.memory import Cell, Memory, measure_memory
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.training import floating_dtype, local_step
from sparsefl.timing import WARMUP_STEPS, Effort, StepTime, interleave, paired_ratio, stopwatch

# What every step time and every byte is compared with.
BASELINE = "fedavg"


@dataclass(frozen=True)
class Costs:
    """What a run should have cost by formula, and what a step costs when measured.

    Attributes:
        uplink_claimed_bytes: All uplinks by the method's own accounting.
        uplink_dense_bytes: All uplinks, had each sent the dense model.
        downlink_dense_bytes: All downlinks, had each sent the dense model.
        claimed_flops: One local step by the method's own accounting.
        dense_flops: One local step of the dense model by the same accounting.
        client_step: Seconds of a local step, optimizer included; ``None`` if not measured.
        dense_step: The same of the dense model in plain torch, in turns with it.
        step_factor: Median over the turns of dense seconds / client seconds.
        client_memory: Memory of the client's process; ``None`` if not measured.
        dense_memory: Memory of a dense client's process.
    """

    uplink_claimed_bytes: int
    uplink_dense_bytes: int
    downlink_dense_bytes: int
    claimed_flops: int
    dense_flops: int
    client_step: StepTime | None = None
    dense_step: StepTime | None = None
    step_factor: float | None = None
    client_memory: Memory | None = None
    dense_memory: Memory | None = None


def collect_costs(
    federation: Federation, timed_steps: int, memory_cell: Mapping[str, Any] | None
) -> Costs:
    """Put formulas and measurements of a run together.

    Args:
        federation: The run, when its rounds are over.
        timed_steps: Local steps that are timed, in turns with the dense model; 0 is none.
        memory_cell: "factory", "arguments", "input_shape", "classes" and, where they are not
            its defaults, "dtype" and "label_shape" of :class:`sparsefl.fl.memory.Cell`; ``None``
            measures no memory.
    """
    method, task, ledger = federation.method, federation.task, federation.ledger
    dense = _dense_twin(federation)
    dense_bytes = sum(v.numel() * v.element_size() for v in task.new_model().state_dict().values())
    forward = forward_flops(task.new_model(), task.example_input, federation.schedule.batch_size)
    uplinks = sum(entry.clients for entry in ledger.rounds)
    downlinks = sum(entry.clients + entry.lost for entry in ledger.rounds)
    measured: dict[str, Any] = {}
    if timed_steps > 0:
        measured |= _time_steps(federation, dense, timed_steps)
    if memory_cell is not None:
        asked = [_memory_arguments(each, memory_cell) for each in (federation, dense)]
        # Each starts a process, most of whose time goes into imports.
        with ThreadPoolExecutor() as pool:
            both = pool.map(lambda arguments: measure_memory(*arguments), asked)
            measured["client_memory"], measured["dense_memory"] = both
    views = federation.views()
    answered = {
        level: uplinks if level is None else ledger.groups[level].clients for level in views
    }
    claimed = sum(method.claimed_uplink_bytes(views[level]) * answered[level] for level in views)
    return Costs(
        uplink_claimed_bytes=claimed,
        uplink_dense_bytes=dense_bytes * uplinks,
        downlink_dense_bytes=dense_bytes * downlinks,
        claimed_flops=method.claimed_flops(federation.state, forward),
        dense_flops=PASSES_PER_STEP * sum(forward.values()),
        **measured,
    )


def _dense_twin(federation: Federation) -> Federation:
    """Return the same run of the dense baseline, before its first round."""
    baseline, task = load_method(BASELINE), federation.task
    dense_task = Task(
        task.factory, task.example_input, task.seed, 1.0, baseline.defaults, device=task.device
    )
    twin = Federation(baseline, dense_task, federation.datasets, federation.schedule)
    twin.loss = federation.loss
    return twin


def _time_steps(federation: Federation, dense: Federation, timed: int) -> dict[str, Any]:
    """Time local steps of both in turns; none sits out, however slow."""
    effort = Effort(min(WARMUP_STEPS, timed), timed, slow_s=float("inf"))
    runs = {"client": stopwatch(_step(federation)), "dense": stopwatch(_step(dense))}
    seconds = {name: parts[-1] for name, parts in interleave(runs, effort).items()}
    return {
        "client_step": StepTime.of(seconds["client"]),
        "dense_step": StepTime.of(seconds["dense"]),
        "step_factor": paired_ratio(seconds["dense"], seconds["client"]),
    }


def _step(federation: Federation) -> Callable[[], object]:
    """Prepare one local step of a fresh client on a fixed whole batch, optimizer included."""
    client, device = federation.probe(), federation.task.device
    client.model.to(device)
    optimizer = federation.method.optimizer(client, 1)
    owner = max(federation.datasets, key=len)
    # Where no client fills a batch, its examples repeat: the FLOPs are those of a whole one.
    batch = np.arange(federation.schedule.batch_size) % len(owner)
    read = Reader(owner, floating_dtype(client.model)).take(batch)
    inputs, labels = (part.to(device) for part in read)
    # Reading the loss waits for the device.
    return lambda: local_step(client.model, optimizer, inputs, labels, federation.loss).item()


def _memory_arguments(
    federation: Federation, cell: Mapping[str, Any]
) -> tuple[Cell, bytes | None, bytes]:
    task = federation.task
    described = Cell(
        method=federation.method.name,
        factory=cell["factory"],
        arguments=cell["arguments"],
        input_shape=tuple(cell["input_shape"]),
        classes=cell["classes"],
        dtype=cell.get("dtype", "float32"),
        label_shape=tuple(cell.get("label_shape", ())),
        batch_size=federation.schedule.batch_size,
        seed=task.seed,
        density=task.density,
        options=task.options,
        threads=torch.get_num_threads(),
        capability=task.capability,
    )
    broadcast = federation.broadcast(len(federation.ledger.rounds) + 1)
    return described, federation.setup_message, broadcast
