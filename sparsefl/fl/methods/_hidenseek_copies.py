"""HideNseek's scores down as changes: the copy that clients hold, and what they are sent of it.

With ``score_deltas`` the server keeps, beside its real scores ``s_t``, the copy ``c_t`` that every
client holds which was served version t:

    c_1 = Q(s_1);    q_t = D(s_t - c_{t-1}),    c_t = Q(c_{t-1} + q_t)

D rounds to ``score_deltas``, Q to ``score_format``, both by the codec. Clients of version t - 1 are
sent ``q_t``, those of version t (a round without any reply moves nothing) no change, newcomers and
clients that have missed a version ``c_t`` itself: rounding it once more changes nothing, so that
all hold the same bits. What rounding has lost is part of the next difference, which is taken from
real scores: it is fed back, and does not add up.

Ours for HideNseek; the feedback is that of EF21-P (Gruntkowska, Tyurin, Richtarik, "EF21-P and
friends", ICML 2023, arXiv 2209.15218), of a model there, and without Q. A client keeps its copy
between rounds. Changes carry a fingerprint of what they are of: whoever holds another copy refuses
them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sparsefl.codec import Dense, Entry, Regenerated, Sparse, Update, decode, encode
from sparsefl.fl.method import Wire
from sparsefl.fl.methods._hidenseek_downlink import (
    CHANGE,
    NO_DELTAS,
    OF,
    keep_signs,
    without_changes,
)
from sparsefl.fl.methods._hidenseek_rules import Scores


@dataclass(frozen=True)
class Copies:
    """What clients hold of the scores; every mapping by layer, ``[nnz]`` float32, row-major.

    Attributes:
        now: Of the clients that are served the next broadcast.
        before: Of those that were served the version before; none of the first.
        change: What these are sent.
        version: Of ``now``, from 1.
    """

    now: Mapping[str, Scores]
    before: Mapping[str, Scores] = field(default_factory=dict)
    change: Mapping[str, Scores] = field(default_factory=dict)
    version: int = 1


def first(wire: Wire, scores: Mapping[str, Tensor], options: Mapping[str, Any]) -> Copies | None:
    """Return what clients hold after the first broadcast; ``None`` where no changes are sent."""
    if options["score_deltas"] == NO_DELTAS:
        return None
    return Copies(_rounded(wire, {name: own.numpy() for name, own in scores.items()}))


def following(copies: Copies | None, wire: Wire, scores: Mapping[str, Tensor]) -> Copies | None:
    """Let the copies follow the scores by what is sent, rounded as it is."""
    if copies is None:
        return None
    off = {name: scores[name].numpy() - held for name, held in copies.now.items()}
    sent = _through(wire, Update({f"{CHANGE}{name}": Dense(own) for name, own in off.items()}))
    change = _changes(sent)
    return Copies(_moved(wire, copies.now, change), copies.now, change, copies.version + 1)


def changes(copies: Copies | None, broadcast: Update, version: int) -> Update:
    """Return what clients of a version are sent of a broadcast; see :class:`Method`."""
    held = None if copies is None else _held(copies, version)
    if copies is None or held is None:
        return broadcast
    change = {} if version == copies.version else copies.change
    entries: dict[str, Entry] = {f"{CHANGE}{name}": Dense(own) for name, own in change.items()}
    rest = {name: entry for name, entry in broadcast.items() if name not in held}
    return Update({OF: Regenerated(_fingerprint(held)), **entries, **rest}, broadcast.round)


def held(copies: Copies | None, wire: Wire, version: int | None = None) -> dict[str, Entry]:
    """Return what clients of a version hold that they are sent changes of; the newest by default.

    None where they are sent everything anew.
    """
    if copies is None:
        return {}
    own = _held(copies, copies.version if version is None else version) or {}
    return {name: Sparse(wire.supports[name], values) for name, values in own.items()}


def whole(wire: Wire, held: Mapping[str, Entry], update: Update) -> Update:
    """Return a broadcast, from what a client holds and what it was sent.

    Raises:
        ValueError: if it was sent changes of other scores than it holds, or incomplete ones.
    """
    of, change = update.get(OF), _changes(update)
    if of is None and not change:
        return update
    own = {name: entry.values for name, entry in held.items() if isinstance(entry, Sparse)}
    if not isinstance(of, Regenerated) or _fingerprint(own) != of.seed:
        raise ValueError("the broadcast's changes are of other scores than this client holds")
    if change and change.keys() != own.keys():
        raise ValueError("the broadcast's changes are not those of every layer's scores")
    moved = _moved(wire, own, change) if change else own
    entries: dict[str, Entry] = {k: Sparse(wire.supports[k], v) for k, v in moved.items()}
    rest = {name: update[name] for name in without_changes(wire.schema) if name in update}
    return Update({**rest, **entries}, update.round)


def _held(copies: Copies, version: int) -> Mapping[str, Scores] | None:
    """Return what clients of a version hold; ``None`` where they are sent everything anew."""
    return {copies.version: copies.now, copies.version - 1: copies.before or None}.get(version)


def _moved(
    wire: Wire, held: Mapping[str, Scores], change: Mapping[str, Scores]
) -> dict[str, Scores]:
    """Return ``Q(c + q)``."""
    return _rounded(wire, {name: own + change[name] for name, own in held.items()})


def _rounded(wire: Wire, scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """Return scores as they arrive when they are sent whole."""
    formats = wire.downlink_format
    assert isinstance(formats, Mapping)
    entries = {
        name: Sparse(wire.supports[name], keep_signs(own, formats[name]))
        for name, own in scores.items()
    }
    arrived = _through(wire, Update(entries))
    return {name: entry.values for name, entry in arrived.items() if isinstance(entry, Sparse)}


def _through(wire: Wire, update: Update) -> Update:
    """Return what is decoded of an update that the server sends."""
    message = encode(update, wire.schema, wire.downlink_format, wire.supports)
    return decode(message, wire.schema, base=wire.supports)


def _changes(update: Update) -> dict[str, Scores]:
    """Return the changes of an update by layer."""
    found = {name.removeprefix(CHANGE): e for name, e in update.items() if CHANGE in name}
    return {name: entry.values for name, entry in found.items() if isinstance(entry, Dense)}


def _fingerprint(scores: Mapping[str, Scores]) -> int:
    """Return 8 bytes of a hash of scores, layer by layer in the order of their names."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(scores):
        digest.update(np.ascontiguousarray(scores[name], np.dtype("<f4")).tobytes())
    return int.from_bytes(digest.digest(), "little")
