"""The embedded engine: server and clients in one process, messages as bytes between them.

What a client gets and what it sends is the encoded message and nothing else: the client decodes the
server's bytes into its model, the server decodes the client's bytes before it aggregates, and the
ledger counts the lengths. One resident model serves all clients in turn, and each message
overwrites everything that travels; what a client keeps between rounds is what its method remembers.
What a model holds outside its state_dict (attributes, buffers not persistent) is not reset.
"""

import contextlib
import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import get_num_threads
from torch.nn.functional import cross_entropy

from sparsefl import codec
from sparsefl.fl.batches import Dataset, stream
from sparsefl.fl.capabilities import check_capabilities
from sparsefl.fl.device import computing_on
from sparsefl.fl.exchange import Exchange, judging
from sparsefl.fl.ledger import Group, Ledger, Round
from sparsefl.fl.method import Client, Method, Task, Wire
from sparsefl.fl.pool import Pool
from sparsefl.fl.privacy import Privacy
from sparsefl.fl.sampling import draw_cohort
from sparsefl.fl.schedule import Schedule
from sparsefl.fl.serving import Served, Serving, answer, holding, read, rounding_seed, serve
from sparsefl.fl.training import LocalWork, Loss, Watch, accuracy, train
from sparsefl.random import generator
from sparsefl.support import Support

_logger = logging.getLogger(__name__)

# Everything of a federation that a round changes.
_KEPT = ("state", "ledger", "memories", "versions", "_seen", "_succeeded")


