"""What a federated method is: a few functions over its own frozen state, and the messages it sends.

In the spirit of FedJAX's ``FederatedAlgorithm(init, apply)`` (Ro et al., arXiv 2108.02117): a
method is one file of small functions. They speak in :class:`sparsefl.codec.Update`; only the engine
turns updates into bytes and back, and counts them.
"""

import importlib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsefl.codec import Entry, Schema, Update
from sparsefl.codec.plan import ValueFormat
from sparsefl.fl.batches import Dataset
from sparsefl.fl.device import HOST
from sparsefl.fl.learning_rate import with_horizon
from sparsefl.fl.options import plain
from sparsefl.fl.pool import Mean
from sparsefl.fl.training import seeded_model
from sparsefl.names import METHODS
from sparsefl.support import Support

if TYPE_CHECKING:
    from sparsefl.fl.exchange import Exchange

# Rounds of a run that is given no number of them.
ROUNDS = 10
# What an option must be, by the type of its default.
_KINDS: Mapping[type, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
}


@dataclass(frozen=True)
class Task:
    """What server and clients agree on before the first message.

    Attributes:
        factory: Builds the dense model; called without arguments.
        example_input: One sample, ``[1, ...]``; only its shape and dtype matter.
        seed: Seed of the run.
        density: Share of weights kept, for methods that prune.
        options: The method's options, its defaults included.
        public: The server's own labelled examples, none of a client's, development or test data;
            ``None`` where it has none.
        clients: Clients of the federation that own training data; filled in by it.
        capability: Share of the weights that this client can train, in (0, 1], where clients differ
            in it; the server has the largest. ``None`` where they do not.
        levels: The capabilities that there are, the strongest first; none where they do not differ.
        device: Where clients compute; the server's state and the messages stay on the CPU.
        rounds: Rounds planned. A schedule of the learning rate that ends with the run and is given
            no end takes it from here; more may be played.
    """

    factory: Callable[[], nn.Module]
    example_input: Tensor
    seed: int
    density: float
    options: Mapping[str, Any]
    rounds: int = ROUNDS
    public: Dataset | None = None
    clients: int = 0
    capability: float | None = None
    levels: tuple[float, ...] = ()
    device: torch.device = HOST

    def __post_init__(self) -> None:
        """Fill in what the options leave to the task."""
        object.__setattr__(self, "options", with_horizon(self.options, self.rounds))

    def new_model(self) -> nn.Module:
        """Build the dense model, initialised from the run's seed."""
        return seeded_model(self.factory, self.seed)


@dataclass(frozen=True)
class Wire:
    """How a method's messages are encoded; server and clients hold equal ones.

    Attributes:
        schema: Dense names, shapes and dtypes of the model.
        supports: Supports that the set-up has made known; they never travel again.
        downlink_format: Value format of the server's messages.
        uplink_format: Value format of the clients' messages.
        gathered: Names of tensors that are not averaged: the server gets what each client sent.
        untrained: Names of tensors that broadcasts have values of and replies leave out.
        expands: Whether replies go through the method's ``expand``, where it has one.
        unbiased: Whether clients round at random, so that the mean of what arrives is the value,
            from a stream of each client and round; else to nearest.
    """

    schema: Schema
    supports: Mapping[str, Support]
    downlink_format: ValueFormat = "fp32"
    uplink_format: ValueFormat = "fp32"
    gathered: frozenset[str] = frozenset()
    untrained: frozenset[str] = frozenset()
    expands: bool = True
    unbiased: bool = False


