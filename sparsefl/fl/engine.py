"""The embedded engine: server and clients in one process, messages as bytes between them.

What a client gets and what it sends is the encoded message and nothing else: the client decodes the
server's bytes into its model, the server decodes the client's bytes before it aggregates, and the
ledger counts the lengths. One resident model serves all clients in turn, and each message
overwrites everything that travels; what a client keeps between rounds is what its method remembers.
What a model holds outside its state_dict (attributes, buffers not persistent) is not reset.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.nn.functional import cross_entropy

from sparsefl import codec
from sparsefl.fl.batches import Dataset, stream
from sparsefl.fl.ledger import Ledger, Round
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.options import check_count
from sparsefl.fl.pool import Pool
from sparsefl.fl.sampling import RULES, Rule, draw_cohort
from sparsefl.fl.training import LocalWork, Loss, train
from sparsefl.random import generator

_logger = logging.getLogger(__name__)

# Everything of a federation that a round changes.
_KEPT = ("state", "ledger", "memories", "_seen", "_succeeded")


@dataclass(frozen=True)
class Schedule:
    """How much every client does.

    Attributes:
        clients_per_round: Cohort size; ``None`` is everyone.
        batch_size: Examples a step.
        local_epochs: Passes over the client's data in one round.
        local_steps: Most steps in one round, or ``None``.
        sampling: How a cohort is drawn: "uniform", or by "examples" (see
            :func:`sparsefl.fl.sampling.draw_cohort`).
    """

    clients_per_round: int | None = None
    batch_size: int = 32
    local_epochs: int = 1
    local_steps: int | None = None
    sampling: Rule = "uniform"

    def __post_init__(self) -> None:
        """Raises: ValueError: if there is no such sampling."""
        if self.sampling not in RULES:
            raise ValueError(f"sampling must be one of {', '.join(RULES)}, got {self.sampling!r}")

    def check(self) -> None:
        """Refuse counts that are none.

        Raises:
            TypeError: if one is no whole number.
            ValueError: if one is below 1.
        """
        for name in ("batch_size", "local_epochs"):
            check_count(name, getattr(self, name))
        for name in ("local_steps", "clients_per_round"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))


@dataclass
class Federation:
    """A run in progress.

    Attributes:
        method: The federated method.
        task: What both sides agreed on.
        datasets: Training data of each client.
        schedule: How much each does.
        ledger: What it has cost so far.
        state: The server's state.
        setup_message: What each client gets once, if anything.
        memories: What each client has kept for itself, for methods that remember.
        saved: A snapshot to go on from; ``None`` begins anew.
        loss: What clients minimise, of outputs and labels.
    """

    method: Method
    task: Task
    datasets: Sequence[Dataset]
    schedule: Schedule
    ledger: Ledger = field(default_factory=Ledger)
    state: Any = None
    setup_message: bytes | None = None
    memories: dict[int, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] | None = None
    loss: Loss = cross_entropy
    _resident: Client | None = None
    _seen: set[int] = field(default_factory=set)
    _succeeded: bool = False

    def __post_init__(self) -> None:
        """Initialise the server; its seconds are counted apart from the rounds.

        Raises:
            TypeError: if an option or a count of the schedule is of another type.
            ValueError: if one is out of range, or no client owns an example.
        """
        self.schedule.check()
        self.method.with_defaults(self.task.options)
        self._examples = [len(data) for data in self.datasets]
        if not any(self._examples):
            raise ValueError("clients must own training data, all datasets are empty")
        if empty := self._examples.count(0):
            _logger.info("%d clients own no training example and are never sampled", empty)
        if self.saved is not None:
            for name in _KEPT:
                setattr(self, name, self.saved[name])
            self.setup_message = self.method.setup(self.state)
            return
        started = time.perf_counter()
        self.state = self.method.init(self.task)
        self.setup_message = self.method.setup(self.state)
        self.ledger.setup_s += time.perf_counter() - started

    def snapshot(self) -> dict[str, Any]:
        """Return what another federation of the same task needs as ``saved`` to go on from here."""
        return {name: getattr(self, name) for name in _KEPT}

    @property
    def wire(self) -> Wire:
        """How the server encodes and decodes."""
        return self.method.server_wire(self.state)

    def cohort(self, round: int) -> dict[int, float]:
        """Draw the clients of a round, from a stream of its own, with their chances."""
        size = self.schedule.clients_per_round or len(self.datasets)
        draws = generator(self.task.seed, f"cohort of round {round}")
        return draw_cohort(self._examples, size, self.schedule.sampling, draws)

    def broadcast(self, round: int) -> bytes:
        """Encode what the server sends in a round."""
        return self._written(self.method.broadcast(self.state, round))

    def _written(self, broadcast: codec.Update) -> bytes:
        """Encode what the server sends."""
        wire = self.wire
        return codec.encode(
            broadcast, wire.schema, value_format=wire.downlink_format, base=wire.supports
        )

    def broadcast_bound_bytes(self, broadcast: codec.Update) -> int:
        """Return the information bound of what the server sends, bytes."""
        wire = self.wire
        return codec.bound_bytes(
            broadcast, wire.schema, value_format=wire.downlink_format, base=wire.supports
        )

    def new_client(self) -> Client:
        """Build a client from the bytes of the set-up message alone."""
        return self.method.new_client(self.task, self.setup_message)

    def receive(self, client: Client, message: bytes) -> codec.Update:
        """Decode a broadcast into a client's model.

        Raises:
            CodecError: if the message is refused; the model is untouched.
            ValueError: if it does not fit the model, which is untouched.
        """
        wire = client.wire
        update = codec.decode(message, wire.schema, base=wire.supports)
        self.method.receive(client, update)
        return update

    def play(self, round: int) -> Round:
        """Play one round: broadcast, local training, aggregation.

        A client that raises, or whose message is refused, loses its update and not the round.

        Args:
            round: Number of the round, from 1.

        Raises:
            RuntimeError: if no client has ever succeeded; the last failure is its cause.
        """
        entry = Round(round)
        started = time.perf_counter()
        sent = self.method.broadcast(self.state, round)
        message = self._written(sent)
        base = self._base(message)
        entry.encode_s += time.perf_counter() - started
        bound_bytes = self.broadcast_bound_bytes(sent)
        pool = self._pool(sent)
        losses: list[tuple[int, float]] = []
        failure: Exception | None = None
        for client, chance in self.cohort(round).items():
            entry.downlink_bytes += len(message)
            entry.downlink_bound_bytes += bound_bytes
            if client not in self._seen:
                self._seen.add(client)
                entry.setup_bytes += len(self.setup_message or b"")
            try:
                reply, work = self._client_round(client, message, entry)
                self._accept(reply, work.examples / chance, base, pool, entry)
                self._remember(client)
                losses.append((work.steps, work.loss))
            except Exception as error:  # whatever a client's data or model raises
                _logger.warning("round %d lost client %d: %s", round, client, error)
                entry.lost += 1
                failure = error
        self._aggregate(pool, entry, failure)
        if losses:
            entry.local_steps = sum(steps for steps, _ in losses)
            entry.loss = sum(steps * loss for steps, loss in losses) / entry.local_steps
        self.ledger.rounds.append(entry)
        return entry

    def _client_round(self, client: int, message: bytes, entry: Round) -> tuple[bytes, LocalWork]:
        """Receive, train and encode the reply on the client's side."""
        if self._resident is None:
            started = time.perf_counter()
            self._resident = self.new_client()
            self.ledger.setup_s += time.perf_counter() - started
        resident = self._resident
        started = time.perf_counter()
        received = self.receive(resident, message)
        if self.method.recall is not None:
            self.method.recall(resident, self.memories.get(client))
        entry.decode_s += time.perf_counter() - started
        work = train(
            resident.model,
            self.method.optimizer(resident, received.round),
            self.datasets[client],
            batch_size=self.schedule.batch_size,
            epochs=self.schedule.local_epochs,
            max_steps=self.schedule.local_steps,
            generator=stream(self.task.seed, received.round, client),
            loss=self.loss,
        )
        entry.train_s += work.train_s
        started = time.perf_counter()
        reply = codec.encode(
            self.method.report(resident, received, received.round),
            resident.wire.schema,
            value_format=resident.wire.uplink_format,
            base={**resident.wire.supports, **received},
        )
        entry.encode_s += time.perf_counter() - started
        return reply, work

    def _remember(self, client: int) -> None:
        """Let a client whose update was accepted keep what its method remembers."""
        if self.method.remember is not None and self._resident is not None:
            self.memories[client] = self.method.remember(self._resident)

    def _base(self, message: bytes) -> codec.Base:
        """Return what replies to a broadcast are coded against: the supports, and what was sent.

        The server decodes its own message, so that both sides hold the same after any rounding.
        """
        wire = self.wire
        if not wire.supports:
            return {}
        return {**wire.supports, **codec.decode(message, wire.schema, base=wire.supports)}

    def _pool(self, sent: codec.Update) -> Pool:
        """Return where replies are added up; each must bring what the broadcast had values of."""
        wire = self.wire
        valued = [
            name
            for name, entry in sent.items()
            if not isinstance(entry, codec.Regenerated | codec.SupportOnly)
        ]
        return Pool(wire.schema, wire.supports, valued)

    def _accept(
        self, reply: bytes, weight: float, base: codec.Base, pool: Pool, entry: Round
    ) -> None:
        """Check a reply on the server's side and add it up, with its bound in the ledger.

        Args:
            reply: The client's message.
            weight: Its weight.
            base: What it is coded against.
            pool: Where it is added.
            entry: The ledger's entry of the round.

        Raises:
            CodecError: if the reply is refused.
            ValueError: if it lacks a tensor.
        """
        entry.uplink_bytes += len(reply)
        wire = self.wire
        update = codec.decode(reply, wire.schema, base=base)
        started = time.perf_counter()
        pool.add(reply, update, weight, base)
        entry.decode_s += time.perf_counter() - started
        entry.uplink_bound_bytes += codec.bound_bytes(
            update, wire.schema, value_format=wire.uplink_format, base=base
        )

    def _aggregate(self, pool: Pool, entry: Round, failure: Exception | None) -> None:
        """Aggregate with weights ``n_k / sum n``; a round without any update changes nothing.

        Where the sampling was not uniform, ``n_k`` stands for the examples over the chance.
        """
        if pool.clients == 0:
            if not self._succeeded:
                raise RuntimeError(f"no client could train: {failure}") from failure
            _logger.warning("round %d: all clients lost, the global model stays", entry.round)
            return
        self._succeeded = True
        started = time.perf_counter()
        self.state = self.method.aggregate(self.state, pool.mean())
        entry.clients = pool.clients
        entry.aggregate_s += time.perf_counter() - started

    def probe(self) -> Client:
        """Build a fresh client that holds the current broadcast, to be measured."""
        client = self.new_client()
        self.receive(client, self.broadcast(len(self.ledger.rounds) + 1))
        client.model.train()
        return client
