"""FedPT: partially trainable networks; what is frozen is regenerated from a seed, never sent.

Sidahmed, Xu, Garg, Cao, Chen, "Efficient and private federated learning with partially trainable
networks", 2021, arXiv 2110.03450.

    server    y_0, seed; frozen z = G(seed)                  -> init, sparsefl.nn.FrozenLinear
    down      (y_t, seed)                                    -> broadcast: |y| floats and a seed
    client    y_k = ClientOpt(y_t; z), gradient of y only    -> optimizer
    up        D_k = y_k - y_t                                -> report
    server    y_{t+1} = ServerOpt(y_t, -sum_k p_k D_k)       -> aggregate

Options, beside FedAvg's and those of sparsefl.fl.privacy, of which one at most:

    frozen             patterns of weights or layers, "fc1.weight" or "layer4.*, fc1": these
    trained            patterns: all but these
    frozen_fraction    the largest layers, as few as hold this share of all parameters

and

    layers             "frozen": sparsefl.nn.FrozenLinear and FrozenConv2d; "plain": torch's own
                       with requires_grad_(False), what a user has without them: the same bytes and
                       weights, the control of every gain in time and memory

Clients may differ by ``capabilities``, ours: one that can train the share c of all parameters
freezes the largest layers, as few as hold ``1 - c``. What all freeze is never sent. What a weaker
client freezes beyond that comes with the broadcast and stays out of its reply, and each D is
averaged over the clients that train it; where no one of a round does, it is 0.

Departures: by default the largest linear layer is frozen, or the largest layer where there is no
linear one. Only weights of linear and 2-d convolution layers are frozen: their biases, norms and
everything else train. Buffers are averaged plainly, whatever the server's optimizer. One seed a
frozen layer is sent, 8 bytes each. Of the paper's two private variants this has the central one,
DP-FedAvg, in sparsefl.fl.privacy: y alone is clipped and gets noise. Not DP-FTRL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.codec import Regenerated, Schema, Update
from sparsefl.fl import privacy
from sparsefl.fl.aggregation import (
    SERVER_DEFAULTS,
    ServerOptimizer,
    dense_entries,
    dense_tensors,
    load_tensors,
    step_trained,
)
from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.methods import _fedpt_selection as selection
from sparsefl.fl.methods._fedpt_layers import freeze, frozen_layers, trainable_tensors
from sparsefl.fl.methods._uplink import bits_of, expand, report_change, wire_of
from sparsefl.fl.methods.fedavg import (
    CHANGE_DEFAULTS,
    CHOICES,
    CLIENT_DEFAULTS,
    check_client,
    computing_in,
    sgd,
    trained_names,
)
from sparsefl.fl.pool import Mean
from sparsefl.nn import densify

DEFAULTS: Mapping[str, Any] = {
    **CLIENT_DEFAULTS,
    **SERVER_DEFAULTS,
    **CHANGE_DEFAULTS,
    "layers": "frozen",
    "frozen": None,
    "trained": None,
    "frozen_fraction": 0.0,
}


def check(options: Mapping[str, Any]) -> None:
    """Check all options but patterns, which need the model.

    Raises:
        ValueError: if one is out of range.
    """
    check_client(options)
    ServerOptimizer.of(options)
    privacy.check_options(options)
    selection.check_fraction(options["frozen_fraction"])


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        trainable: Trained parameters y and buffers, by name.
        frozen: Names of the frozen weights z.
        seed: What z stands for.
        parameters: Number of trained parameters.
        stepped: Names of the trained parameters; the rest of ``trainable`` is buffers.
        bits: Of each weight that clients send, by its format.
        server: The server's optimizer.
        wire: How messages are encoded.
        sizes: Elements of each layer that can be frozen, and of all parameters.
    """

    trainable: Mapping[str, Tensor]
    frozen: tuple[str, ...]
    seed: int
    parameters: int
    stepped: tuple[str, ...]
    bits: int
    server: ServerOptimizer
    wire: Wire
    sizes: tuple[Mapping[str, int], int]


