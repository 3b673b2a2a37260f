"""One call for a whole run: build the federation, play its rounds, measure, evaluate."""

import functools
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import ConcatDataset

from sparsefl.fl.batches import Dataset
from sparsefl.fl.capabilities import check_capabilities
from sparsefl.fl.checkpoint import Checkpoint
from sparsefl.fl.checks import (
    ClientData,
    Counts,
    check_clients,
    check_counts,
    check_dataset,
    check_kept,
    check_labels,
    label_shape,
    try_model,
)
from sparsefl.fl.costs import collect_costs
from sparsefl.fl.device import HOST, check_device
from sparsefl.fl.engine import Federation
from sparsefl.fl.ledger import Round
from sparsefl.fl.method import ROUNDS, Method, Task, load_method
from sparsefl.fl.result import Result, model_sha256, summarise_clients
from sparsefl.fl.resuming import checkpoint_of, saved_run, with_saved_horizon
from sparsefl.fl.schedule import Schedule
from sparsefl.fl.training import Loss, accuracy
from sparsefl.measuring import torch_threads
from sparsefl.names import METHODS
from sparsefl.timing import TIMED_STEPS


@dataclass(frozen=True)
class Description:
    """How reports and other processes name a run's parts.

    Attributes:
        label: Name of the run's row; the method's by default.
        model: Name of the model; its class by default.
        data: Name of the data.
        memory_cell: "factory", "arguments", "input_shape" and "classes" of
            :class:`sparsefl.fl.memory.Cell`: measures memory in fresh processes; ``None`` does not.
    """

    label: str | None = None
    model: str | None = None
    data: str = "own data"
    memory_cell: Mapping[str, Any] | None = None


