"""How HideNseek's signs are aggregated: what a client sends of its scores, and what it moves.

The paper's own rule was not read for this file: **every rule here is named by us.** With ``s`` the
server's scores of a weight tensor, ``s_k`` those of client k after training, ``p_k`` its weight in
the cohort and ``v = sum_k p_k sgn(s_k)``:

    rule         up                                   server
    sign_update  sgn(s_k - s), mean |s_k - s|         s += server_lr sum_k p_k scale_k sign_k
    mean         sgn(s_k)*                            s = tau v
    vote         sgn(s_k)*                            s = tau sgn(v), broadcast as 1 bit
    beta         a sample of sgn(s_k)*                s = tau logit of a Beta posterior's mean
    accumulate   sgn(s_k)*                            s += tau v
    score        s_k as float32: no compression       s = sum_k p_k s_k
    personal     sgn(s_k)*                            s = tau v; clients keep scores of their own

Signs are one bit each. * Coded against the signs that the server broadcast, as the positions that
differ, where that is shorter. Scores go down quantised, ``score_format``. The clients of
``personal`` have a state between rounds, which only cross-silo clients can keep; all others are
stateless.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsefl.codec import Entry, Signs, Sparse, Update
from sparsefl.fl.aggregation import as_tensor
from sparsefl.fl.methods._votes import count_votes, sample_bits
from sparsefl.fl.options import check_positive
from sparsefl.support import Support

Scores: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """One layer of a client after its round.

    Attributes:
        support: Its kept positions.
        before: The scores that it started from, ``[nnz]``, row-major.
        after: Those that it ended with.
        round: Number of the round.
        options: The method's options.
    """

    support: Support
    before: Scores
    after: Scores
    round: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Pooled:
    """One layer of the server while it aggregates.

    Attributes:
        scores: The server's scores, ``[nnz]`` float64.
        mean: ``sum_k p_k x_k`` of what the clients sent, ``[nnz]`` float64.
        memory: What the rule remembers of the layer, ``[nnz]`` float64 each, by name.
        clients: Number of updates.
        options: The method's options.
    """

    scores: Tensor
    mean: Tensor
    memory: Mapping[str, Tensor]
    clients: int
    options: Mapping[str, Any]


Moved: TypeAlias = tuple[Tensor, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Rule:
    """An aggregation rule.

    Attributes:
        report: What a client sends of one layer.
        move: ``(pooled) -> (next scores, next memory)`` of one layer on the server.
        votes: Whether clients send signs of their scores, to be coded against the broadcast.
        broadcasts_signs: Whether the server sends signs and one scale instead of scores.
        keeps: Whether a client keeps its scores between rounds: for cross-silo clients only.
        reads: The options that it reads, of those that not every rule does.
    """

    report: Callable[[Trained], Entry]
    move: Callable[[Pooled], Moved]
    votes: bool = False
    broadcasts_signs: bool = False
    keeps: bool = False
    reads: tuple[str, ...] = ()


def signs_of(scores: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return ``sgn(scores)``, +1 where they are 0, ``[nnz]`` int8."""
    return np.where(scores >= 0, 1, -1).astype(np.int8)


def signs_of_change(support: Support, change: npt.NDArray[Any], round: int) -> Signs:
    """Reduce a score change to one bit a score and one scale, the mean size.

    Args:
        support: Kept positions.
        change: ``s_k - s``, ``[nnz]``, row-major.
        round: Decides the sign of scores that did not move: +1 where position + round is even, so
            that what is added for them cancels over the rounds.
    """
    turns = np.where((np.arange(change.size) + round) % 2 == 0, 1, -1)
    signs = np.where(change == 0, turns, signs_of(change)).astype(np.int8)
    scale = float(np.abs(change, dtype=np.float64).mean()) if change.size else 0.0
    return Signs(support, signs, scale)


