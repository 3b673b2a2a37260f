"""FedPT: partially trainable networks; what is frozen is regenerated from a seed, never sent.

Sidahmed, Xu, Garg, Cao, Chen, "Efficient and private federated learning with partially trainable
networks", 2021, arXiv 2110.03450.

    server    y_0, seed; frozen z = G(seed)                  -> init, sparsefl.nn.FrozenLinear
    down      (y_t, seed)                                    -> broadcast: |y| floats and a seed
    client    y_k = ClientOpt(y_t; z), gradient of y only    -> optimizer
    up        D_k = y_k - y_t                                -> report
    server    y_{t+1} = ServerOpt(y_t, -sum_k p_k D_k)       -> aggregate

Departures: the server's optimizer is SGD with ``server_lr`` (1.0: plain averaging). What is frozen
is chosen by patterns of names; by default it is the largest linear layer, or the largest layer
where there is no linear one. Its bias trains. One seed a frozen layer is sent, 8 bytes each. There
is no differential privacy yet.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparsefl.codec import Dense, Regenerated, Schema, Update
from sparsefl.fl.aggregation import (
    add_mean_change,
    dense_entries,
    dense_tensors,
    load_tensors,
)
from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.methods.fedavg import sgd
from sparsefl.nn import FrozenConv2d, FrozenLinear, densify

# FedAvg's, which ends at .815 in the same setting; others were not tried at length.
DEFAULTS = {
    "lr": 0.05,
    "lr_decay": 1.0,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "server_lr": 1.0,
    "frozen": None,
}


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        trainable: Trained parameters y and buffers, by name.
        frozen: Names of the frozen weights z.
        seed: What z stands for.
        parameters: Number of trained parameters.
        server_lr: Learning rate of the server.
        wire: How messages are encoded.
    """

    trainable: Mapping[str, Tensor]
    frozen: tuple[str, ...]
    seed: int
    parameters: int
    server_lr: float
    wire: Wire


def frozen_names(model: nn.Module, patterns: str | None) -> tuple[str, ...]:
    """Choose the frozen weights.

    Args:
        model: The dense model.
        patterns: Comma-separated shell patterns of weights ("fc1.weight", "features.*") or of their
            layers ("fc1"); ``None`` is the largest linear layer.

    Raises:
        ValueError: if a pattern matches no linear or 2-d convolution layer, or no other layer is
            left to train.
    """
    layers = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    if patterns is None:
        linear = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        sizes = {name: layer.weight.numel() for name, layer in (linear or layers).items()}
        chosen = {max(sizes, key=lambda name: sizes[name])} if sizes else set()
    else:
        chosen = set()
        for pattern in (part.strip() for part in patterns.split(",")):
            hits = {
                name
                for name in layers
                if fnmatch.fnmatchcase(name, pattern)
                or fnmatch.fnmatchcase(name.removesuffix(".weight"), pattern)
            }
            if not hits:
                raise ValueError(f"frozen: no layer matches {pattern!r}; there are: {list(layers)}")
            chosen |= hits
    if len(chosen) >= len(layers):
        raise ValueError(
            f"fedpt needs a layer left to train, frozen would be all of {list(layers)}"
        )
    return tuple(name for name in layers if name in chosen)


def freeze(model: nn.Module, names: tuple[str, ...], seed: int) -> nn.Module:
    """Replace layers by frozen ones whose weights come from ``seed``, in place; biases are kept."""
    with torch.random.fork_rng(devices=[]):
        for name in names:
            _freeze_one(model, name, seed)
    return model


def _freeze_one(model: nn.Module, name: str, seed: int) -> None:
    layer_name = name.rpartition(".")[0]
    dense = model.get_submodule(layer_name)
    frozen: FrozenLinear | FrozenConv2d
    if isinstance(dense, nn.Linear | FrozenLinear):
        plain = dense if isinstance(dense, nn.Linear) else dense.to_dense()
        frozen = FrozenLinear.replacing(plain, seed=seed, name=name)
    else:
        assert isinstance(dense, nn.Conv2d | FrozenConv2d)
        conv = dense if isinstance(dense, nn.Conv2d) else dense.to_dense()
        frozen = FrozenConv2d.replacing(conv, seed=seed, name=name)
    model.set_submodule(layer_name, frozen)


def trainable_tensors(model: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what travels: every parameter and buffer but the frozen weights."""
    skipped = {f"{name.rpartition('.')[0]}." for name in names}
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.endswith(".bias") or not any(name.startswith(prefix) for prefix in skipped)
    }


def init(task: Task) -> State:
    """Draw y from the run's seed, and let z be what the seed stands for."""
    model = task.new_model()
    schema = Schema.of(model)
    names = frozen_names(model, task.options["frozen"])
    model = freeze(model, names, task.seed)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trainable = {k: v.clone() for k, v in trainable_tensors(model, names).items()}
    server_lr = float(task.options["server_lr"])
    return State(trainable, names, task.seed, parameters, server_lr, Wire(schema, {}))


def setup(state: State) -> bytes | None:
    """Send nothing before the first round: the seed comes with each broadcast."""
    return None


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the dense model; the first broadcast says what is frozen, and from which seed."""
    model = task.new_model()
    return Client(model, Wire(Schema.of(model), {}), task.options)


def broadcast(state: State, round: int) -> Update:
    """Send ``(y_t, seed)``."""
    seeds = {name: Regenerated(state.seed) for name in state.frozen}
    return Update({**dense_entries(state.trainable), **seeds}, round=round)


def receive(client: Client, update: Update) -> None:
    """Load y, and regenerate the layers whose seed is new."""
    for name, entry in update.items():
        if isinstance(entry, Regenerated):
            layer = client.model.get_submodule(name.rpartition(".")[0])
            if getattr(layer, "seed", None) != entry.seed:
                freeze(client.model, (name,), entry.seed)
    load_tensors(client.model, dense_tensors(update))


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open SGD on y alone."""
    return sgd(client.model, client.options, round)


def report(client: Client, received: Update, round: int) -> Update:
    """Send ``D_k = y_k - y_t``."""
    before = dense_tensors(received)
    held = client.model.state_dict()
    change = {name: Dense(held[name].detach() - before[name]) for name in before}
    return Update(change, round=round)


def aggregate(state: State, updates: list[tuple[float, Update]]) -> State:
    """Take the server's step, ``y_{t+1} = y_t + server_lr * sum_k p_k D_k``."""
    changes = ((weight, dense_tensors(update)) for weight, update in updates)
    return replace(state, trainable=add_mean_change(state.trainable, changes, rate=state.server_lr))


def global_model(task: Task, state: State) -> nn.Module:
    """Return the global model, z included, in plain torch."""
    model = freeze(task.new_model(), state.frozen, state.seed)
    load_tensors(model, state.trainable)
    return densify(model)


def claimed_uplink_bytes(state: State) -> int:
    """Return 4 bytes a trained parameter."""
    return 4 * state.parameters


def claimed_flops(state: State, forward: Mapping[str, int]) -> int:
    """Return ``3 F - F_frozen``: a frozen layer has no weight gradient.

    The paper claims less time without a formula; this is the count of what it leaves out.
    """
    return PASSES_PER_STEP * sum(forward.values()) - sum(forward[name] for name in state.frozen)


METHOD = Method(
    name="fedpt",
    defaults=DEFAULTS,
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
)