@dataclass
class Federation:
    """A run in progress.

    Attributes:
        method: The federated method.
        task: What both sides agreed on; the number of clients is filled in.
        datasets: Training data of each client.
        schedule: How much each does.
        ledger: What it has cost so far.
        state: The server's state.
        memories: What each client has kept for itself, for methods that remember.
        saved: A snapshot to go on from; ``None`` begins anew.
        loss: What clients minimise, of outputs and labels.
        devs: Development data of each client, for methods that prepare; none if empty.
        versions: What each client was last served, for methods that have versions of it.
        capabilities: Of each client the share of the weights that it can train, in (0, 1]; none if
            all can train all.
        exchanged_bytes: What preparing has sent to clients, and they to the server; the ledger
            counts it in the first round.
    """

    method: Method
    task: Task
    datasets: Sequence[Dataset]
    schedule: Schedule
    ledger: Ledger = field(default_factory=Ledger)
    state: Any = None
    memories: dict[int, Any] = field(default_factory=dict)
    saved: Mapping[str, Any] | None = None
    loss: Loss = cross_entropy
    devs: Sequence[Dataset] = ()
    versions: dict[int, int] = field(default_factory=dict)
    capabilities: Sequence[float] = ()
    exchanged_bytes: tuple[int, int] = (0, 0)
    _residents: dict[float | None, Client] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)
    _succeeded: bool = False

    def __post_init__(self) -> None:
        """Initialise the server; its seconds are counted apart from the rounds.

        Raises:
            TypeError: if an option or a count of the schedule is of another type.
            ValueError: if one is out of range, no client owns an example, or the method has no use
                for the capabilities.
            RuntimeError: if a method prepares and no client answers.
        """
        self.schedule.check()
        self.method.with_defaults(self.task.options)
        self._examples = [len(data) for data in self.datasets]
        if not any(self._examples):
            raise ValueError("clients must own training data, all datasets are empty")
        if empty := self._examples.count(0):
            _logger.info("%d clients own no training example and are never sampled", empty)
        if self.privacy and self.privacy.entropy == "seed":
            _logger.warning("dp_entropy is 'seed': who knows the seed can take the noise off")
        self.capabilities = check_capabilities(
            self.method, self.capabilities, len(self.datasets), self.task.options
        )
        levels = tuple(sorted(set(self.capabilities), reverse=True))
        self._levels: tuple[float | None, ...] = levels or (None,)
        eligible = len(self._examples) - empty
        self.task = replace(self.task, clients=eligible, capability=self._levels[0], levels=levels)
        if self.saved is not None:
            for name in _KEPT:
                setattr(self, name, self.saved[name])
            self._setups = self._setup_messages()
            return
        started = time.perf_counter()
        self.state = self.method.init(self.task)
        if self.method.prepare is not None:
            self._prepare()
        self._setups = self._setup_messages()
        self.ledger.setup_s += time.perf_counter() - started
        for level in levels:
            self.ledger.groups[level] = Group(self.capabilities.count(level))

    def views(self) -> dict[float | None, Any]:
        """Return the state as the clients of each capability know it, the strongest first."""
        views: dict[float | None, Any] = {self._levels[0]: self.state}
        if self.method.view is not None:
            weaker = [level for level in self._levels[1:] if level is not None]
            views |= {level: self.method.view(self.state, level) for level in weaker}
        return views

    def _setup_messages(self) -> dict[float | None, bytes | None]:
        return {level: self.method.setup(view) for level, view in self.views().items()}

    @property
    def setup_message(self) -> bytes | None:
        """What each client gets once, if anything; the strongest's where they differ."""
        return self._setups[self._levels[0]]

    def _prepare(self) -> None:
        """Let the method exchange messages with the clients before the first round."""
        assert self.method.prepare is not None
        exchange = Exchange(
            self.method,
            self.task,
            self.datasets,
            self.devs or [()] * len(self.datasets),
            self._draw,
            self.loss,
            self.schedule.batch_size,
        )
        self.state = self.method.prepare(self.task, self.state, exchange)
        self.exchanged_bytes = exchange.downlink_bytes, exchange.uplink_bytes

    def snapshot(self) -> dict[str, Any]:
        """Return what another federation of the same task needs as ``saved`` to go on from here."""
        return {name: getattr(self, name) for name in _KEPT}

    @property
    def privacy(self) -> Privacy | None:
        """What clips and perturbs the updates; ``None`` where the options ask for no privacy."""
        clients = len(self._examples) - self._examples.count(0)
        size = min(self.schedule.clients_per_round or clients, clients)
        return Privacy.of(self.task.options, self.schedule.sampling, clients, size)

    @property
    def wire(self) -> Wire:
        """How the server encodes and decodes."""
        return self.method.server_wire(self.state)

    def cohort(self, round: int) -> dict[int, float]:
        """Draw the clients of a round, from a stream of its own, with their chances."""
        return self._draw(f"cohort of round {round}")

    def _draw(self, name: str) -> dict[int, float]:
        """Draw clients from the stream of a name, with their chances."""
        size = self.schedule.clients_per_round or len(self.datasets)
        privacy = self.privacy
        draws = privacy.draws(self.task.seed, name) if privacy else generator(self.task.seed, name)
        return draw_cohort(self._examples, size, self.schedule.sampling, draws)

    def broadcast(self, round: int) -> bytes:
        """Encode what the server sends to a newcomer in a round, the strongest of them."""
        return serve(self.method, self.state, self.method.broadcast(self.state, round)).message

    def new_client(self, capability: float | None = None) -> Client:
        """Build a client from the bytes of its set-up message alone; the strongest by default."""
        level = self._levels[0] if capability is None else capability
        task = replace(self.task, capability=level)
        return self.method.new_client(task, self._setups[level])

    def receive(self, client: Client, message: bytes) -> codec.Update:
        """Decode a broadcast into the model of a newcomer; see :func:`sparsefl.fl.serving.read`."""
        return read(self.method, client, message)

    def play(self, round: int) -> Round:
        """Play one round: broadcast, local training, aggregation.

        A client that raises, or whose message is refused, loses its update and not the round.

        Args:
            round: Number of the round, from 1.

        Raises:
            RuntimeError: if no client has ever succeeded; the last failure is its cause.
        """
        entry = Round(round)
        if not self.ledger.rounds:
            entry.setup_bytes, entry.setup_uplink_bytes = self.exchanged_bytes
        started = time.perf_counter()
        serving = Serving(self.method, self.views(), round)
        entry.encode_s += time.perf_counter() - started
        losses: list[tuple[int, float]] = []
        failure: Exception | None = None
        for client, chance in self.cohort(round).items():
            before, level = replace(entry), self._level(client)
            own = self._serve(client, level, serving, entry)
            try:
                reply, work = self._client_round(client, self._standing_in(level, own), own, entry)
                self._accept(reply, work.examples / chance, own, serving.pools[level], entry)
                entry.uplink_bound_bytes += serving.reply_bound_bytes(level, reply, own)
                self._remember(client, level)
                losses.append((work.steps, work.loss))
                entry.clients += 1
                entry.local_steps += work.steps
            except Exception as error:  # whatever a client's data or model raises
                _logger.warning("round %d lost client %d: %s", round, client, error)
                entry.lost += 1
                failure = error
            if level is not None:
                self.ledger.groups[level].count(before, entry)
        self._aggregate(serving, entry, failure)
        if losses:
            entry.loss = sum(steps * loss for steps, loss in losses) / entry.local_steps
        self.ledger.add(entry)
        return entry

    def _level(self, client: int) -> float | None:
        """Return what a client can do; ``None`` where all can do the same."""
        return self.capabilities[client] if self.capabilities else None

    def _serve(self, client: int, level: float | None, serving: Serving, entry: Round) -> Served:
        """Send a client what it gets, the set-up message before the first broadcast."""
        started = time.perf_counter()
        if self.method.own_supports is None:
            own = serving.of(level, self.versions.get(client, 0))
        else:
            own = serving.own(level, self._own_supports(client))
        entry.encode_s += time.perf_counter() - started
        entry.downlink_bytes += len(own.message)
        entry.downlink_bound_bytes += own.bound_bytes
        if client not in self._seen:
            self._seen.add(client)
            entry.setup_bytes += len(self._setups[level] or b"")
        return own

    def _own_supports(self, client: int) -> Mapping[str, Support]:
        """Return the supports that a client has chosen, by its last reply that was accepted."""
        assert self.method.own_supports is not None
        return self.method.own_supports(self.state, self.memories.get(client))

    def _client_round(
        self, client: int, resident: Client, own: Served, entry: Round
    ) -> tuple[bytes, LocalWork]:
        """Receive, train and encode the reply on the client's side."""
        started, device = time.perf_counter(), self.task.device
        received = read(self.method, resident, own.message)
        if self.method.version is not None:
            self.versions[client] = self.method.version(self.state)
        if self.method.recall is not None:
            self.method.recall(resident, self.memories.get(client))
        entry.decode_s += time.perf_counter() - started
        if self.method.adapt is not None:
            started = time.perf_counter()
            judged_by = judging(client, self.devs, self.datasets)
            self.method.adapt(resident, lambda: accuracy(resident.model, judged_by, device))
            entry.train_s += time.perf_counter() - started
        with computing_on(device, resident.model):
            work = train(
                resident.model,
                self.method.optimizer(resident, received.round),
                self.datasets[client],
                batch_size=self.schedule.batch_size,
                epochs=self.schedule.local_epochs,
                max_steps=self.schedule.local_steps,
                generator=stream(self.task.seed, received.round, client),
                loss=self.loss,
                last_step=self._last_step(resident),
            )
        entry.train_s += work.train_s
        started = time.perf_counter()
        seed = rounding_seed(self.task.seed, received.round, client)
        reply = answer(self.method, resident, received, seed)
        entry.encode_s += time.perf_counter() - started
        return reply, work

    def _standing_in(self, level: float | None, own: Served) -> Client:
        """Return the resident client of a capability as one that holds what these clients hold."""
        if level not in self._residents:
            started = time.perf_counter()
            self._residents[level] = self.new_client(level)
            self.ledger.setup_s += time.perf_counter() - started
        resident = self._residents[level]
        changing = self.method.version is not None or self.method.own_supports is not None
        return holding(resident, own) if changing else resident

    def _last_step(self, client: Client) -> Watch:
        """Return what opens the context of a client's last step."""
        if self.method.last_step is None:
            return contextlib.nullcontext
        return functools.partial(self.method.last_step, client)

    def _remember(self, client: int, level: float | None) -> None:
        """Let a client whose update was accepted keep what its method remembers."""
        if self.method.remember is not None:
            self.memories[client] = self.method.remember(self._residents[level])

    def _accept(self, reply: bytes, weight: float, own: Served, pool: Pool, entry: Round) -> None:
        """Check a reply on the server's side and add it up.

        Args:
            reply: The client's message.
            weight: Its weight.
            own: What the client was served.
            pool: Where it is added.
            entry: The ledger's entry of the round.

        Raises:
            CodecError: if the reply is refused.
            ValueError: if it lacks a tensor.
        """
        entry.uplink_bytes += len(reply)
        started = time.perf_counter()
        privacy, schema, message, base = self.privacy, own.wire.schema, reply, own.base
        expand = self.method.expand if own.wire.expands else None
        if privacy or expand is not None:
            update = codec.decode(reply, schema, base, threads=get_num_threads())
            if expand is not None:
                expanded = expand(schema, update)
                if expanded is not update:
                    update, base = expanded, {}
                    message = codec.encode(expanded, schema, threads=get_num_threads())
            weight = privacy.weight(update) if privacy else weight
        pool.add(message, weight, base)
        entry.aggregate_s += time.perf_counter() - started

    def _aggregate(self, serving: Serving, entry: Round, failure: Exception | None) -> None:
        """Aggregate with weights ``n_k / sum n``; a round without any update changes nothing.

        Where the sampling was not uniform, ``n_k`` stands for the examples over the chance. Under
        privacy clients count alike, and a round without any update is a step of noise.
        """
        privacy = self.privacy
        if privacy:
            entry.epsilon = privacy.epsilon(entry.round)
        if serving.clients == 0:
            if failure and not self._succeeded:
                raise RuntimeError(f"no client could train: {failure}") from failure
            if not privacy:
                _logger.warning("round %d: no update, the global model stays", entry.round)
                return
        self._succeeded |= serving.clients > 0
        started = time.perf_counter()
        mean = serving.noisy_mean(privacy, self.task.seed) if privacy else serving.mean()
        self.state = self.method.aggregate(self.state, mean)
        entry.aggregate_s += time.perf_counter() - started

    def probe(self) -> Client:
        """Build a fresh client that holds the current broadcast, to be measured.

        Where clients have supports of their own, it is the one that has trained and has the lowest
        number.
        """
        client, round = self.new_client(), len(self.ledger.rounds) + 1
        if self.method.own_supports is None:
            self.receive(client, self.broadcast(round))
        else:
            serving = Serving(self.method, self.views(), round)
            own = serving.own(self._levels[0], self._own_supports(min(self.memories, default=0)))
            client = holding(client, own)
            read(self.method, client, own.message)
        client.model.train()
        return client
