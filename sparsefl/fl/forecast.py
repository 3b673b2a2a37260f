"""What a run will cost, before it is made: bytes of real messages, minutes from a few local steps.

Nothing is learnt: the messages are those of the initialised method, and the few steps that are
timed are thrown away.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsefl.fl.batches import Reader, batch_indices, stream
from sparsefl.fl.capabilities import spread
from sparsefl.fl.checks import check_clients, check_counts, check_kept, try_model
from sparsefl.fl.device import check_device, computing_on
from sparsefl.fl.engine import Federation
from sparsefl.fl.experiment import Problem, Setting, prepare
from sparsefl.fl.learning_rate import with_horizon
from sparsefl.fl.method import Client, Task, load_method
from sparsefl.fl.serving import answer
from sparsefl.fl.training import accuracy, local_step
from sparsefl.measuring import torch_threads
from sparsefl.nn import FrozenConv2d, FrozenLinear, GatedConvBN2d
from sparsefl.ops import isa
from sparsefl.ops._dispatch import accelerated, layout
from sparsefl.support import Support

WARMUP_STEPS, TIMED_STEPS = 2, 5
# Examples of the development data that evaluation is timed on.
_EVALUATED = 200
_FROZEN = (FrozenLinear, FrozenConv2d)
_WEIGHTED = (nn.Linear, nn.Conv2d, *_FROZEN)


@dataclass(frozen=True)
class LayerPlan:
    """How one layer computes on a client.

    Attributes:
        name: Name of the layer.
        kind: Class of the layer.
        shape: Shape of its weight.
        nnz: Weights kept.
        computes: Which kernels it runs on.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nnz: int
    computes: str

    @property
    def density(self) -> float:
        """Share of weights kept."""
        return self.nnz / max(1, math.prod(self.shape))


@dataclass(frozen=True)
class Forecast:
    """What a run will cost.

    Attributes:
        method: Name of the row.
        setup_bytes: What a client gets once.
        prepare_bytes: What server and clients exchange before the first round, all together.
        downlink_bytes: What a client gets in a round.
        uplink_bytes: What a client sends, encoded right after the broadcast.
        trained_uplink_bytes: The same after the timed steps: differs where a message's size depends
            on what was learnt.
        dense_bytes: Parameters and buffers of the dense model.
        cohort: Clients of a round.
        clients: Clients that will get the set-up, at most.
        rounds: Rounds of the run.
        local_steps: Mean steps of a client in a round.
        step_s: Median seconds of a local step.
        exchange_s: Seconds of encoding and decoding a client's messages in a round.
        evaluate_s: Seconds of one evaluation.
        evaluations: How many there will be.
        setup_s: Seconds of the server's set-up.
        layers: The layers with weights, in order.
    """

    method: str
    setup_bytes: int
    prepare_bytes: int
    downlink_bytes: int
    uplink_bytes: int
    trained_uplink_bytes: int
    dense_bytes: int
    cohort: int
    clients: int
    rounds: int
    local_steps: float
    step_s: float
    exchange_s: float
    evaluate_s: float
    evaluations: int
    setup_s: float
    layers: tuple[LayerPlan, ...]

    @property
    def wall_s(self) -> float:
        """Seconds of the whole run, one client after the other; final measurements left out."""
        client_s = self.local_steps * self.step_s + self.exchange_s
        rounds_s = self.rounds * self.cohort * client_s
        return self.setup_s + rounds_s + self.evaluations * self.evaluate_s


def forecast(
    method: str, setting: Setting, problem: Problem, seed: int, options: Mapping[str, Any]
) -> Forecast:
    """Initialise a method, encode its messages, and time a few local steps.

    Torch's threads and its generator are afterwards what they were before.

    Args:
        method: As of :func:`sparsefl.fl.experiment.play`.
        setting: As of it.
        problem: As of it.
        seed: As of it.
        options: As of it.

    Raises:
        TypeError, ValueError: as ``play``.
    """
    with _surroundings(setting.threads, seed):
        return _forecast(method, setting, problem, seed, options)