def run(
    method: str | Method,
    model: Callable[[], nn.Module],
    clients: Iterable[Sequence[Dataset]],
    test: Dataset,
    *,
    density: float = 0.1,
    rounds: int = ROUNDS,
    seed: int = 0,
    schedule: Schedule | None = None,
    options: Mapping[str, Any] | None = None,
    loss: Loss = cross_entropy,
    dev: Dataset | None = None,
    evaluate_every: int = 1,
    threads: int | None = None,
    device: str | torch.device = "cpu",
    timed_steps: int = TIMED_STEPS,
    description: Description | None = None,
    on_round: Callable[[Round], None] | None = None,
    public: Dataset | None = None,
    capabilities: Sequence[float] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    resume: bool = False,
) -> Result:
    """Train a model by a federated method, and measure what it costs.

    One seed, one result: equal arguments on one machine give the same final model, bit for bit,
    also when the run was interrupted and resumed.

    Args:
        method: One of ``sparsefl.fl.METHODS``, or a method of your own. A checkpoint needs its
            state plain: numbers, arrays, tensors and mappings of them.
        model: Builds the dense model, without arguments; any ``nn.Module`` with class outputs.
            Initial weights are drawn anew by HideNseek, all of linear and convolution layers, and
            by FedPT, the frozen ones: what a pretrained model has learnt in them is lost.
        clients: ``(train, dev)`` or ``(train, dev, test)`` of each client: map-style datasets of
            ``(input, label)``.
        test: Read once, when the rounds are over: evaluated on the last global model alone.
        density: Share of weights kept, for methods that prune.
        rounds: Rounds of federated training.
        seed: Of initialisation, sampling, batch order and dropout, and of the global generators of
            torch, numpy and python while datasets are read, for those that augment.
        schedule: Cohort size, batch size and local work; by default one epoch of everyone.
        options: Options of the method, its learning rate among them; see its ``DEFAULTS``.
        loss: What clients minimise: ``(outputs [batch, classes], labels [batch]) -> scalar``.
            Accuracy is always of the largest output.
        dev: The server's development data, for the accuracy of each round; if absent, the clients'
            own development data together, and no round is judged where they have none.
        evaluate_every: Rounds between evaluations; the last round is always evaluated, 0 is never.
        threads: Threads of torch; as they are if absent.
        device: Where clients train and models are evaluated: "cpu", "cuda" or "cuda:N". State and
            messages of the server stay on the CPU; bits are equal on one kind of device only.
        timed_steps: Local steps that are timed, in turns with the dense model; 0 is none.
        description: Names for the report, and how to measure memory.
        on_round: Called with the entry of each round when it is over; see ``sparsefl.fl.logs``.
        public: The server's own labelled examples, for methods that train on some: held out from
            clients, development and test data alike.
        capabilities: Of each client the share of the weights that it can train, in (0, 1], for
            methods that let clients differ; the global model is the strongest's, and each position
            is averaged over the clients that own it.
        checkpoint: Folder of the checkpoint; killed at any moment, a run goes on from the last one.
        checkpoint_every: Rounds between two checkpoints; the last round always has one.
        resume: Go on from the checkpoint where there is one; more ``rounds`` than before are fine.
            A cosine schedule keeps the end that it had; to leave room, begin with a larger option
            ``lr_horizon``.

    Returns:
        Accuracy, ledger, costs and the final model.

    Raises:
        TypeError: if an argument is of another type, or the model's factory or a dataset gives
            something else than it should.
        ValueError: if an argument is out of range or unknown, or the checkpoint is another run's.
        RuntimeError: if no client could train.
    """
    schedule, description = schedule or Schedule(), description or Description()
    counts = check_counts(
        rounds, evaluate_every, seed, schedule, timed_steps, threads, checkpoint_every
    )
    chosen = method if isinstance(method, Method) else load_method(method)
    placed = check_device(device)
    _check_memory_cell(chosen, description, placed)
    given: Mapping[str, Any] = chosen.with_defaults(options or {})
    density = check_kept(chosen, density)
    if resume and checkpoint is not None:
        given = with_saved_horizon(given, checkpoint)
    data = check_clients(clients)
    shares = check_capabilities(chosen, capabilities, len(data), given)
    with torch_threads(counts.threads):
        servers = {"test": test, "dev": dev, "public": public}
        task = _task(model, data, servers, counts, density, given, placed)
        config = _config(chosen, task, data, schedule, description, loss)
        config["capabilities"] = shares or None
        kept = checkpoint_of(checkpoint, config, data, task, dev)
        saved = saved_run(kept, resume, counts.rounds)
        trains, devs = [own.train for own in data], [own.dev for own in data]
        federation = Federation(
            chosen,
            task,
            trains,
            schedule,
            saved=saved,
            loss=loss,
            devs=devs,
            capabilities=shares,
        )
        _play(federation, counts, _round_data(dev, data), kept, on_round)
        return _result(federation, config, data, test, counts.timed_steps, description)


def _result(
    federation: Federation,
    config: Mapping[str, Any],
    data: Sequence[ClientData],
    test: Dataset,
    timed_steps: int,
    description: Description,
) -> Result:
    """Judge the last global model, and put together what the run has cost."""
    final = federation.method.global_model(federation.task, federation.state)
    device = federation.task.device
    judged = [accuracy(final, client.held_out, device) for client in data]
    return Result(
        method=federation.method.name,
        config=config,
        accuracy=accuracy(final, test, device),
        accuracy_per_client=summarise_clients(judged) | _personal(federation, data),
        ledger=federation.ledger,
        costs=collect_costs(federation, timed_steps, description.memory_cell),
        model=final,
        model_sha256=model_sha256(final),
    )


def _check_memory_cell(method: Method, description: Description, device: torch.device) -> None:
    """Refuse to measure the memory of a method that another process cannot find, or off the CPU."""
    if description.memory_cell is not None and device != HOST:
        raise ValueError(f"memory_cell must be None on {device}: processes on the CPU are measured")
    if description.memory_cell is not None and method.name not in METHODS:
        raise ValueError(
            f"memory_cell must be None for {method.name!r}: the fresh processes that measure know "
            f"{', '.join(METHODS)} alone"
        )


