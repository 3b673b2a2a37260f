"""Which clients play a round, and how likely each was to."""

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Rule: TypeAlias = Literal["uniform", "examples", "poisson"]
RULES: tuple[str, ...] = get_args(Rule)


def draw_cohort(
    examples: npt.ArrayLike, size: int, rule: Rule, generator: np.random.Generator
) -> dict[int, float]:
    """Draw clients without replacement, or each by itself.

    "uniform" gives each the same chance; an update then counts by the client's examples, as in
    FedAvg. "examples" gives each a chance in proportion to its examples n_k, and an update counts
    by n_k over that chance: all alike where no chance reaches 1. The mean update is unbiased.
    "poisson" gives each the same chance, independently of the others: ``size`` is what a cohort has
    on average, and one may be empty. Accountants of differential privacy assume it.

    Args:
        examples: Examples of each client, ``[clients]``; who owns none is never drawn.
        size: Clients to draw; everyone who owns an example where there are fewer.
        rule: "uniform", "examples" or "poisson".
        generator: Source of the draw.

    Returns:
        ``{client: chance up to a common factor}``, ascending.
    """
    owned = np.asarray(examples, np.int64)
    eligible = np.flatnonzero(owned > 0)
    size = min(size, eligible.size)
    if rule == "uniform":
        return dict.fromkeys(sorted(generator.choice(eligible, size, replace=False).tolist()), 1.0)
    if rule == "poisson":
        taken = generator.random(eligible.size) < size / max(eligible.size, 1)
        return dict.fromkeys(eligible[taken].tolist(), 1.0)
    chances = inclusion_chances(owned[eligible], size)
    drawn = np.sort(_systematic(chances, size, generator))
    return dict(zip(eligible[drawn].tolist(), chances[drawn].tolist(), strict=True))


def inclusion_chances(examples: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.float64]:
    """Return chances in proportion to the examples that sum to ``size``, none above 1."""
    chances = np.ones(examples.size)
    certain = np.zeros(examples.size, dtype=bool)
    while not certain.all():
        free = examples[~certain]
        chances[~certain] = (size - certain.sum()) * (free / free.sum())
        above = ~certain & (chances >= 1)
        if not above.any():
            break
        chances[above], certain[above] = 1.0, True
    return chances


def _systematic(
    chances: npt.NDArray[np.float64], size: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw ``size`` positions with exactly these chances: equal steps along a shuffled line.

    Source: Madow 1949, "On the theory of systematic sampling, II".
    """
    order = generator.permutation(chances.size)
    ends = np.cumsum(chances[order])
    ends[-1] = size
    passed = np.floor(ends - generator.random()).astype(np.int64)
    return order[np.diff(passed, prepend=-1) > 0]
