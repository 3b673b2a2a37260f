"""Both ends of a round's messages: what clients are served, and how they read it and answer."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import get_num_threads

from sparsefl import codec
from sparsefl.fl.method import Client, Method, Wire
from sparsefl.fl.pool import Mean, Pool, merge
from sparsefl.fl.privacy import Privacy
from sparsefl.random import generator
from sparsefl.support import Support


@dataclass(frozen=True)
class Served:
    """What the clients that hold the same are sent in a round.

    Attributes:
        method: The method.
        sent: What they are sent: the broadcast, or changes of what they hold.
        wire: The server's, of this round.
        held: The supports that these clients hold before they receive it.
        entries: What they hold of the last broadcast, where it travels as changes.
    """

    method: Method
    sent: codec.Update
    wire: Wire
    held: Mapping[str, Support]
    entries: Mapping[str, codec.Entry] = field(default_factory=dict)

    @functools.cached_property
    def message(self) -> bytes:
        """The broadcast, encoded against what these clients hold."""
        return codec.encode(
            self.sent,
            self.wire.schema,
            value_format=self.wire.downlink_format,
            base=self.held,
            threads=get_num_threads(),
        )

    @functools.cached_property
    def bound_bytes(self) -> int:
        """Information bound of the message."""
        return codec.bound_bytes(
            self.sent, self.wire.schema, value_format=self.wire.downlink_format, base=self.held
        )

    def reply_bound_bytes(self, reply: bytes) -> int:
        """Return the information bound of a reply of these clients."""
        update = codec.decode(reply, self.wire.schema, self.base, threads=get_num_threads())
        return codec.bound_bytes(
            update, self.wire.schema, value_format=self.wire.uplink_format, base=self.base
        )

    @functools.cached_property
    def base(self) -> codec.Base:
        """What replies are coded against: the supports, and what was sent.

        The server decodes its own message, so that both sides hold the same after any rounding.
        """
        if not (self.held or self.wire.supports):
            return {}
        received = codec.decode(
            self.message, self.wire.schema, self.held, threads=get_num_threads()
        )
        return {**self.held, **whole(self.method, self.wire, self.entries, received)}


def valued(sent: codec.Update) -> list[str]:
    """Return the names of the tensors that were sent with values: what a reply must bring."""
    seeds_and_masks = codec.Regenerated | codec.SupportOnly
    return [name for name, entry in sent.items() if not isinstance(entry, seeds_and_masks)]


def part(sent: codec.Update, supports: Mapping[str, Support]) -> codec.Update:
    """Return what a broadcast says of these supports, which are parts of its own."""
    entries: dict[str, codec.Entry] = dict(sent)
    for name, support in supports.items():
        entry = entries.get(name)
        if isinstance(entry, codec.Sparse) and entry.support != support:
            kept = support.to_numpy_mask()[entry.support.to_numpy_mask()]
            entries[name] = codec.Sparse(support, entry.values[kept])
    return codec.Update(entries, round=sent.round)


def whole(
    method: Method, wire: Wire, entries: Mapping[str, codec.Entry], received: codec.Update
) -> codec.Update:
    """Return a broadcast, from what a client holds and what it was sent.

    Raises:
        ValueError: if they do not fit.
    """
    return received if method.whole is None else method.whole(wire, entries, received)


def serve(method: Method, state: Any, sent: codec.Update, version: int = 0) -> Served:
    """Return what clients are served of a broadcast that hold a version; 0 is a newcomer's."""
    entries: Mapping[str, codec.Entry] = {}
    if method.changes is not None and method.held is not None:
        sent, entries = method.changes(state, sent, version), method.held(state, version)
    wire, supports = method.server_wire(state), method.held_supports(state, version)
    return Served(method, sent, wire, supports, entries)