@contextlib.contextmanager
def _surroundings(threads: int | None, seed: int) -> Iterator[None]:
    """Set torch's threads and generator for a while."""
    with torch_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _forecast(
    method: str, setting: Setting, problem: Problem, seed: int, options: Mapping[str, Any]
) -> Forecast:
    prepared = prepare(method, setting, problem, options)
    schedule = setting.schedule
    check_counts(setting.rounds, setting.evaluate_every, seed, schedule)
    data = check_clients(problem.clients)
    trains, devs = [client.train for client in data], [client.dev for client in data]
    chosen = load_method(prepared.method)
    given = with_horizon(chosen.with_defaults(prepared.options), setting.rounds)
    example, _ = try_model(prepared.factory, seed, next(t for t in trains if len(t) > 0))
    task = Task(
        prepared.factory,
        example,
        seed,
        check_kept(chosen, setting.density),
        given,
        public=problem.public,
        device=check_device(setting.device),
    )
    capabilities = spread(setting.capabilities or [], len(trains))
    federation = Federation(chosen, task, trains, schedule, devs=devs, capabilities=capabilities)
    eligible = sum(len(train) > 0 for train in trains)
    client = federation.new_client()
    started = time.perf_counter()
    message = federation.broadcast(1)
    received = federation.receive(client, message)
    uplink_bytes = len(answer(chosen, client, received))
    exchange_s = 2 * (time.perf_counter() - started)
    step_s = _time_steps(federation, client)
    evaluated = problem.test if problem.dev is None else problem.dev
    due = setting.rounds // setting.evaluate_every if setting.evaluate_every else 0
    return Forecast(
        method=method,
        setup_bytes=len(federation.setup_message or b""),
        prepare_bytes=sum(federation.exchanged_bytes),
        downlink_bytes=len(message),
        uplink_bytes=uplink_bytes,
        trained_uplink_bytes=len(answer(chosen, client, received)),
        dense_bytes=sum(
            v.numel() * v.element_size() for v in task.new_model().state_dict().values()
        ),
        cohort=min(schedule.clients_per_round or eligible, eligible),
        clients=eligible,
        rounds=setting.rounds,
        local_steps=_mean_steps([len(train) for train in trains], setting),
        step_s=step_s,
        exchange_s=exchange_s,
        evaluate_s=_time_evaluation(federation, evaluated),
        evaluations=due + bool(setting.evaluate_every and setting.rounds % setting.evaluate_every),
        setup_s=federation.ledger.setup_s,
        layers=tuple(_plans(client.model, task.device)),
    )


def _time_steps(federation: Federation, client: Client) -> float:
    """Return the median seconds of a few local steps on one batch."""
    owner = max(federation.datasets, key=len)
    batch = min(federation.schedule.batch_size, len(owner))
    device = federation.task.device
    with computing_on(device, client.model.train()):
        optimizer = federation.method.optimizer(client, 1)
        seconds = []
        for step in range(WARMUP_STEPS + TIMED_STEPS):
            started = time.perf_counter()
            read = Reader(owner, federation.task.example_input.dtype).take(np.arange(batch))
            inputs, labels = (part.to(device) for part in read)
            # Reading the loss waits for the device.
            local_step(client.model, optimizer, inputs, labels).item()
            if step >= WARMUP_STEPS:
                seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _time_evaluation(federation: Federation, data: Any) -> float:
    """Return the seconds of an evaluation, from some of the data."""
    count = min(_EVALUATED, len(data))
    if count == 0:
        return 0.0
    model = federation.method.global_model(federation.task, federation.state)
    started = time.perf_counter()
    accuracy(model, torch.utils.data.Subset(data, range(count)), federation.task.device)
    return (time.perf_counter() - started) * len(data) / count


def _mean_steps(examples: list[int], setting: Setting) -> float:
    """Count the batches that training will draw, of each client that has any."""
    schedule = setting.schedule
    batches = {
        count: sum(
            1
            for _ in batch_indices(
                count,
                schedule.batch_size,
                schedule.local_epochs,
                schedule.local_steps,
                stream(0, 0, 0),
            )
        )
        for count in set(examples)
    }
    return statistics.fmean(batches[count] for count in examples if count > 0)


def _plans(model: nn.Module, device: torch.device) -> list[LayerPlan]:
    """List the layers that have a weight, sparse or dense, and how a device computes them."""
    plans, scratch = [], "dense torch, on a scratch weight"
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        kind = type(module).__name__
        support = getattr(module, "support", None)
        if isinstance(support, Support):
            sparse = layout(support) == "sparse" and not accelerated(device)
            computes = f"sparse kernels ({isa()})" if sparse else scratch
            plans.append(LayerPlan(name, kind, support.shape, support.nnz, computes))
        elif isinstance(module, GatedConvBN2d):
            inside.update(module.children())
            shape = tuple(module.conv.weight.shape)
            kernels = "dense torch" if accelerated(device) else f"gated kernels ({isa()})"
            computes = f"{kernels}, {module.density:.0%} of a sample's channels"
            plans.append(LayerPlan(name, kind, shape, math.prod(shape), computes))
        elif isinstance(module, _WEIGHTED):
            shape = tuple(module.weight.shape)
            frozen = isinstance(module, _FROZEN)
            computes = "dense torch, no weight gradient" if frozen else "dense torch"
            plans.append(LayerPlan(name, kind, shape, math.prod(shape), computes))
    return plans
