"""FedTiny's progressive pruning, on the server: what the next round adjusts, and what came of it.

Huang et al., arXiv 2212.01977, stage 3. Supports have versions, from 0: a client is sent what has
changed since the version that it was last served.

Where a client can recompute what is dropped (``drops`` is "recomputed"), a round of adjustment has
a version of its own: the supports without the weakest weights of that round's broadcast. Who is
served knows them from it and from the counts, and is later sent what has grown alone. Of weaker
clients' parts nothing is dropped before: see :mod:`._fedtiny_parts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl import pruning
from sparsefl.codec import Entry, Schema, Sparse
from sparsefl.fl.aggregation import as_tensor
from sparsefl.fl.method import Task, Wire
from sparsefl.fl.methods._fedtiny_accounting import coo_bits
from sparsefl.fl.methods._fedtiny_masks import SEEDED, Masks, kept
from sparsefl.fl.methods._fedtiny_parts import Parts, with_version, within
from sparsefl.fl.pool import Mean
from sparsefl.ops import Growth
from sparsefl.pruning._prunable import keep_largest
from sparsefl.support import Support

# Share of the planned rounds after which masks stay, where no round is given: FedRTS's 300 of 500.
UNTIL = 0.6
# Names in the messages; no module of a model is called so.
COUNTS, _GROWTH = "fedtiny:counts", "fedtiny:growth/"


@dataclass(frozen=True)
class State:
    """The server's state.

    Attributes:
        values: Kept weights of each pruned layer, ``[nnz]`` float32, row-major.
        dense: Every other parameter and buffer.
        supports: Where the kept weights are.
        history: The supports of each version that are not as in the one before.
        parts: The same of weaker clients, by their capability; as many versions.
        drawn: Whether clients can draw the first masks from the seed.
        cursor: The block whose turn it is; ``None`` where nothing can be exchanged.
        counts: What the next round adjusts: how many weights of each layer; empty for nothing.
        rounds: Rounds that have brought something so far. One that loses all clients does not
            count, so that an adjustment that was due is made in the next.
        stop: Round from which on nothing is adjusted.
        parameters: Number of parameters among ``dense``.
        growth_bits: What the paper counts for a client's gradients, in all rounds so far.
        schema: Of the model.
        seed: Of the run.
        options: The method's options.
    """

    values: Mapping[str, Tensor]
    dense: Mapping[str, Tensor]
    supports: Masks
    history: tuple[Masks, ...]
    parts: Parts
    drawn: bool
    cursor: pruning.Cursor | None
    counts: Mapping[str, int]
    rounds: int
    stop: int
    parameters: int
    growth_bits: int
    schema: Schema
    seed: int
    options: Mapping[str, Any]

    @property
    def wire(self) -> Wire:
        """How messages are encoded."""
        return wire_of(self.schema, self.supports)


def growth_name(name: str) -> str:
    """Return the name of a weight's gradients in the messages."""
    return f"{_GROWTH}{name}"


def wire_of(schema: Schema, supports: Masks) -> Wire:
    """Return how messages travel: the model, counts down, and gradients up, which are gathered."""
    growth = {growth_name(name): (support.shape, "float32") for name, support in supports.items()}
    counts = {COUNTS: ((len(supports),), "int32")}
    own = frozenset({COUNTS, *growth})
    return Wire(Schema({**schema, **counts, **growth}), supports, gathered=own)


def begin(model: nn.Module, supports: Masks, task: Task) -> State:
    """Return the state of a dense model that starts on some supports."""
    held = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, support in supports.items() if support.nnz < support.numel]
    values = {name: kept(held[name], support) for name, support in supports.items()}
    state = State(
        values=values,
        dense={name: value for name, value in held.items() if name not in supports},
        supports=dict(supports),
        history=(dict(supports),),
        parts=with_version({}, task.levels[1:], supports, values, supports),
        drawn=task.options["initial"] in SEEDED,
        cursor=pruning.cursor(model, names, task.options["granularity"]) if names else None,
        counts={},
        rounds=0,
        stop=task.options["adjust_until"] or round(UNTIL * task.rounds),
        parameters=sum(p.numel() for n, p in model.named_parameters() if n not in supports),
        growth_bits=0,
        schema=Schema.of(model),
        seed=task.seed,
        options=task.options,
    )
    return planned(state)


