"""FedAvg: dense local training and the mean of the weights.

McMahan, Moore, Ramage, Hampson, Agueera y Arcas, "Communication-efficient learning of deep networks
from decentralized data", AISTATS 2017, arXiv 1602.05629.

    algorithm 1, server    w_{t+1} = sum_k p_k w_k,  p_k = n_k / sum_j n_j    -> aggregate
    algorithm 1, client    E epochs of SGD from w_t                          -> engine, optimizer

Options:

    lr, momentum, weight_decay    the clients' SGD
    lr_schedule, lr_decay, ...    sparsefl.fl.learning_rate
    server_optimizer, ...         sparsefl.fl.aggregation.ServerOptimizer: a step along
                                  ``sum_k p_k w_k - w_t`` (Reddi et al. 2021, arXiv 2003.00295)
    dp_clip, dp_noise, ...        sparsefl.fl.privacy: DP-FedAvg
    uplink                        sparsefl.fl.methods._uplink: int8 and other formats, one bit
    autocast                      "bf16": clients compute in bfloat16, by torch.autocast

Departures: the cohort's own examples are the denominator of p_k, so that a lost client does not
shrink the model. Buffers (running statistics of batch norm) travel and are always plainly averaged.
A client sends its weights, not their change, as in the paper; both have the same size. Under
privacy, which bounds the change, and in formats that round it sends that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.codec import Schema, Update
from sparsefl.fl import learning_rate as rates
from sparsefl.fl import privacy
from sparsefl.fl.aggregation import (
    SERVER_CHOICES,
    SERVER_DEFAULTS,
    ServerOptimizer,
    cast_like,
    dense_entries,
    dense_tensors,
    load_tensors,
    step_trained,
)
from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.methods import _uplink
from sparsefl.fl.options import check_at_least
from sparsefl.fl.pool import Mean
from sparsefl.fl.training import autocast_forward

# On the development set (Fashion-MNIST, cnn, 10 clients of Dirichlet 0.5, batch 16, 30 rounds of
# 12 steps, one seed) 0.05 ends at .853. In shorter runs on a sample, 0.03 with decay 0.9 was worse.
CLIENT_DEFAULTS: Mapping[str, Any] = {
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "autocast": "none",
    **rates.DEFAULTS,
}
PRECISIONS: Mapping[str, tuple[str, ...]] = {"autocast": ("none", "bf16")}
BASE_DEFAULTS: Mapping[str, Any] = {**CLIENT_DEFAULTS, **SERVER_DEFAULTS}
CHANGE_DEFAULTS: Mapping[str, Any] = {**privacy.DEFAULTS, **_uplink.DEFAULTS}
DEFAULTS: Mapping[str, Any] = {**BASE_DEFAULTS, **CHANGE_DEFAULTS}
CHOICES = {**rates.CHOICES, **SERVER_CHOICES, **privacy.CHOICES, **_uplink.CHOICES, **PRECISIONS}


def check_client(options: Mapping[str, Any]) -> None:
    """Check the options of the clients' SGD.

    Raises:
        ValueError: if one is out of range.
    """
    check_at_least(options, {"lr": 0, "momentum": 0, "weight_decay": 0})
    rates.check_options(options)


def check_base(options: Mapping[str, Any]) -> None:
    """Check the options of both sides' optimizers.

    Raises:
        ValueError: if one is out of range.
    """
    check_client(options)
    ServerOptimizer.of(options)


def check(options: Mapping[str, Any]) -> None:
    """Check all options.

    Raises:
        ModuleNotFoundError: if an extra is missing.
        ValueError: if one is out of range.
    """
    check_base(options)
    privacy.check_options(options)


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        tensors: Parameters and buffers of the global model, by name.
        trained: Names of the trainable parameters.
        parameters: Number of their elements.
        wire: How messages are encoded.
        server: The server's optimizer.
        changes: Whether clients send their change of the model, not the model.
        bits: Of each weight that they send, by its format.
    """

    tensors: Mapping[str, Tensor]
    trained: tuple[str, ...]
    parameters: int
    wire: Wire
    server: ServerOptimizer
    changes: bool
    bits: int


