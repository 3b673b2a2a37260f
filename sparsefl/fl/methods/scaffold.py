"""SCAFFOLD: control variates take the clients' drift out of their steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: stochastic controlled averaging for
federated learning", ICML 2020, arXiv 1910.06378. With the server's model x and control variate c,
a client's c_i, K local steps of rate eta_l, S of N clients in the round:

    algorithm 1, down     (x, c)                                       -> broadcast, receive
    client                y <- y - eta_l (g_i(y) - c_i + c), from x    -> optimizer
    client, option II     c_i+ = c_i - c + (x - y) / (K eta_l)         -> report
    up                    y, c_i+ - c_i; the client keeps c_i+         -> report, remember, recall
    server                x <- x + eta_g sum_i p_i (y_i - x)           -> fedavg.aggregate
                          c <- c + |S| / N sum_i p_i (c_i+ - c_i)      -> aggregate

Messages are twice FedAvg's both ways. Clients have a state, which only cross-silo clients keep.

Options, beside FedAvg's (``lr`` is eta_l, ``server_lr`` eta_g):

    clients    N; at 0 it is the number of clients that have taken part so far

Departures: p_i are shares of the cohort's examples as in FedAvg, the paper's 1/|S| where clients
own equally many: where all take part, ``c = sum_i p_i c_i``. Where N is left to be
counted, clients say when they take part for the first time: c is the mean over those that the
server knows, and a newcomer's c_i is c, so that its first steps are plain SGD. With N given they
are the paper's: c over all N, and 0. If all take part in all rounds, both are the same.
With momentum, not in the paper, K is the sum of the weights that the K gradients have in x - y:
``sum_j (1 - momentum^j) / (1 - momentum)``, j = 1..K. c_i are of parameters; buffers are averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.codec import Schema, Update
from sparsefl.fl.aggregation import add_change, dense_entries, dense_tensors, load_tensors
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.methods import fedavg
from sparsefl.fl.options import check_at_least
from sparsefl.fl.pool import Mean

# On the development set (Fashion-MNIST, cnn, 10 clients of Dirichlet 0.5, 12 steps of batch 16, 15
# rounds, one seed, mean of the last four): lr .05 ends at .768, .1 at .788, .2 diverges; FedAvg at
# .791; after 30 rounds lr .1 at .837, FedAvg at .860. With 10 of 100 clients a round, lr .05: .745
# with N given, .752 with N counted.
DEFAULTS: Mapping[str, Any] = {**fedavg.BASE_DEFAULTS, "lr": 0.1, "momentum": 0.0, "clients": 0}

# Names in the messages; no module of a model is called so.
_CONTROL, _NEWCOMER = "scaffold:control/", "scaffold:newcomer"


def check(options: Mapping[str, Any]) -> None:
    """Check all options.

    Raises:
        ValueError: if one is out of range.
    """
    fedavg.check_base(options)
    check_at_least(options, {"clients": 0})
    if options["momentum"] >= 1:
        raise ValueError(f"momentum must be below 1, got {options['momentum']}")


@dataclass(frozen=True)
class State(fedavg.State):
    """The server's state.

    Attributes:
        controls: ``N c``, the sum of all clients' control variates, by parameter, float64.
        met: Clients that have taken part so far, each counted as ``|S| p_i`` of its first round.
        clients: N as it was given, 0 if it was not.
    """

    controls: Mapping[str, Tensor]
    met: float
    clients: int

    @property
    def mean_controls(self) -> dict[str, Tensor]:
        """The server's control variate c."""
        known = self.clients or self.met or 1
        return {n: (c / known).to(self.tensors[n].dtype) for n, c in self.controls.items()}


@dataclass(frozen=True)
class Silo(Client):
    """A client between its messages.

    Attributes:
        controls: The server's c as it was received.
        own: c_i, by parameter.
        work: "newcomer", and "steps" made and their "rate" since the broadcast.
    """

    controls: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)


def wire_of(model: nn.Module) -> Wire:
    """Return how messages travel: the model, and a control variate for each trained parameter."""
    dense = Schema.of(model)
    controls = {f"{_CONTROL}{name}": dense[name] for name in fedavg.trained_names(model)}
    schema = Schema({**dense, **controls, _NEWCOMER: ((1,), "float32")})
    return Wire(schema, {}, expands=False)


def init(task: Task) -> State:
    """Draw the first global model from the run's seed; control variates are 0."""
    begun = fedavg.init(task)
    zeros = {n: torch.zeros_like(begun.tensors[n], dtype=torch.float64) for n in begun.trained}
    wire, clients = wire_of(task.new_model()), int(task.options["clients"])
    return State(**{**vars(begun), "wire": wire}, controls=zeros, met=0.0, clients=clients)


def new_client(task: Task, setup_message: bytes | None) -> Silo:
    """Build the dense model; weights and control variates come with the broadcast."""
    model = task.new_model()
    silo = Silo(model, wire_of(model), task.options)
    fedavg.computing_in(silo, task.options["autocast"])
    return silo