def planned(state: State) -> State:
    """Plan the next round: what it adjusts, and what its clients will know to be dropped."""
    every, due = state.options["adjust_every"], state.rounds + 1
    if state.cursor is None or not every or due % every or due >= state.stop:
        return replace(state, counts={})
    rate = pruning.growth_rate(due, state.stop, state.options["alpha"])
    block = {name: state.supports[name] for name in state.cursor.current}
    counts = {n: count for n, count in pruning.growth_counts(block, rate).items() if count}
    state = replace(state, counts=counts)
    if state.options["drops"] == "sent":
        return state
    left = dropped(state.supports, state.values, counts)
    parts = with_version(state.parts, state.parts, state.supports, state.values, ())
    return replace(state, history=(*state.history, left), parts=parts)


def dropped(
    supports: Masks, values: Mapping[str, Tensor], counts: Mapping[str, int]
) -> dict[str, Support]:
    """Return supports without the weakest of a broadcast's weights: both sides compute it.

    Args:
        supports: Of the broadcast.
        values: Its weights, ``[nnz]``, row-major.
        counts: How many of each layer are dropped, as it says.
    """
    left = {}
    for name, count in counts.items():
        weak = keep_largest(values[name].abs().neg(), count).numpy()
        gone = supports[name].indices[weak]
        left[name] = supports[name].exchanged(gone, np.empty(0, np.int64))
    return left


def adjusted(
    state: State, values: Mapping[str, Tensor], mean: Mean
) -> tuple[State, dict[str, Tensor]]:
    """Exchange what was planned: prune the weakest, grow where clients saw the largest gradients.

    Args:
        state: As it was broadcast.
        values: The clients' mean weights, ``[nnz]``, row-major.
        mean: What they sent besides; a gradient that a client did not send is 0.

    Returns:
        The state with new supports, its cursor at the next block, and the weights on these.
    """
    assert state.cursor is not None
    supports, moved = dict(state.supports), dict(values)
    recomputed = state.options["drops"] == "recomputed"
    for name, count in state.counts.items():
        support = supports[name]
        growth = growth_of(mean.gathered.get(growth_name(name), ()), support, mean.clients)
        judged = state.values[name] if recomputed else values[name]
        form = state.options["structure"]
        supports[name] = pruning.grow_prune(support, judged, growth, count, form).support
        moved[name] = carried(support, values[name], supports[name])
    claimed = [coo_bits(supports[name].numel, count) for name, count in state.counts.items()]
    changed = replace(
        state,
        supports=supports,
        history=(*state.history, {name: supports[name] for name in state.counts}),
        parts=with_version(state.parts, state.parts, supports, moved, state.counts),
        cursor=state.cursor.advanced(),
        growth_bits=state.growth_bits + sum(claimed),
    )
    return changed, moved


def growth_of(sent: Sequence[Entry], support: Support, clients: int) -> Growth:
    """Average the gradients of pruned positions: ``g_j = sum of g_j received / clients``.

    What is no gradient of a pruned position is left out, as if it had not been sent.
    """
    received = []
    for entry in sent:
        if isinstance(entry, Sparse) and bool(np.isfinite(entry.values).all()):
            at = entry.support.indices
            pruned = ~np.isin(at, support.indices, assume_unique=True)
            received.append(Growth(torch.tensor(at[pruned]), as_tensor(entry.values[pruned])))
    if not received:
        return Growth(torch.empty(0, dtype=torch.int64), torch.empty(0))
    return pruning.mean_growth(received, clients)


def carried(old: Support, values: Tensor, new: Support) -> Tensor:
    """Return values for another support, ``[nnz]``: those of positions in both, else 0."""
    out = values.new_zeros(new.nnz)
    stays = np.isin(new.indices, old.indices, assume_unique=True)
    left = np.isin(old.indices, new.indices, assume_unique=True)
    out[torch.from_numpy(stays)] = values[torch.from_numpy(left)]
    return out


def supports_of(state: State, version: int) -> dict[str, Support]:
    """Return the supports of a version."""
    return _at(state.history, version)


def _at(history: Sequence[Masks], version: int) -> dict[str, Support]:
    supports: dict[str, Support] = {}
    for changed in history[: version + 1]:
        supports |= changed
    return supports


def view(state: State, capability: float) -> State:
    """Return the state as weaker clients know it: their parts, and the weights there."""
    history = state.parts[capability]
    supports = _at(history, len(history) - 1)
    values = {n: within(v, state.supports[n], supports[n]) for n, v in state.values.items()}
    return replace(state, values=values, supports=supports, history=history, parts={}, drawn=False)


def still(state: State) -> dict[str, Tensor]:
    """Return the weights as they are: they stay where no client of a round holds them."""
    return {**state.values, **state.dense}
