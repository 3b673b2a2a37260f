"""LotteryFL: every client prunes to a {0, 1} mask of its own, a lottery ticket, and trains that.

Li, Sun, Wang, Duan, Li, Chen, Li, "LotteryFL: personalized and communication-efficient federated
learning with lottery ticket hypothesis on non-IID datasets", 2020, arXiv 2008.03371. Its abstract
was read for this file, and the authors' code (github.com/charleslipku/LotteryFL); not its text.
With w the server's weights, w_0 those at the start, m_k the mask of client k, all ones at first:

    down      w * m_k, to each client what its own mask keeps             -> Method.own_supports
    client    where w * m_k is right in more than ``threshold`` of its    -> adapt
              own examples, and m_k keeps more than the density: prune
              ``prune_share`` of what each layer keeps, the smallest
              |w|, and go back to w_0 * m_k;
              then SGD on the kept weights                                -> optimizer
    up        the kept weights; the mask, where it has changed            -> report
    server    each weight: the mean over the clients of the round that    -> expand, aggregate
              keep it; as it was where none does
    personal  w * m_k                                                     -> personal_model

Masks travel as changes of those that the server knows, so that one that stays is free. Kept weights
are float32 both ways.

Options:

    lr, momentum, ...    the clients' SGD; rates as in sparsefl.fl.learning_rate
    threshold            0.5, of the code's command for MNIST (0.1 for CIFAR-10)
    prune_share          0.2, of the same commands

Departures: a client judges by development data, by its training data where it owns none (the code:
by test data). The last step prunes less, so that a layer ends at ``density`` exactly, and keeps at
least one weight. Means weigh a client by its examples as FedAvg does (the code: all alike). Masked
are the linear and convolution layers that can be sparse, biases and norms are not (the code masks
the scales of norms, too). Clients compute with sparse layers (the code: with dense ones), and
have a state, which only cross-silo clients keep.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl.codec import Dense, Schema, Sparse, Update
from sparsefl.fl import learning_rate as rates
from sparsefl.fl.aggregation import cast_like, dense_entries, load_tensors
from sparsefl.fl.method import Method, Task, Wire
from sparsefl.fl.methods import fedavg
from sparsefl.fl.methods._latents import untied
from sparsefl.fl.methods._lotteryfl_client import (
    COUNT,
    KEPT,
    adapt,
    new_client,
    receive,
    remember,
    report,
    whole_of,
    wire_of,
)
from sparsefl.fl.options import check_positive
from sparsefl.fl.pool import Mean
from sparsefl.support import Support

DEFAULTS: Mapping[str, Any] = {
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    **rates.DEFAULTS,
    "threshold": 0.5,
    "prune_share": 0.2,
}


def check(options: Mapping[str, Any]) -> None:
    """Check all options.

    Raises:
        ValueError: if one is out of range.
    """
    fedavg.check_client(options)
    check_positive(options, "prune_share")
    if options["prune_share"] >= 1:
        raise ValueError(f"prune_share must be below 1, got {options['prune_share']}")
    if not 0 <= options["threshold"] <= 1:
        raise ValueError(f"threshold must be within [0, 1], got {options['threshold']}")


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        tensors: Parameters and buffers, by name.
        whole: The supports that keep everything, of the weights that masks are of.
        unmasked: Number of all other parameters.
        kept: Weights that were kept in all updates so far.
        received: Number of these updates.
        wire: How messages are encoded.
    """

    tensors: Mapping[str, Tensor]
    whole: Mapping[str, Support]
    unmasked: int
    kept: int
    received: int
    wire: Wire


def init(task: Task) -> State:
    """Draw the first weights from the run's seed.

    Raises:
        ValueError: The model has no layer to mask, or layers that share a parameter.
    """
    model = untied(task.new_model(), "lotteryfl")
    whole = whole_of(model)
    return State(
        tensors={name: value.clone() for name, value in model.state_dict().items()},
        whole=whole,
        unmasked=sum(p.numel() for name, p in model.named_parameters() if name not in whole),
        kept=0,
        received=0,
        wire=wire_of(model, {}),
    )


def own_supports(state: State, memory: Mapping[str, Support] | None) -> Mapping[str, Support]:
    """Return a client's mask; that of a newcomer keeps everything."""
    return state.whole if memory is None else memory


def broadcast(state: State, round: int) -> Update:
    """Send all weights, of which each client gets what it keeps, and everything else."""
    weights = {
        name: Sparse(support, state.tensors[name].flatten())
        for name, support in state.whole.items()
    }
    others = {name: value for name, value in state.tensors.items() if name not in weights}
    return Update({**weights, **dense_entries(others)}, round=round)


def expand(schema: Schema, update: Update) -> Update:
    """Add ones where a client keeps a weight: their mean is the share of the clients that do.

    And how many there are, which each client counts alike in.

    Raises:
        ValueError: if a weight came without its mask.
    """
    entries, count = dict(update), 0
    for key in (key for key in schema if key.startswith(KEPT)):
        name = key.removeprefix(KEPT)
        entry = update.get(name)
        if not isinstance(entry, Sparse):
            raise ValueError(f"the update lacks kept weights of {name}")
        entries[key] = Sparse(entry.support, np.ones(entry.support.nnz, np.float32))
        count += entry.support.nnz
    return Update({**entries, COUNT: Dense(np.array([count]))}, round=update.round)


def aggregate(state: State, mean: Mean) -> State:
    """Average each weight over the clients that keep it."""
    moved = {**mean.tensors}
    for name in state.whole:
        share = mean.tensors[f"{KEPT}{name}"]
        before = state.tensors[name].double()
        moved[name] = torch.where(share > 0, mean.tensors[name] / share, before)
    kept = sum(int(entry.values[0]) for entry in mean.gathered[COUNT] if isinstance(entry, Dense))
    return replace(
        state,
        tensors=cast_like(state.tensors, moved),
        kept=state.kept + kept,
        received=state.received + mean.clients,
    )


def personal_model(
    task: Task, state: State, memory: Mapping[str, Support] | None
) -> nn.Module | None:
    """Return what a client's mask keeps of the global model, in plain torch."""
    supports = own_supports(state, memory)
    masked = {name: state.tensors[name] * supports[name].to_mask() for name in supports}
    model = task.new_model()
    load_tensors(model, {**state.tensors, **masked})
    return model


def claimed_uplink_bytes(state: State) -> int:
    """Return 4 bytes a kept weight, as many as were kept on average, and a parameter without mask.

    As the authors' code counts: masks are free.
    """
    whole = sum(support.nnz for support in state.whole.values())
    kept = state.kept / state.received if state.received else whole
    return math.ceil(4 * kept) + 4 * state.unmasked


METHOD = Method(
    name="lotteryfl",
    defaults=DEFAULTS,
    choices=rates.CHOICES,
    check=check,
    init=init,
    setup=fedavg.setup,
    server_wire=lambda state: state.wire,
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    optimizer=fedavg.optimizer,
    report=report,
    aggregate=aggregate,
    global_model=fedavg.global_model,
    claimed_uplink_bytes=claimed_uplink_bytes,
    claimed_flops=fedavg.claimed_flops,
    prunes=True,
    remember=remember,
    adapt=adapt,
    own_supports=own_supports,
    personal_model=personal_model,
    expand=expand,
)