def sampled_signs(trained: Trained) -> Signs:
    """Draw each sign, +1 with probability ``sigmoid(s_k / tau)``, so that its mean is unbiased.

    Source: the sampled mask of FedPM, Isik et al. 2023, arXiv 2209.15328.
    """
    up = sample_bits(trained.after / trained.options["tau"], trained.round, of=trained.after)
    return Signs(trained.support, np.where(up, 1, -1).astype(np.int8), 1.0)


def _change(trained: Trained) -> Entry:
    return signs_of_change(trained.support, trained.after - trained.before, trained.round)


def _signs(trained: Trained) -> Entry:
    return Signs(trained.support, signs_of(trained.after), 1.0)


def _scores(trained: Trained) -> Entry:
    return Sparse(trained.support, trained.after)


def _add_change(pooled: Pooled) -> Moved:
    return pooled.scores + pooled.options["server_lr"] * pooled.mean, {}


def _adopt(pooled: Pooled) -> Moved:
    return pooled.mean, {}


def _adopt_votes(pooled: Pooled) -> Moved:
    return pooled.options["tau"] * pooled.mean, {}


def _adopt_majority(pooled: Pooled) -> Moved:
    """A tie leaves the sign as it was."""
    decided = torch.where(pooled.mean == 0, pooled.scores, pooled.mean)
    return pooled.options["tau"] * torch.where(decided >= 0, 1.0, -1.0), {}


def _accumulate(pooled: Pooled) -> Moved:
    return pooled.scores + pooled.options["tau"] * pooled.mean, {}


def _update_posterior(pooled: Pooled) -> Moved:
    """Count weighted votes into Beta(a, b), and return ``tau * logit(a / (a + b))``.

    FedPM takes the posterior's mode, which is 0 or 1 where all clients agree and then has no logit;
    the mean is ours, with ``beta_prior`` votes on either side. So is the fading of earlier rounds'
    votes, by ``beta_decay`` a round: 0 is FedPM with its reset in every round.
    """
    prior = torch.full_like(pooled.mean, float(pooled.options["beta_prior"]))
    fade = pooled.options["beta_decay"]
    counts = count_votes(pooled.memory, (1.0 + pooled.mean) / 2.0, pooled.clients, fade)
    odds = (prior + counts["ups"]) / (prior + counts["downs"])
    return pooled.options["tau"] * torch.log(odds), counts


RULES: Mapping[str, Rule] = {
    "sign_update": Rule(_change, _add_change, reads=("server_lr",)),
    "mean": Rule(_signs, _adopt_votes, votes=True, reads=("tau",)),
    "vote": Rule(_signs, _adopt_majority, votes=True, broadcasts_signs=True, reads=("tau",)),
    "beta": Rule(
        sampled_signs, _update_posterior, votes=True, reads=("tau", "beta_prior", "beta_decay")
    ),
    "accumulate": Rule(_signs, _accumulate, votes=True, reads=("tau",)),
    "score": Rule(_scores, _adopt),
    "personal": Rule(_signs, _adopt_votes, votes=True, keeps=True, reads=("tau", "own_share")),
}


def check_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check the options that rules take.

    Args:
        options: The method's options.
        defaults: Their defaults: what a rule does not read must be left at these.

    Raises:
        ValueError: if one is out of range, or set though the rule does not read it.
    """
    check_positive(options, "tau", "server_lr", "beta_prior")
    for key in ("beta_decay", "own_share"):
        if not 0 <= options[key] <= 1:
            raise ValueError(f"{key} must be within [0, 1], got {options[key]}")
    readers: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        for key in rule.reads:
            readers.setdefault(key, []).append(name)
    for key, names in readers.items():
        if options["rule"] not in names and options[key] != defaults[key]:
            raise ValueError(
                f"{key} is not read by rule {options['rule']!r}, only by {', '.join(names)}"
            )


def contribution(update: Update, name: str) -> Tensor:
    """Return what a client sent of one layer as values: ``scale * signs``, or scores."""
    entry = update[name]
    if isinstance(entry, Signs):
        return entry.scale * as_tensor(entry.signs).to(torch.float32)
    assert isinstance(entry, Sparse)
    return as_tensor(entry.values)
