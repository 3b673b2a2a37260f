"""ADP: per-sample channel gates in every convolution, over FedAvg, FedProx or SCAFFOLD.

Yu, Nguyen, Anwar, Jannesari, "Adaptive dynamic pruning for non-IID federated learning", 2021,
arXiv 2106.06921, and its authors' code of 2021.

    gates     g = relu(Wg p + bg), p the channels' means; each sample keeps    -> sparsefl.nn.gate
              the round(C r) largest; y = relu(g * BN(conv(x)))
    rounds    those of the algorithm, of the whole model, gates included       -> its own file

Options, beside FedAvg's but for privacy (batch norm's statistics travel):

    algorithm       "fedavg", "fedprox" or "scaffold"
    mu, clients     FedProx's and SCAFFOLD's
    stats           "active": batch statistics of the (sample, channel) pairs with an open gate;
                    "all": of all pairs, as in the authors' code
    gate_sigmoid    "yes", "no" or "auto": whether gates see the sigmoid of the means; auto is the
                    authors': in plain chains (their VGG), not in residual networks
    row_uplink      "on" is OUR extension, not the paper's: see below

The task's density is r, the share of output channels that a sample keeps; the paper's is 0.7. The
first convolution, convolutions of shortcuts and the classifier have no gates, and neither has a
convolution without batch norm of its own.

Departures: what a gate closes is not computed; the authors multiply a dense convolution's result.
``stats="active"`` is ours: with the authors' "all" every output channel must be computed.

With ``row_uplink="on"`` a client sends, of the weights of gated convolutions and of their gates,
the change of those rows (output channels) alone that its training moved, with their bitmap: without
weight decay those whose gate was open in some local sample. The server takes the mean over all
clients with no change in the rows that a client left out: what the mean of whole weights gives, up
to the rounding of a difference. SCAFFOLD's control variates move every row: it saves nothing there.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.codec import Sparse, Update
from sparsefl.fl.aggregation import dense_tensors
from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.methods import fedavg, fedprox, scaffold
from sparsefl.fl.options import check_at_least
from sparsefl.fl.pool import Mean
from sparsefl.nn import densify, gate, gate_report
from sparsefl.support import Support

ALGORITHMS: Mapping[str, Method] = {
    method.name: method for method in (fedavg.METHOD, fedprox.METHOD, scaffold.METHOD)
}
# The learning rate is FedAvg's for each algorithm.
DEFAULTS: Mapping[str, Any] = {
    **fedavg.BASE_DEFAULTS,
    "mu": fedprox.DEFAULTS["mu"],
    "clients": scaffold.DEFAULTS["clients"],
    "algorithm": "fedavg",
    "stats": "active",
    "gate_sigmoid": "auto",
    "row_uplink": "off",
}
_SIGMOID = {"auto": None, "yes": True, "no": False}
CHOICES = {
    **fedavg.CHOICES,
    "algorithm": tuple(ALGORITHMS),
    "stats": ("active", "all"),
    "gate_sigmoid": tuple(_SIGMOID),
    "row_uplink": ("off", "on"),
}


def _algorithm(options: Mapping[str, Any]) -> Method:
    return ALGORITHMS[options["algorithm"]]


def check(options: Mapping[str, Any]) -> None:
    """Check the options of all algorithms.

    Raises:
        ValueError: if one is out of range.
    """
    scaffold.check(options)
    check_at_least(options, {"mu": 0})


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        inner: The algorithm's, of the gated model.
        options: The method's options.
        density: Share of channels that a sample keeps.
        gated: Names of the dense model's weights that have gates.
        rows: Names of the tensors of which rows travel, where that is asked for.
    """

    inner: fedavg.State
    options: Mapping[str, Any]
    density: float
    gated: tuple[str, ...]
    rows: tuple[str, ...]


def gated_task(task: Task) -> Task:
    """Return the same task of the model with gates, which the run's seed draws, too."""
    return replace(task, factory=functools.partial(_gated_model, task))


def _gated_model(task: Task) -> nn.Module:
    sigmoid = _SIGMOID[task.options["gate_sigmoid"]]
    return gate(task.factory(), task.density, task.options["stats"], gate_sigmoid=sigmoid)


def row_names(model: nn.Module) -> tuple[str, ...]:
    """Return the weights with a row an output channel: of gated convolutions and of their gates."""
    layers = gate_report(model).gated
    return tuple(f"{name}.{part}.weight" for name in layers for part in ("conv", "gate"))


