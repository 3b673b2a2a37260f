"""How examples fall to clients: each to exactly one, the same for equal seeds.

Every function takes the labels of all examples, ``[n]`` of ints, and returns one sorted int64 array
of positions a client. Randomness is numpy's Philox generator.
"""

import re

import numpy as np
import numpy.typing as npt

from sparsefl import random

IndexArray = npt.NDArray[np.int64]
Part = list[IndexArray]

# Redraws of a Dirichlet partition before it is called impossible.
_ATTEMPTS = 1000


def iid(labels: npt.ArrayLike, num_clients: int, seed: int = 0) -> Part:
    """Deal shuffled examples out: sizes differ by one at most.

    Raises:
        TypeError: if labels or num_clients are no ints.
        ValueError: if there are fewer examples than clients.
    """
    labels = _labels(labels, num_clients)
    return _sorted(np.array_split(_generator(seed).permutation(labels.size), num_clients))


def shards(
    labels: npt.ArrayLike, num_clients: int, shards_per_client: int = 2, seed: int = 0
) -> Part:
    """Sort by label, cut into equal shards, deal each client ``shards_per_client`` of them.

    Shards differ by one example at most where they cannot be equal. The paper's: 200 shards of 300
    MNIST images, 2 for each of 100 clients, most of whom so see two digits.

    Raises:
        TypeError: if labels or num_clients are no ints.
        ValueError: if there are fewer examples than shards, or ``shards_per_client`` is not
            positive.

    Source: McMahan et al. 2017 (arXiv 1602.05629), sec. 3.
    """
    labels = _labels(labels, num_clients)
    count = num_clients * shards_per_client
    if not 0 < count <= labels.size:
        raise ValueError(
            f"num_clients * shards_per_client must lie in [1, {labels.size}], the number of "
            f"examples, got {count}"
        )
    pieces = np.array_split(np.argsort(labels, kind="stable"), count)
    dealt = _generator(seed).permutation(count).reshape(num_clients, shards_per_client)
    return _sorted([np.concatenate([pieces[i] for i in row]) for row in dealt])


def dirichlet(
    labels: npt.ArrayLike,
    num_clients: int,
    alpha: float = 0.5,
    seed: int = 0,
    min_samples: int = 1,
) -> Part:
    """Divide each class by its own draw of shares from ``Dirichlet(alpha, ..., alpha)``.

    Clients differ in their classes and in their numbers of examples. The whole partition is drawn
    again until every client has ``min_samples``.

    Args:
        labels: Labels, ``[n]``.
        num_clients: Number of clients.
        alpha: Concentration: small for clients of few classes, large for equal mixtures.
        seed: Seed of the partition.
        min_samples: Least number of examples of a client.

    Raises:
        TypeError: if labels or num_clients are no ints.
        ValueError: if ``alpha`` is not positive, or no draw gave every client ``min_samples``.

    Source: Yurochkin et al. 2019 (arXiv 1905.12022), sec. 4, as in Li et al. 2021
    (arXiv 2102.02079): what most papers mean by a Dirichlet partition. Hsu, Qi and Brown 2019
    (arXiv 1909.06335), who made it known, draw the mixture of classes of each client instead and
    give all clients equally many examples, which cannot use every example exactly once.
    """
    labels = _labels(labels, num_clients)
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if min_samples * num_clients > labels.size:
        raise ValueError(
            f"{labels.size} examples cannot give {num_clients} clients min_samples={min_samples}"
        )
    generator = _generator(seed)
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(_ATTEMPTS):
        parts = _divide(classes, num_clients, alpha, generator)
        if min(part.size for part in parts) >= min_samples:
            return _sorted(parts)
    raise ValueError(
        f"none of {_ATTEMPTS} draws gave each of {num_clients} clients min_samples={min_samples} "
        f"of {labels.size} examples at alpha={alpha}: ask for fewer clients or a larger alpha"
    )


def by_owner(owners: npt.ArrayLike, num_clients: int) -> Part:
    """Give each of the owners with most examples its own, those of others to nobody.

    Args:
        owners: Who each example is of, ``[n]`` of ints.
        num_clients: Number of clients, in the order of their numbers; of equals the first.

    Raises:
        TypeError: if owners or num_clients are no ints.
        ValueError: if there are fewer owners than clients.
    """
    owners = _labels(owners, num_clients)
    known, counts = np.unique(owners, return_counts=True)
    if num_clients > known.size:
        raise ValueError(
            f"num_clients must be at most {known.size}, who own examples, got {num_clients}"
        )
    most = known[np.sort(np.argsort(-counts, kind="stable")[:num_clients])]
    return [np.flatnonzero(owners == owner) for owner in most]


def split(spec: str, labels: npt.ArrayLike, num_clients: int, seed: int = 0) -> Part:
    """Divide by name: ``"iid"``, ``"dirichlet:ALPHA"`` or ``"shards:PER_CLIENT"``.

    Raises:
        TypeError: if labels or num_clients are no ints.
        ValueError: if ``spec`` is something else, or the division is impossible.
    """
    if spec == "iid":
        return iid(labels, num_clients, seed)
    if match := re.fullmatch(r"dirichlet:(\d+(?:\.\d*)?|\.\d+)", spec):
        return dirichlet(labels, num_clients, float(match[1]), seed)
    if match := re.fullmatch(r"shards:(\d+)", spec):
        return shards(labels, num_clients, int(match[1]), seed)
    raise ValueError(
        f"partition must be iid, dirichlet:ALPHA (dirichlet:0.5) or shards:PER_CLIENT (shards:2), "
        f"got {spec!r}"
    )


def _divide(classes: Part, num_clients: int, alpha: float, generator: np.random.Generator) -> Part:
    pieces: list[Part] = []
    for members in classes:
        shares = generator.dirichlet(np.full(num_clients, alpha))
        ends = np.floor(np.cumsum(shares)[:-1] * members.size + 0.5).astype(np.int64)
        pieces.append(np.split(generator.permutation(members), ends))
    return [np.concatenate(of_client) for of_client in zip(*pieces, strict=True)]


def _labels(labels: npt.ArrayLike, num_clients: int) -> IndexArray:
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"labels must be one row of ints, got {array.dtype} {list(array.shape)}")
    if isinstance(num_clients, bool) or not isinstance(num_clients, int | np.integer):
        raise TypeError(f"num_clients must be an int, got {type(num_clients).__name__}")
    if not 1 <= num_clients <= array.size:
        raise ValueError(
            f"num_clients must lie in [1, {array.size}], the number of examples, got {num_clients}"
        )
    return array.astype(np.int64)


def _generator(seed: int) -> np.random.Generator:
    return random.generator(seed, "partition")


def _sorted(parts: list[IndexArray]) -> Part:
    return [np.sort(part).astype(np.int64) for part in parts]