def _task(
    model: Callable[[], nn.Module],
    data: Sequence[ClientData],
    servers: Mapping[str, Dataset | None],
    counts: Counts,
    density: float,
    options: Mapping[str, Any],
    device: torch.device,
) -> Task:
    """Try the model on the data, compare all labels with its classes, and put the task together."""
    first = next(client.train for client in data if len(client.train) > 0)
    example, classes = try_model(model, counts.seed, first)
    labels = label_shape(first)
    named = [(name, own) for name, own in servers.items() if own is not None]
    for name, own in named:
        check_dataset(own, name)
    named += [pair for number, client in enumerate(data) for pair in client.named(number)]
    for name, own in named:
        check_labels(own, name, classes, labels)
    public = servers["public"]
    seed, rounds = counts.seed, counts.rounds
    return Task(model, example, seed, density, options, rounds, public, device=device)


def _round_data(dev: Dataset | None, data: Sequence[ClientData]) -> Dataset | None:
    """Return what rounds are judged by: the server's development data, else all clients' together.

    ``None`` where these hold no example: the test set is for the end alone.
    """
    if dev is not None:
        return dev if len(dev) > 0 else None
    owned: list[Any] = [client.dev for client in data if len(client.dev) > 0]
    return ConcatDataset(owned) if owned else None


def _play(
    federation: Federation,
    counts: Counts,
    dev: Dataset | None,
    checkpoint: Checkpoint | None,
    on_round: Callable[[Round], None] | None,
) -> None:
    """Play the rounds that are left, evaluate, save and report each."""
    rounds, evaluate_every = counts.rounds, counts.evaluate_every
    for round in range(len(federation.ledger.rounds) + 1, rounds + 1):
        entry = federation.play(round)
        due = evaluate_every > 0 and (round % evaluate_every == 0 or round == rounds)
        if due and dev is not None:
            started = time.perf_counter()
            model = federation.method.global_model(federation.task, federation.state)
            entry.accuracy = accuracy(model, dev, federation.task.device)
            entry.evaluate_s = time.perf_counter() - started
        if checkpoint is not None and (round % counts.checkpoint_every == 0 or round == rounds):
            checkpoint.save(federation.snapshot())
        if on_round is not None:
            on_round(entry)


def _personal(federation: Federation, data: Sequence[ClientData]) -> dict[str, Any]:
    """Judge the clients' own models on their own held-out data, where the method has any."""
    make, judged = federation.method.personal_model, []
    for number, client in enumerate(data if make is not None else ()):
        assert make is not None
        model = make(federation.task, federation.state, federation.memories.get(number))
        if model is None:
            return {}
        judged.append(accuracy(model, client.held_out, federation.task.device))
    return {"personal": summarise_clients(judged)} if judged else {}


def _config(
    method: Method,
    task: Task,
    data: Sequence[ClientData],
    schedule: Schedule,
    description: Description,
    loss: Loss,
) -> dict[str, Any]:
    """Collect everything that determines the run, JSON-ready."""
    model = task.new_model()
    return {
        "method": method.name,
        "label": description.label or method.name,
        "model": description.model or type(model).__name__,
        "data": description.data,
        "norm": _norm_of(model),
        "density": task.density,
        "seed": task.seed,
        "rounds": task.rounds,
        "clients": len(data),
        **asdict(schedule),
        "threads": torch.get_num_threads(),
        "device": task.device.type,
        "options": dict(task.options),
        "loss": _described(loss),
    }


def _described(value: Any) -> str:
    """Name a loss, or an argument that one is given, the same in every process."""
    if isinstance(value, functools.partial):
        named = [f"{key}={_described(own)}" for key, own in sorted(value.keywords.items())]
        parts = [_described(part) for part in (value.func, *value.args)]
        return f"partial({', '.join([*parts, *named])})"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    # All digits of all elements, where repr leaves some out; addresses differ with the process.
    shown = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(shown))


def _norm_of(model: nn.Module) -> str | None:
    """Name the model's normalisation: "batch", "group", "layer", "instance" or none."""
    for module in model.modules():
        name = type(module).__name__
        if name.startswith(("BatchNorm", "GroupNorm", "LayerNorm", "InstanceNorm")):
            return name.partition("Norm")[0].lower()
    return None