class Serving:
    """What is served in one round, made once for all clients that hold and can do the same.

    Attributes:
        pools: Where replies are added up, by capability.
    """

    def __init__(self, method: Method, views: Mapping[float | None, Any], round: int) -> None:
        """Begins a round.

        Args:
            method: The method.
            views: The server's state as clients of each capability know it, the strongest first.
            round: Number of the round.
        """
        self._method, self._views, self._round = method, views, round
        self._sent: dict[float | None, codec.Update] = {}
        self._served: dict[tuple[float | None, int], Served] = {}
        self._bound_shares: dict[float | None, float] = {}
        self.pools: dict[float | None, Pool] = {}
        self._strongest = next(iter(views))
        self._broadcast(self._strongest)

    def _broadcast(self, capability: float | None) -> codec.Update:
        """Return what clients of a capability are to get, and open their pool."""
        if capability not in self._sent:
            view = self._views[capability]
            sent, wire = self._method.broadcast(view, self._round), self._method.server_wire(view)
            expected = [name for name in valued(sent) if name not in wire.untrained]
            self.pools[capability] = Pool(wire.schema, wire.supports, expected, wire.gathered)
            self._sent[capability] = sent
        return self._sent[capability]

    def of(self, capability: float | None, version: int) -> Served:
        """Return what clients get that hold a version, encoded."""
        key = (capability, version)
        if key not in self._served:
            sent = self._broadcast(capability)
            own = serve(self._method, self._views[capability], sent, version)
            _ = own.message, own.base
            self._served[key] = own
        return self._served[key]

    def own(self, capability: float | None, supports: Mapping[str, Support]) -> Served:
        """Return what one client gets that has supports of its own, encoded."""
        view = self._views[capability]
        sent = part(self._broadcast(capability), supports)
        own = Served(self._method, sent, self._method.server_wire(view), supports)
        _ = own.message, own.base
        return own

    def reply_bound_bytes(self, capability: float | None, reply: bytes, own: Served) -> int:
        """Return the information bound of a reply that was accepted.

        It is measured of the first of a capability in the round. The others' is in proportion to
        their bytes: a round then does not take longer for what only the ledger wants to know.

        Args:
            capability: Of the client.
            reply: Its message.
            own: What it was served.
        """
        if capability not in self._bound_shares:
            self._bound_shares[capability] = own.reply_bound_bytes(reply) / len(reply)
        return round(self._bound_shares[capability] * len(reply))

    @property
    def clients(self) -> int:
        """Number of updates added."""
        return sum(pool.clients for pool in self.pools.values())

    def mean(self) -> Mean:
        """Return the mean of all replies, at each position over the clients that own it.

        Raises:
            ValueError: if the supports of weaker clients are no part of the stronger ones'.
        """
        pool = self.pools[self._strongest]
        if self._method.still is None or len(self._views) == 1:
            return pool.mean()
        view = self._views[self._strongest]
        supports = self._method.server_wire(view).supports
        return merge(self.pools.values(), supports, self._method.still(view))

    def noisy_mean(self, privacy: Privacy, seed: int) -> Mean:
        """Return the mean of all replies under differential privacy."""
        sums = self.pools[self._strongest].sums()
        return privacy.noisy_mean(sums, self.clients, seed, self._round)


def holding(client: Client, own: Served) -> Client:
    """Return the client as one that holds what those hold that are served; its model stays."""
    return replace(client, wire=replace(client.wire, supports=own.held), held=own.entries)


def read(method: Method, client: Client, message: bytes) -> codec.Update:
    """Decode a broadcast into a client's model, and return it whole.

    Raises:
        CodecError: if the message is refused; the model is untouched.
        ValueError: if it does not fit the model, which is untouched, or what the client holds.
    """
    wire = client.wire
    received = codec.decode(message, wire.schema, wire.supports, threads=get_num_threads())
    update = whole(method, wire, client.held, received)
    method.receive(client, update)
    return update


def rounding_seed(seed: int, round: int, client: int) -> int:
    """Return what seeds the rounding of a client's reply in a round: no two have the same."""
    return int(generator(seed, f"rounding of client {client} in round {round}").integers(2**63))


def answer(method: Method, client: Client, received: codec.Update, seed: int = 0) -> bytes:
    """Encode what a client reports after training, against its supports and what it received.

    Args:
        method: Its method.
        client: The client.
        received: The broadcast, as it was read.
        seed: Of its own in this round, for wires that round at random.
    """
    return codec.encode(
        method.report(client, received, received.round),
        client.wire.schema,
        value_format=client.wire.uplink_format,
        base={**client.wire.supports, **received},
        rounding=codec.Stochastic(seed) if client.wire.unbiased else "nearest",
        threads=get_num_threads(),
    )
