"""What a run costs: bytes, seconds and clients of every round, and their sums.

Bytes are lengths of encoded messages, never formulas: each is counted where it is handed over.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

# Everything that was sent; what messages need at least is no part of it.
SPENT = ("setup_bytes", "setup_uplink_bytes", "downlink_bytes", "uplink_bytes")


@dataclass
class Round:
    """The costs and the outcome of one round.

    Attributes:
        round: Number of the round, from 1.
        clients: Clients whose update was aggregated.
        lost: Clients whose update was lost: they raised, or one side refused a message.
        setup_bytes: Messages sent once to a client, on its first round (masks, seeds); in the first
            round also those that a method has sent to prepare.
        setup_uplink_bytes: What clients have answered to these, in the first round.
        downlink_bytes: Messages of the server to the cohort.
        uplink_bytes: Messages of the cohort to the server.
        uplink_bound_bytes: Information bound of those messages, as of ``codec.bound_bytes``: of
            order 0, so that a message may take less where signs come in runs, or values are coded
            by classes of blocks. Measured of the round's first message (of each capability); the
            others' is in proportion to their bytes.
        downlink_bound_bytes: The same of the server's messages.
        encode_s: Seconds spent encoding, on both sides.
        decode_s: Seconds spent decoding and loading broadcasts.
        train_s: Seconds of local training, all clients.
        aggregate_s: Seconds of the server's aggregation: replies checked, decoded and added up, and
            its step.
        evaluate_s: Seconds of evaluation, no part of the method.
        local_steps: Optimizer steps, all clients.
        loss: Mean training loss of the local steps, ``None`` where none was made.
        accuracy: Accuracy of the new global model, ``None`` in a round without evaluation.
        epsilon: Privacy spent so far, at the delta of the options; ``None`` without noise.
        spent_bytes: All that was sent up to the end of this round.
    """

    round: int
    clients: int = 0
    lost: int = 0
    setup_bytes: int = 0
    setup_uplink_bytes: int = 0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    uplink_bound_bytes: int = 0
    downlink_bound_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    train_s: float = 0.0
    aggregate_s: float = 0.0
    evaluate_s: float = 0.0
    local_steps: int = 0
    loss: float | None = None
    accuracy: float | None = None
    epsilon: float | None = None
    spent_bytes: int = 0

    def line(self) -> dict[str, Any]:
        """Return the round as a JSON-ready record."""
        record: dict[str, Any] = json_ready(asdict(self))
        return record

    @property
    def total_bytes(self) -> int:
        """Set-up, down and up together."""
        return sum(getattr(self, name) for name in SPENT)


_NOT_SUMMED = ("round", "loss", "accuracy", "epsilon", "spent_bytes")
_SUMMED = tuple(item.name for item in fields(Round) if item.name not in _NOT_SUMMED)


# What a group's sums are of, beside the updates.
_COUNTED = (
    "clients",
    "lost",
    "setup_bytes",
    "downlink_bytes",
    "uplink_bytes",
    "train_s",
    "local_steps",
)


@dataclass
class Group:
    """What the clients of one capability have cost, all rounds.

    Attributes:
        members: Clients of this capability.
        clients: Updates aggregated.
        lost: Updates lost.
        setup_bytes: As of :class:`Round`, without what a method has sent to prepare.
        downlink_bytes: As of :class:`Round`.
        uplink_bytes: As of it.
        train_s: As of it.
        local_steps: As of it.
    """

    members: int
    clients: int = 0
    lost: int = 0
    setup_bytes: int = 0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    train_s: float = 0.0
    local_steps: int = 0

    def count(self, before: Round, after: Round) -> None:
        """Add what a client has cost, from the entry of its round before and after it."""
        for name in _COUNTED:
            spent = getattr(after, name) - getattr(before, name)
            setattr(self, name, getattr(self, name) + spent)


@dataclass
class Ledger:
    """The rounds of a run, and what was spent before the first.

    Attributes:
        groups: Costs by capability, the strongest first, where clients differ in it.
        setup_s: Seconds of the set-up (SynFlow, plans, what clients did to prepare), counted apart.
        rounds: One entry a round.
    """

    setup_s: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    groups: dict[float, Group] = field(default_factory=dict)

    def total(self, name: str) -> float:
        """Sum one field over all rounds.

        Raises:
            ValueError: if ``name`` is no summable field.
        """
        if name not in _SUMMED:
            raise ValueError(f"name must be one of {', '.join(_SUMMED)}, got {name!r}")
        return sum(getattr(entry, name) for entry in self.rounds)

    def sums(self) -> dict[str, float]:
        """Return the sum of every summable field, and the seconds of the set-up."""
        return {name: self.total(name) for name in _SUMMED} | {"setup_s": self.setup_s}

    def curve(self) -> list[tuple[int, float]]:
        """Return ``(total bytes so far, accuracy)`` for each round that was evaluated."""
        points, spent = [], 0
        for entry in self.rounds:
            spent += entry.total_bytes
            if entry.accuracy is not None:
                points.append((spent, entry.accuracy))
        return points

    def rounds_to(self, target: float) -> int | None:
        """Return the first round whose global model had at least that accuracy, if any had."""
        return rounds_to(self.lines(), target)

    def group_lines(self) -> list[dict[str, object]] | None:
        """Return one JSON-ready record a capability; ``None`` where clients do not differ."""
        lines = [{"capability": level, **asdict(group)} for level, group in self.groups.items()]
        return lines or None

    def add(self, entry: Round) -> None:
        """Add a round that is over."""
        before = self.rounds[-1].spent_bytes if self.rounds else 0
        entry.spent_bytes = before + entry.total_bytes
        self.rounds.append(entry)

    def lines(self) -> list[dict[str, Any]]:
        """Return one JSON-ready record a round."""
        return [entry.line() for entry in self.rounds]


def json_ready(value: Any) -> Any:
    """Return mappings and sequences with ``None`` for numbers that are not finite: JSON has none.

    They stand where nothing is known, as the accuracy on a test set without examples.
    """
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rounds_to(lines: Iterable[Mapping[str, Any]], target: float) -> int | None:
    """Return the first round of a log with at least some accuracy.

    Args:
        lines: As of :meth:`Ledger.lines`.
        target: Accuracy of a round's global model on the development data, within (0, 1].

    Returns:
        The round's number; ``None`` if no round that was evaluated reached it.

    Raises:
        ValueError: if the target is out of range.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target must be an accuracy, over 0 and at most 1, got {target}")
    reached = (
        int(line["round"])
        for line in lines
        if line["accuracy"] is not None and line["accuracy"] >= target
    )
    return next(reached, None)