@dataclass(frozen=True)
class Client:
    """A client's side: the model that it trains, and how it reads and writes messages.

    Attributes:
        model: Trained in place; sparse, sign or frozen layers where the method has them.
        wire: How its messages are encoded.
        options: The method's options.
        held: What it holds of the last broadcast that it got, where its method sends the next one
            as changes of it; none of a newcomer's.
    """

    model: nn.Module
    wire: Wire
    options: Mapping[str, Any]
    held: Mapping[str, Entry] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class Method:
    """A federated method.

    Attributes:
        name: Name in the command line and in every report.
        defaults: Its options and their defaults.
        init: ``(task) -> state``: the server's state before the first round.
        setup: ``(state) -> bytes | None``: the message that each client gets once, if any.
        server_wire: ``(state) -> Wire``.
        new_client: ``(task, set-up message) -> Client``: built from what was sent, and the task.
        broadcast: ``(state, round) -> Update``: what the cohort gets.
        receive: ``(client, update)``: put a broadcast into the client's model.
        optimizer: ``(client, round) -> Optimizer`` of one round of local training.
        report: ``(client, broadcast, round) -> Update``: what a client sends after training.
        aggregate: ``(state, mean) -> state``, of what the clients sent on average.
        global_model: ``(task, state) -> nn.Module`` in plain torch.
        claimed_uplink_bytes: ``(state) -> bytes`` of one client's message by the paper's formula.
        claimed_flops: ``(state, forward FLOPs by weight) -> FLOPs`` of one local step by it.
        prunes: Whether the density has a meaning for it.
        choices: The values that options of text may take, where they are few.
        check: ``(options)``: raises ValueError where one is out of range, before anything is done.
        check_model: ``(task)``: raises ValueError where it cannot train such a model, before
            anything is done; for methods that need more of it than layers with weights.
        remember: ``(client) -> memory``: what a client keeps for itself after its round, for
            methods whose clients have a state; tensors, numbers and mappings of them.
        recall: ``(client, memory | None)``: put it back, after the broadcast was received.
        adapt: ``(client, accuracy)``: what follows it and precedes the training of a round;
            ``accuracy()`` judges the client's model on its own development data, on its training
            data where it owns none.
        own_supports: ``(state, memory | None) -> supports`` of one client, by what it remembers,
            for methods whose clients choose their own: the server knows them from the client's last
            reply. Of a tensor that is broadcast on a support a client is sent what its own keeps.
        personal_model: ``(task, state, memory | None) -> nn.Module | None``: a client's own model
            in plain torch, for methods whose clients have one; ``None`` where the options say so.
        prepare: ``(task, state, exchange) -> state``: what follows ``init`` and needs the clients,
            before the set-up message is made; see :class:`sparsefl.fl.exchange.Exchange`.
        last_step: ``(client) -> context``, entered around forward and backward pass of a client's
            last local step of a round.
        version: ``(state) -> int``: what a broadcast leaves clients with, as a number that grows
            with every change of it, for methods whose clients are sent changes of what they hold,
            by the version that they were last served; 0 is a newcomer's.
        supports_of: ``(state, version) -> supports`` of any version up to now, for methods whose
            supports change; they then travel in the broadcasts, as their changes. The supports of
            ``server_wire`` are the newest, the set-up message tells those of version 0.
        changes: ``(state, broadcast, version) -> update``: what a client gets of a broadcast that
            was last served at a version, for methods that send changes of values.
        held: ``(state, version) -> entries``: what such a client holds. Goes with it.
        whole: ``(wire, held, update) -> update``: the broadcast, from what a client holds and what
            it was sent, on both sides; raises ValueError if they do not fit. Goes with both.
        expand: ``(schema, update) -> update``: what of a client's decoded message the server adds
            up, where that is not the message itself and the wire does not say ``expands=False``.
        trains_on_public: Whether it trains on ``Task.public``, where there is any.
        view: ``(state, capability) -> state``: the state as weaker clients know it, with a set-up,
            a wire and a broadcast of their own, for methods that allow clients to differ. Their
            supports are parts of the stronger ones'.
        still: ``(state) -> tensors``: what a mean is where no client owns a position, so that
            nothing moves there; of every tensor that clients send. Goes with it.
    """

    name: str
    defaults: Mapping[str, Any]
    init: Callable[[Task], Any]
    setup: Callable[[Any], bytes | None]
    server_wire: Callable[[Any], Wire]
    new_client: Callable[[Task, bytes | None], Client]
    broadcast: Callable[[Any, int], Update]
    receive: Callable[[Client, Update], None]
    optimizer: Callable[[Client, int], torch.optim.Optimizer]
    report: Callable[[Client, Update, int], Update]
    aggregate: Callable[[Any, Mean], Any]
    global_model: Callable[[Task, Any], nn.Module]
    claimed_uplink_bytes: Callable[[Any], int]
    claimed_flops: Callable[[Any, Mapping[str, int]], int]
    prunes: bool = False
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], None] | None = None
    check_model: Callable[[Task], object] | None = None
    remember: Callable[[Client], Any] | None = None
    recall: Callable[[Client, Any], None] | None = None
    adapt: Callable[[Client, Callable[[], float]], None] | None = None
    own_supports: Callable[[Any, Any], Mapping[str, Support]] | None = None
    personal_model: Callable[[Task, Any, Any], nn.Module | None] | None = None
    prepare: Callable[[Task, Any, "Exchange"], Any] | None = None
    last_step: Callable[[Client], AbstractContextManager[object]] | None = None
    version: Callable[[Any], int] | None = None
    supports_of: Callable[[Any, int], Mapping[str, Support]] | None = None
    changes: Callable[[Any, Update, int], Update] | None = None
    held: Callable[[Any, int], Mapping[str, Entry]] | None = None
    whole: Callable[[Wire, Mapping[str, Entry], Update], Update] | None = None
    expand: Callable[[Schema, Update], Update] | None = None
    trains_on_public: bool = False
    view: Callable[[Any, float], Any] | None = None
    still: Callable[[Any], Mapping[str, Tensor]] | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError: if one of the functions that go together is missing."""
        for group in (("view", "still"), ("changes", "held", "whole")):
            if len({getattr(self, name) is None for name in group}) > 1:
                raise ValueError(f"{self.name} must have all of {', '.join(group)}, or none")
        versioned = self.supports_of is not None or self.changes is not None
        if versioned != (self.version is not None):
            raise ValueError(
                f"{self.name} must have a version with supports_of or changes, and only with them"
            )

    def held_supports(self, state: Any, version: int) -> Mapping[str, Support]:
        """Return the supports that a client holds which was last served at a version."""
        if self.own_supports is not None:
            return self.own_supports(state, None)
        if self.supports_of is None:
            return self.server_wire(state).supports
        return self.supports_of(state, version)

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill the options up with their defaults; numbers become Python's own.

        Raises:
            TypeError: if an option that is a number or text by default is given as something else.
            ValueError: if an option is not one of the method's, none of its choices, or out of
                range.
        """
        unknown = sorted(set(given) - set(self.defaults))
        if unknown:
            known = ", ".join(sorted(self.defaults))
            raise ValueError(f"{self.name} has no option {', '.join(unknown)}; it has: {known}")
        for key, value in given.items():
            self._check_option(key, value)
        options = {**self.defaults, **{key: plain(value) for key, value in given.items()}}
        if self.check is not None:
            self.check(options)
        return options

    def _check_option(self, key: str, value: Any) -> None:
        kind = type(self.defaults[key])
        needed, text = _KINDS.get(kind, (object, ""))
        if not isinstance(value, needed) or (kind in (int, float) and isinstance(value, bool)):
            raise TypeError(f"{key} must be {text}, got {value!r}")
        if isinstance(value, numbers.Real) and not math.isfinite(value):
            raise ValueError(f"{key} must be finite, got {value!r}")
        if key in self.choices and value not in self.choices[key]:
            known = ", ".join(self.choices[key])
            raise ValueError(f"{key} must be one of {known}, got {value!r}")

    def parse_options(self, given: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Parse ``(key, text)`` pairs by the types of the defaults.

        Raises:
            ValueError: if there is no such option, or the text is no number where one is needed, or
                none of the choices.
        """
        options: dict[str, Any] = {}
        for key, text in given:
            kind = type(self.defaults.get(key))
            try:
                options[key] = kind(text) if kind in (int, float) else text
            except ValueError:
                raise ValueError(f"{key} must be a number, got {text!r}") from None
        self.with_defaults(options)
        return options


def load_method(name: str) -> Method:
    """Load a method by name: each is one module of ``sparsefl.fl.methods``.

    Raises:
        ValueError: if there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    method: Method = importlib.import_module(f"sparsefl.fl.methods.{name}").METHOD
    return method
