"""One call for a whole run: build the federation, play its rounds, measure, evaluate."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsefl.fl.batches import Dataset, Reader
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.flops import PASSES_PER_STEP, forward_flops
from sparsefl.fl.ledger import Round
from sparsefl.fl.memory import Cell, Memory, measure_memory
from sparsefl.fl.method import Client, Method, Task, load_method
from sparsefl.fl.result import Costs, Result, model_sha256, summarise_clients
from sparsefl.fl.timing import TIMED_STEPS, WARMUP_STEPS, StepTime, time_interleaved
from sparsefl.fl.training import accuracy, local_step

# What every step time and every byte is compared with.
BASELINE = "fedavg"


def run(
    method: str,
    model: Callable[[], nn.Module],
    clients: Sequence[tuple[Dataset, Dataset]],
    test: Dataset,
    *,
    density: float = 0.1,
    rounds: int = 10,
    seed: int = 0,
    schedule: Schedule | None = None,
    options: Mapping[str, Any] | None = None,
    dev: Dataset | None = None,
    evaluate_every: int = 1,
    threads: int | None = None,
    timed_steps: int = TIMED_STEPS,
    memory_cell: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Result:
    """Train a model by a federated method, and measure what it costs.

    One seed, one result: equal arguments on one machine give the same final model, bit for bit.

    Args:
        method: "fedavg", "fedpt" or "hidenseek".
        model: Builds the dense model, without arguments; any ``nn.Module`` with class outputs.
        clients: ``(train, dev)`` of each client: map-style datasets of ``(input, label)``.
        test: Evaluated once, on the last global model.
        density: Share of weights kept, for methods that prune.
        rounds: Rounds of federated training.
        seed: Of initialisation, sampling and batch order.
        schedule: Cohort size, batch size and local work; by default one epoch of everyone.
        options: Options of the method, its learning rate among them; see its ``DEFAULTS``.
        dev: The server's development data, for the accuracy of each round; ``test`` if absent.
        evaluate_every: Rounds between evaluations; the last round is always evaluated, 0 is never.
        threads: Threads of torch; as they are if absent.
        timed_steps: Local steps that are timed, in turns with the dense model; 0 is none.
        memory_cell: "factory", "arguments", "input_shape" and "classes" of
            :class:`sparsefl.fl.memory.Cell`: measures memory in fresh processes.
        labels: Names for the report: "label" of the row, "model" and "data".
        on_round: Called with the entry of each round when it is over.

    Returns:
        Accuracy, ledger, costs and the final model.

    Raises:
        TypeError: if the model's factory or a dataset gives something else than it should.
        ValueError: if an argument is out of range or unknown.
        RuntimeError: if no client could train.
    """
    schedule = schedule or Schedule()
    chosen = load_method(method)
    _check(clients, test, rounds, schedule)
    first = next(train for train, _ in clients if len(train) > 0)
    example, _ = Reader(first).take(np.zeros(1, np.int64))
    task = Task(model, example, seed, density, chosen.with_defaults(options or {}))
    with _threads(threads):
        federation = Federation(chosen, task, [train for train, _ in clients], schedule)
        for round in range(1, rounds + 1):
            entry = federation.play(round)
            due = evaluate_every > 0 and (round % evaluate_every == 0 or round == rounds)
            if due:
                _evaluate(federation, entry, test if dev is None else dev)
            if on_round is not None:
                on_round(entry)
        final = chosen.global_model(task, federation.state)
        return Result(
            method=method,
            config=_config(federation, rounds, labels or {}, final),
            accuracy=accuracy(final, test),
            accuracy_per_client=summarise_clients([accuracy(final, own) for _, own in clients]),
            ledger=federation.ledger,
            costs=_costs(federation, timed_steps, memory_cell),
            model=final,
            model_sha256=model_sha256(final),
        )


def _check(
    clients: Sequence[tuple[Dataset, Dataset]], test: Dataset, rounds: int, schedule: Schedule
) -> None:
    """Refuse what cannot be run, by name."""
    if len(clients) == 0 or any(len(pair) != 2 for pair in clients):
        raise ValueError("clients must be a sequence of (train, dev) pairs, at least one")
    for argument, data in (("clients", clients[0][0]), ("clients", clients[0][1]), ("test", test)):
        if not isinstance(data, Dataset):
            raise TypeError(f"{argument} must hold map-style datasets, got {type(data).__name__}")
    if all(len(train) == 0 for train, _ in clients):
        raise ValueError("clients must own training data, all datasets are empty")
    positive = {
        "rounds": rounds,
        "batch_size": schedule.batch_size,
        "local_epochs": schedule.local_epochs,
        "local_steps": schedule.local_steps,
        "clients_per_round": schedule.clients_per_round,
    }
    for argument, value in positive.items():
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Set torch's threads for a while."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluate(federation: Federation, entry: Round, data: Dataset) -> None:
    started = time.perf_counter()
    model = federation.method.global_model(federation.task, federation.state)
    entry.accuracy = accuracy(model, data)
    entry.evaluate_s = time.perf_counter() - started


def _config(
    federation: Federation, rounds: int, labels: Mapping[str, str], final: nn.Module
) -> dict[str, Any]:
    """Collect everything that determines the run."""
    task, schedule = federation.task, federation.schedule
    return {
        "method": federation.method.name,
        "label": labels.get("label", federation.method.name),
        "model": labels.get("model", type(final).__name__),
        "data": labels.get("data", "own data"),
        "norm": _norm_of(final),
        "density": task.density if federation.method.prunes else 1.0,
        "seed": task.seed,
        "rounds": rounds,
        "clients": len(federation.datasets),
        "clients_per_round": schedule.clients_per_round,
        "batch_size": schedule.batch_size,
        "local_epochs": schedule.local_epochs,
        "local_steps": schedule.local_steps,
        "threads": torch.get_num_threads(),
        "options": dict(task.options),
    }


def _norm_of(model: nn.Module) -> str | None:
    """Name the model's normalisation: "batch", "group", "layer", "instance" or none."""
    for module in model.modules():
        name = type(module).__name__
        if name.startswith(("BatchNorm", "GroupNorm", "LayerNorm", "InstanceNorm")):
            return name.partition("Norm")[0].lower()
    return None