def _control_entries(controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{_CONTROL}{name}": value for name, value in controls.items()}


def broadcast(state: State, round: int) -> Update:
    """Send ``(x, c)``."""
    sent = {**state.tensors, **_control_entries(state.mean_controls)}
    return Update(dense_entries(sent), round=round)


def _silo(client: Client) -> Silo:
    assert isinstance(client, Silo)
    return client


def receive(client: Client, update: Update) -> None:
    """Load ``(x, c)``; the client is a newcomer until its memory is recalled.

    Raises:
        ValueError: if they do not fit the client's model, which is untouched.
    """
    silo, tensors = _silo(client), dense_tensors(update)
    names = fedavg.trained_names(silo.model)
    held = silo.model.state_dict()
    for name in names:
        sent = tensors.get(f"{_CONTROL}{name}")
        if sent is None or sent.shape != held[name].shape:
            raise ValueError(f"received no control variate that fits {name}")
    load_tensors(silo.model, {n: t for n, t in tensors.items() if n in held}, needed=held)
    silo.controls.update({name: tensors[f"{_CONTROL}{name}"] for name in names})
    recall(silo, None)


def recall(client: Client, memory: Mapping[str, Tensor] | None) -> None:
    """Put the client's c_i back; a newcomer has none."""
    silo = _silo(client)
    counted = silo.options["clients"] == 0
    if memory is not None:
        silo.own.update(memory)
    elif counted:
        silo.own.update(silo.controls)
    else:
        silo.own.update({name: torch.zeros_like(c) for name, c in silo.controls.items()})
    silo.work.update(newcomer=float(memory is None), steps=0.0, rate=0.0)


def remember(client: Client) -> dict[str, Tensor]:
    """Keep c_i+, which the report has put in the place of c_i."""
    return dict(_silo(client).own)


def optimizer(client: Client, round: int) -> torch.optim.Optimizer:
    """Open SGD on ``g_i(y) - c_i + c``; its steps are counted."""
    silo, opened = _silo(client), fedavg.optimizer(client, round)
    silo.work.update(steps=0.0, rate=opened.param_groups[0]["lr"])
    trained = [(n, p) for n, p in silo.model.named_parameters() if p.requires_grad]
    corrections = [(p, (silo.controls[n] - silo.own[n]).to(p.device)) for n, p in trained]

    def correct(*_: Any) -> None:
        silo.work["steps"] += 1
        for parameter, correction in corrections:
            if parameter.grad is not None:
                parameter.grad.add_(correction)

    opened.register_step_pre_hook(correct)
    return opened


def effective_steps(steps: float, momentum: float) -> float:
    """Return the sum of the weights of K gradients in ``(x - y) / eta_l``; K without momentum."""
    return sum((1 - momentum**j) / (1 - momentum) for j in range(1, int(steps) + 1))


def report(client: Client, received: Update, round: int) -> Update:
    """Send y and the change of c_i by option II; a client that has not moved keeps its c_i."""
    silo = _silo(client)
    held, sent = silo.model.state_dict(), dense_tensors(received)
    length = silo.work["rate"] * effective_steps(silo.work["steps"], silo.options["momentum"])
    newcomer = silo.work["newcomer"]
    changes = {}
    for name, c in silo.controls.items():
        before = silo.own[name]
        silo.own[name] = before
        if length > 0:
            drift = (sent[name] - held[name].detach()).div_(length).sub_(c)
            silo.own[name] = drift.add_(before)
        # The server adds c_i+ - c_i to what it has of the client: nothing of a newcomer.
        changes[name] = silo.own[name] if newcomer else silo.own[name] - before
    flag = {_NEWCOMER: torch.tensor([newcomer])}
    return Update(dense_entries({**held, **_control_entries(changes), **flag}), round=round)


def aggregate(state: State, mean: Mean) -> State:
    """Step along the clients' mean change, and add their changes to the sum of the c_i."""
    stepped = fedavg.aggregate(state, mean)
    changes = {name: mean.tensors[f"{_CONTROL}{name}"] for name in state.controls}
    met = state.met + mean.clients * float(mean.tensors[_NEWCOMER])
    controls = add_change(state.controls, changes, rate=mean.clients)
    assert isinstance(stepped, State)
    return replace(stepped, controls=controls, met=met)


def claimed_uplink_bytes(state: State) -> int:
    """Return 8 bytes a parameter: twice FedAvg's, as the paper says."""
    return 2 * fedavg.claimed_uplink_bytes(state)


METHOD: Method = replace(
    fedavg.METHOD,
    name="scaffold",
    defaults=DEFAULTS,
    check=check,
    init=init,
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    optimizer=optimizer,
    report=report,
    aggregate=aggregate,
    claimed_uplink_bytes=claimed_uplink_bytes,
    remember=remember,
    recall=recall,
)
