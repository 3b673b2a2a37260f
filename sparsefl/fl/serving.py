"""Both ends of a round's messages: what clients are served, and how they read it and answer."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparsefl import codec
from sparsefl.fl.method import Client, Method, Wire
from sparsefl.support import Support


@dataclass(frozen=True)
class Served:
    """What the clients that hold the same supports are sent in a round.

    Attributes:
        sent: What is broadcast.
        wire: The server's, of this round.
        held: The supports that these clients hold before they receive it.
    """

    sent: codec.Update
    wire: Wire
    held: Mapping[str, Support]

    @functools.cached_property
    def message(self) -> bytes:
        """The broadcast, encoded against what these clients hold."""
        return codec.encode(
            self.sent, self.wire.schema, value_format=self.wire.downlink_format, base=self.held
        )

    @functools.cached_property
    def bound_bytes(self) -> int:
        """Information bound of the message."""
        return codec.bound_bytes(
            self.sent, self.wire.schema, value_format=self.wire.downlink_format, base=self.held
        )

    @functools.cached_property
    def base(self) -> codec.Base:
        """What replies are coded against: the supports, and what was sent.

        The server decodes its own message, so that both sides hold the same after any rounding.
        """
        if not (self.held or self.wire.supports):
            return {}
        return {**self.held, **codec.decode(self.message, self.wire.schema, base=self.held)}


def valued(sent: codec.Update) -> list[str]:
    """Return the names of the tensors that were sent with values: what a reply must bring."""
    seeds_and_masks = codec.Regenerated | codec.SupportOnly
    return [name for name, entry in sent.items() if not isinstance(entry, seeds_and_masks)]


def serve(method: Method, state: Any, sent: codec.Update, version: int = 0) -> Served:
    """Return what clients are served that hold the supports of a version; 0 is a newcomer's."""
    return Served(sent, method.server_wire(state), method.held_supports(state, version))


def holding(client: Client, supports: Mapping[str, Support]) -> Client:
    """Return the client as one that holds these supports; its model is the same."""
    return replace(client, wire=replace(client.wire, supports=supports))


def read(method: Method, client: Client, message: bytes) -> codec.Update:
    """Decode a broadcast into a client's model.

    Raises:
        CodecError: if the message is refused; the model is untouched.
        ValueError: if it does not fit the model, which is untouched.
    """
    update = codec.decode(message, client.wire.schema, base=client.wire.supports)
    method.receive(client, update)
    return update


def answer(method: Method, client: Client, received: codec.Update) -> bytes:
    """Encode what a client reports after training, against its supports and what it received."""
    return codec.encode(
        method.report(client, received, received.round),
        client.wire.schema,
        value_format=client.wire.uplink_format,
        base={**client.wire.supports, **received},
    )
