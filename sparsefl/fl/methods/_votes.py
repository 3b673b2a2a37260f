"""One sampled bit a weight, and how bits of many clients are counted: FedPM's, and HideNseek's.

Source: Isik et al. 2023, "Sparse random networks for communication-efficient federated learning",
arXiv 2209.15328, algorithms 1 and 2.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

# exp stays finite in float32 far below it, and sigmoid is 0 or 1 well above it.
_MAX_LOGIT = 50.0
_NAMES = ("ups", "downs")


def sample_bits(
    logits: npt.NDArray[Any], round: int, of: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.bool_]:
    """Draw each bit, 1 with probability ``sigmoid(logit)``.

    A client has no random stream of its own that the messages do not carry: the draw is Philox
    keyed by what it has learnt, so that equal clients draw equal bits and others do not.

    Args:
        logits: Any shape, float.
        round: Number of the round, part of the key.
        of: What keys the draw; the logits where it is ``None``.
    """
    learnt = np.ascontiguousarray(logits if of is None else of)
    digest = hashlib.blake2b(learnt.tobytes(), digest_size=8).digest()
    key = [int.from_bytes(digest, "little"), round]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    odds = np.exp(np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT))
    drawn: npt.NDArray[np.bool_] = generator.random(logits.shape) * (1.0 + odds) < odds
    return drawn


def count_votes(
    counted: Mapping[str, Tensor], share: Tensor, clients: int, fade: float
) -> dict[str, Tensor]:
    """Add a round's votes to those of earlier rounds, which count ``fade`` times what they did.

    Args:
        counted: "ups" and "downs" so far, float64; empty before the first round.
        share: Share of the votes that are 1, weighted by clients, float64.
        clients: Number of votes a weight.
        fade: 0 forgets the earlier rounds, 1 keeps them.
    """
    ups = clients * share
    votes = {"ups": ups, "downs": clients - ups}
    for name, earlier in counted.items() if fade else ():
        votes[name].add_(earlier, alpha=fade)
    return votes


def entropy_bits(count: int, share: float) -> float:
    """Return ``n H(p) = -n (p log2 p + (1 - p) log2 (1 - p))``."""
    return -count * sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)


def mode_logits(votes: Mapping[str, Tensor], prior: float) -> Tensor:
    """Return the logit of the mode of Beta(a, b), ``log((a - 1) / (b - 1))``, float64.

    Args:
        votes: As of :func:`count_votes`; none of them 0 where ``prior`` is 1.
        prior: a and b without votes, at least 1.
    """
    ups, downs = (votes[name] + (prior - 1) if prior > 1 else votes[name] for name in _NAMES)
    return (ups / downs).log_()