def init(task: Task) -> State:
    """Draw y from the run's seed, and let z be what the seed stands for."""
    model = task.new_model()
    schema, options, sizes = Schema.of(model), task.options, selection.layer_sizes(model)
    names = selection.frozen_of(model, options, task.capability)
    model = freeze(model, names, task.seed)
    trainable = {k: v.clone() for k, v in trainable_tensors(model, names).items()}
    stepped = tuple(name for name in trained_names(model) if name in trainable)
    privacy.check_travelling(options, trainable, stepped)
    return State(
        trainable=trainable,
        frozen=names,
        seed=task.seed,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        stepped=stepped,
        bits=bits_of(options),
        server=ServerOptimizer.of(options),
        wire=wire_of(schema, options),
        sizes=sizes,
    )


def view(state: State, capability: float) -> State:
    """Return the state as weaker clients know it: they leave more layers as they receive them."""
    untrained = selection.frozen_at(*state.sizes, capability) - {*state.frozen}
    parameters = state.parameters - sum(state.sizes[0][name] for name in untrained)
    return replace(state, parameters=parameters, wire=replace(state.wire, untrained=untrained))


def still(state: State) -> dict[str, Tensor]:
    """Return the change of what nobody trains, 0."""
    return {name: torch.zeros_like(value) for name, value in state.trainable.items()}


def setup(state: State) -> bytes | None:
    """Send nothing before the first round: the seed comes with each broadcast."""
    return None


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the dense model; the first broadcast says what is frozen, and from which seed."""
    model = task.new_model()
    names = selection.frozen_at(*selection.layer_sizes(model), task.capability)
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    wire = replace(wire_of(Schema.of(model), task.options), untrained=names)
    return computing_in(Client(model, wire, task.options), task.options["autocast"])


def broadcast(state: State, round: int) -> Update:
    """Send ``(y_t, seed)``."""
    seeds = {name: Regenerated(state.seed) for name in state.frozen}
    return Update({**dense_entries(state.trainable), **seeds}, round=round)


def receive(client: Client, update: Update) -> None:
    """Load y, and regenerate the layers whose seed is new.

    Raises:
        ValueError: if y does not fit the client's model, or there is a seed for what cannot be
            frozen; the model is untouched.
    """
    seeds = {name: e.seed for name, e in update.items() if isinstance(e, Regenerated)}
    layers = selection.freezable(client.model) | frozen_layers(client.model)
    if odd := [name for name in seeds if name not in layers]:
        raise ValueError(f"received a seed for {', '.join(odd)}, which cannot be frozen")
    needed = trainable_tensors(client.model, tuple(seeds))
    load_tensors(client.model, dense_tensors(update), needed)
    for name, seed in seeds.items():
        if getattr(layers[name], "seed", None) != seed:
            freeze(client.model, (name,), seed, client.options["layers"] == "plain")


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open SGD on y alone."""
    return sgd(client.model, client.options, round)


def report(client: Client, received: Update, round: int) -> Update:
    """Send ``D_k = y_k - y_t``, in the format of the options."""
    return report_change(client, received, round)


def aggregate(state: State, mean: Mean) -> State:
    """Take the server's step along ``sum_k p_k D_k``; buffers move by it as it is."""
    trainable, server = step_trained(state.server, state.trainable, state.stepped, mean.tensors)
    return replace(state, trainable=trainable, server=server)


def global_model(task: Task, state: State) -> nn.Module:
    """Return the global model, z included, in plain torch."""
    model = freeze(task.new_model(), state.frozen, state.seed)
    load_tensors(model, state.trainable)
    return densify(model)


def claimed_uplink_bytes(state: State) -> int:
    """Return 4 bytes a trained parameter, fewer in the formats that round."""
    return state.parameters * state.bits // 8


def claimed_flops(state: State, forward: Mapping[str, int]) -> int:
    """Return ``3 F - F_frozen``: a frozen layer has no weight gradient.

    The paper claims less time without a formula; this is the count of what it leaves out.
    """
    frozen = {*state.frozen, *state.wire.untrained}
    return PASSES_PER_STEP * sum(forward.values()) - sum(forward[name] for name in frozen)


METHOD = Method(
    name="fedpt",
    defaults=DEFAULTS,
    choices={**CHOICES, "layers": ("frozen", "plain")},
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
    expand=expand,
    view=view,
    still=still,
)