def _costs(
    federation: Federation, timed_steps: int, memory_cell: Mapping[str, Any] | None
) -> Costs:
    """Put formulas and measurements of the run together."""
    method, task, ledger = federation.method, federation.task, federation.ledger
    baseline = load_method(BASELINE)
    dense_task = Task(task.factory, task.example_input, task.seed, 1.0, baseline.defaults)
    dense = Federation(baseline, dense_task, federation.datasets, federation.schedule)
    dense_bytes = sum(v.numel() * v.element_size() for v in task.new_model().state_dict().values())
    forward = forward_flops(task.new_model(), task.example_input, federation.schedule.batch_size)
    uplinks = sum(entry.clients for entry in ledger.rounds)
    downlinks = sum(entry.clients + entry.lost for entry in ledger.rounds)
    steps: tuple[StepTime | None, StepTime | None] = (None, None)
    if timed_steps > 0:
        warmup = min(WARMUP_STEPS, timed_steps)
        steps = time_interleaved(_step(federation), _step(dense), warmup, timed_steps)
    memories: tuple[Memory | None, Memory | None] = (None, None)
    if memory_cell is not None:
        memories = (_memory(federation, memory_cell), _memory(dense, memory_cell))
    return Costs(
        uplink_claimed_bytes=method.claimed_uplink_bytes(federation.state) * uplinks,
        uplink_dense_bytes=dense_bytes * uplinks,
        downlink_dense_bytes=dense_bytes * downlinks,
        claimed_flops=method.claimed_flops(federation.state, forward),
        dense_flops=PASSES_PER_STEP * sum(forward.values()),
        client_step=steps[0],
        dense_step=steps[1],
        client_memory=memories[0],
        dense_memory=memories[1],
    )


def _step(federation: Federation) -> Callable[[], object]:
    """Prepare one local step of a fresh client on a fixed batch, optimizer included."""
    client: Client = federation.probe()
    method: Method = federation.method
    optimizer = method.optimizer(client, 1)
    owner = max(federation.datasets, key=len)
    batch = min(federation.schedule.batch_size, len(owner))
    inputs, labels = Reader(owner).take(np.arange(batch))
    return lambda: local_step(client.model, optimizer, inputs, labels)


def _memory(federation: Federation, cell: Mapping[str, Any]) -> Memory:
    task = federation.task
    described = Cell(
        method=federation.method.name,
        factory=cell["factory"],
        arguments=cell["arguments"],
        input_shape=tuple(cell["input_shape"]),
        classes=cell["classes"],
        batch_size=federation.schedule.batch_size,
        seed=task.seed,
        density=task.density,
        options=task.options,
        threads=torch.get_num_threads(),
    )
    return measure_memory(
        described, federation.setup_message, federation.broadcast(len(federation.ledger.rounds) + 1)
    )