def init(task: Task) -> State:
    """Draw the first global model, and its gates, from the run's seed.

    Raises:
        ValueError: if the model has nothing to gate; the message says what it found.
    """
    inside = gated_task(task)
    model = inside.new_model()
    rows = row_names(model) if task.options["row_uplink"] == "on" else ()
    gated = tuple(f"{name}.weight" for name in gate_report(model).gated)
    inner = _algorithm(task.options).init(inside)
    return State(inner, task.options, task.density, gated, rows)


def new_client(task: Task, setup_message: bytes | None) -> Client:
    """Build the gated model; its tensors come with the broadcast."""
    client: Client = _algorithm(task.options).new_client(gated_task(task), setup_message)
    return client


def broadcast(state: State, round: int) -> Update:
    """Send what the algorithm sends: the gates are part of the model."""
    return _algorithm(state.options).broadcast(state.inner, round)


def receive(client: Client, update: Update) -> None:
    """Load it.

    Raises:
        ValueError: if it does not fit the client's model, which is untouched.
    """
    _algorithm(client.options).receive(client, update)


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open the algorithm's optimizer; gates train by the ordinary loss."""
    return _algorithm(client.options).optimizer(client, round)


def report(client: Client, received: Update, round: int) -> Update:
    """Send what the algorithm sends, or of some tensors the rows that moved."""
    update = _algorithm(client.options).report(client, received, round)
    if client.options["row_uplink"] == "off":
        return update
    names, before = row_names(client.model), dense_tensors(received)
    after = dense_tensors(update)
    moved = {name: moved_rows(after[name] - before[name]) for name in names}
    return Update({**update, **moved}, round=round)


def moved_rows(change: Tensor) -> Sparse:
    """Return the rows of a change ``[out, ...]`` that are not all zeros."""
    rows = change.flatten(1).ne(0).any(1)
    mask = rows.reshape(-1, *[1] * (change.dim() - 1)).expand(change.shape)
    return Sparse(Support.from_mask(mask.contiguous()), change[rows].reshape(-1))


def aggregate(state: State, mean: Mean) -> State:
    """Aggregate as the algorithm does; of rows that travel as changes, the mean is of the sums."""
    tensors = {name: state.inner.tensors[name].double() + mean.tensors[name] for name in state.rows}
    whole = replace(mean, tensors={**mean.tensors, **tensors})
    return replace(state, inner=_algorithm(state.options).aggregate(state.inner, whole))


def remember(client: Client) -> Any:
    """Keep what a client of the algorithm keeps, if anything."""
    kept = _algorithm(client.options).remember
    return None if kept is None else kept(client)


def recall(client: Client, memory: Any) -> None:
    """Put it back."""
    put_back = _algorithm(client.options).recall
    if put_back is not None:
        put_back(client, memory)


def global_model(task: Task, state: State) -> nn.Module:
    """Return the global model in plain torch, its gates :class:`sparsefl.nn.PlainGatedConvBN2d`."""
    model = _algorithm(state.options).global_model(gated_task(task), state.inner)
    return densify(model)


def server_wire(state: State) -> Wire:
    """Return how messages are encoded."""
    return state.inner.wire


def claimed_uplink_bytes(state: State) -> int:
    """Return the algorithm's bytes of the whole model, gates included, as the authors send it."""
    return _algorithm(state.options).claimed_uplink_bytes(state.inner)


def claimed_flops(state: State, forward: Mapping[str, int]) -> int:
    """Return ``3 F`` with ``r^2`` of the gated convolutions' (statistics of all pairs: ``r``).

    Output and input channels shrink to r each; with statistics of all pairs, the latter alone. At
    r = 0.7, ``r^2`` is the abstract's half of the FLOPs. The gates' own are left out.
    """
    share = state.density ** (2 if state.options["stats"] == "active" else 1)
    gated = sum(forward[name] for name in state.gated)
    return round(PASSES_PER_STEP * (sum(forward.values()) - (1 - share) * gated))


METHOD: Method = replace(
    fedavg.METHOD,
    name="adp",
    defaults=DEFAULTS,
    choices=CHOICES,
    check=check,
    check_model=lambda task: gated_task(task).new_model(),
    init=init,
    server_wire=server_wire,
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    optimizer=optimizer,
    report=report,
    aggregate=aggregate,
    remember=remember,
    recall=recall,
    global_model=global_model,
    claimed_uplink_bytes=claimed_uplink_bytes,
    claimed_flops=claimed_flops,
    prunes=True,
)
