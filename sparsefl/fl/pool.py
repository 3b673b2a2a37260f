"""The mean of a cohort, added up from the clients' messages as they come in.

The server holds one message beside its sums: a message is checked whole, added, and let go, so that
the memory does not grow with the cohort and the time grows with the bytes received. Only what a
method wants of every client by itself is gathered.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsefl import codec
from sparsefl.support import Support


@dataclass(frozen=True)
class Mean:
    """What the clients of a round sent, on average.

    Attributes:
        tensors: ``sum_k p_k x_k`` of each tensor, float64: in its shape, or ``[nnz]``, row-major,
            where server and clients share its support. Signs count as ``scale_k * sign_k``.
        clients: Number of updates.
        gathered: What each client sent of the tensors that the wire has gathered, by name.
    """

    tensors: Mapping[str, Tensor]
    clients: int
    gathered: Mapping[str, Sequence[codec.Entry]] = field(default_factory=dict)


class Pool:
    """Adds messages up.

    The weights are not normalised before the end, so that a client's does not depend on the others.

    Attributes:
        gathered: What each client sent of the tensors that are kept as they come, by name.
    """

    def __init__(
        self,
        schema: codec.Schema,
        supports: Mapping[str, Support],
        expected: Iterable[str],
        gathered: Collection[str] = (),
    ) -> None:
        """Begins with nothing added.

        Args:
            schema: Of the messages.
            supports: Those that server and clients share, by name.
            expected: Names of the tensors that every message must bring.
            gathered: Names of those that are kept as they come instead, where a message has them.
        """
        self._expected = frozenset(expected) - frozenset(gathered)
        self._accumulator = codec.Accumulator(
            schema,
            dtype="float64",
            supports=supports,
            left_out=gathered,
            required=self._expected,
            threads=torch.get_num_threads(),
        )
        self._schema, self._supports = schema, supports
        self.gathered: dict[str, list[codec.Entry]] = {name: [] for name in gathered}

    @property
    def clients(self) -> int:
        """Number of updates added."""
        return self._accumulator.messages

    def add(self, message: bytes, weight: float, base: codec.Base) -> None:
        """Add a client's message; one that is refused leaves the sums as they were.

        It is decoded as it is added, and as an update only where tensors are gathered.

        Args:
            message: What the client has sent.
            weight: Its weight, ``n_k``.
            base: What it is coded against.

        Raises:
            CodecError: if it is refused.
            ValueError: if it lacks a tensor.
        """
        update: Mapping[str, codec.Entry] = {}
        if self.gathered:
            update = codec.decode(message, self._schema, base, threads=torch.get_num_threads())
        self._accumulator.add(message, weight, base)
        for name, entries in self.gathered.items():
            if name in update:
                entries.append(update[name])

    def sums(self) -> dict[str, Tensor]:
        """Return ``sum_k n_k x_k`` of every expected tensor, zeros where no message came.

        In the schema's order, float64: in its shape, ``[nnz]`` where its support is shared.
        """
        added, sums = self._accumulator.sum(), {}
        for name in (name for name in self._schema if name in self._expected):
            kept = self._supports.get(name)
            shape = self._schema[name].shape if kept is None else (kept.nnz,)
            came = name in added
            sums[name] = (
                torch.from_numpy(added[name]) if came else torch.zeros(shape, dtype=torch.float64)
            )
        return sums

    def mean(self) -> Mean:
        """Return ``sum_k n_k x_k / sum_k n_k``."""
        means = self._accumulator.mean()
        tensors = {name: torch.from_numpy(mean) for name, mean in means.items()}
        return Mean(tensors, self.clients, self.gathered)

    def add_to(
        self,
        sums: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        supports: Mapping[str, Support],
    ) -> None:
        """Add ``sum_k n_k x_k`` and ``sum_k n_k`` to those of larger supports, in place.

        Raises:
            ValueError: if a support is not part of the larger one.
        """
        own = self._accumulator.weights
        for name, mean in self._accumulator.mean().items():
            part, all_of = self._supports.get(name), supports.get(name)
            kept: Any = ...
            if all_of is not None and part != all_of:
                if part is None or not bool((part.to_mask() <= all_of.to_mask()).all()):
                    raise ValueError(f"{name}: the support of weaker clients is no part of others'")
                kept = part.to_mask()[all_of.to_mask()]
            sums[name][kept] += own[name] * torch.from_numpy(mean)
            weights[name][kept] += own[name]


def merge(
    pools: Collection[Pool], supports: Mapping[str, Support], still: Mapping[str, Tensor]
) -> Mean:
    """Return the mean at each position over the clients that own it.

    Args:
        pools: One for each capability.
        supports: The strongest clients', which hold all others'.
        still: What stands where no client that has answered owns a position, by name; in the
            tensor's shape, or ``[nnz]`` of these supports.

    Raises:
        ValueError: if the supports of a pool are no part of these.

    Source: Diao, Ding, Tarokh 2021, "HeteroFL", arXiv 2010.01264, equations 3 and 4.
    """
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in still.items()}
    weights = {name: torch.zeros_like(value) for name, value in sums.items()}
    for pool in pools:
        pool.add_to(sums, weights, supports)
    tensors = {
        name: torch.where(weights[name] > 0, total / weights[name], still[name].double())
        for name, total in sums.items()
    }
    names = dict.fromkeys(name for pool in pools for name in pool.gathered)
    gathered = {name: [one for pool in pools for one in pool.gathered[name]] for name in names}
    return Mean(tensors, sum(pool.clients for pool in pools), gathered)