def init(task: Task) -> State:
    """Draw the first global model from the run's seed."""
    model = task.new_model()
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    trained = trained_names(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wire, changes = wire_of(model, task.options), _uplink.sends_changes(task.options)
    if changes:
        privacy.check_travelling(task.options, tensors, trained)
    server, bits = ServerOptimizer.of(task.options), _uplink.bits_of(task.options)
    return State(tensors, trained, parameters, wire, server, changes, bits)


def trained_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of what the server's optimizer steps on; buffers are only averaged."""
    named = model.named_parameters(remove_duplicate=False)
    return tuple(name for name, parameter in named if parameter.requires_grad)


def setup(state: State) -> bytes | None:
    """Send nothing before the first round."""
    return None


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the dense model; its weights come with the first broadcast."""
    model = task.new_model()
    client = Client(model, wire_of(model, task.options), task.options)
    return computing_in(client, task.options["autocast"])


def wire_of(model: nn.Module, options: Mapping[str, Any]) -> Wire:
    """Return how a dense model's messages travel."""
    return _uplink.wire_of(Schema.of(model), options)


def computing_in(client: Client, precision: str) -> Client:
    """Let a client compute forward and backward in a precision, "none" or "bf16"."""
    if precision == "bf16":
        autocast_forward(client.model)
    return client


def broadcast(state: State, round: int) -> Update:
    """Send the global model."""
    return Update(dense_entries(state.tensors), round=round)


def receive(client: Client, update: Update) -> None:
    """Load the global model.

    Raises:
        ValueError: if it does not fit the client's, which is untouched.
    """
    load_tensors(client.model, dense_tensors(update), needed=_uplink.sent_down(client.wire.schema))


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open plain SGD on all parameters."""
    return sgd(client.model, client.options, round)


def sgd(model: nn.Module, options: Mapping[str, Any], round: int) -> torch.optim.Optimizer:
    """Open the SGD that dense training uses, here and as the baseline of every timing."""
    return torch.optim.SGD(
        (parameter for parameter in model.parameters() if parameter.requires_grad),
        lr=rates.learning_rate(options["lr"], options, round),
        momentum=options["momentum"],
        weight_decay=options["weight_decay"],
    )


def report(client: Client, received: Update, round: int) -> Update:
    """Send the trained model, or its change."""
    if _uplink.sends_changes(client.options):
        return _uplink.report_change(client, received, round)
    return Update(dense_entries(client.model.state_dict()), round=round)


def aggregate(state: State, mean: Mean) -> State:
    """Take the mean of the clients' models, ``w = sum_k p_k w_k``, or step towards it."""
    if state.changes:
        moved, server = step_trained(state.server, state.tensors, state.trained, mean.tensors)
        return replace(state, tensors=moved, server=server)
    averaged = cast_like(state.tensors, mean.tensors)
    if state.server.averages:
        return replace(state, tensors=averaged)
    before = {name: state.tensors[name] for name in state.trained}
    change = {name: mean.tensors[name] - old.double() for name, old in before.items()}
    stepped, server = state.server.step(before, change)
    return replace(state, tensors={**averaged, **stepped}, server=server)


def global_model(task: Task, state: State) -> nn.Module:
    """Return the global model."""
    model = task.new_model()
    load_tensors(model, state.tensors)
    return model


def claimed_uplink_bytes(state: State) -> int:
    """Return the bits of a parameter in its format, 4 bytes for the paper's successors."""
    return state.parameters * state.bits // 8


def claimed_flops(state: State, forward: Mapping[str, int]) -> int:
    """Return ``3 F``: forward, input gradient, weight gradient."""
    return PASSES_PER_STEP * sum(forward.values())


METHOD = Method(
    name="fedavg",
    defaults=DEFAULTS,
    choices=CHOICES,
    check=check,
    init=init,
    setup=setup,
    server_wire=lambda state: state.wire,
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    optimizer=optimizer,
    report=report,
    aggregate=aggregate,
    global_model=global_model,
    claimed_uplink_bytes=claimed_uplink_bytes,
    claimed_flops=claimed_flops,
    expand=_uplink.expand,
)
