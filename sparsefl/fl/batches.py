"""Mini-batches of any map-style dataset, in an order that depends on nothing but its seeds."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset, default_collate


@runtime_checkable
class Dataset(Protocol):
    """A map-style dataset whose items are ``(input, label)``."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return example ``index``."""


class Reader:
    """Reads batches of a dataset: tensors, and subsets of tensors, at once; others one by one."""

    def __init__(self, dataset: Dataset) -> None:
        """Look through the subsets, once."""
        self._source: Any = dataset
        self._indices: NDArray[np.int64] | None = None
        while isinstance(self._source, Subset):
            own = np.asarray(self._source.indices, dtype=np.int64)
            self._indices = own if self._indices is None else own[self._indices]
            self._source = self._source.dataset

    def take(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Collate the examples at ``indices`` into ``(inputs [n, ...], labels [n])``.

        Raises:
            TypeError: if the items are not pairs that collate to tensors.
        """
        indices = indices if self._indices is None else self._indices[indices]
        if isinstance(self._source, TensorDataset):
            rows = torch.from_numpy(indices)
            batch: Any = [tensor[rows] for tensor in self._source.tensors]
        else:
            batch = default_collate([self._source[int(index)] for index in indices])
        if not (
            isinstance(batch, list | tuple)
            and len(batch) == 2
            and all(isinstance(part, Tensor) for part in batch)
        ):
            raise TypeError("dataset items must be (input, label) pairs that collate to tensors")
        return batch[0], batch[1]


def stream(seed: int, round: int, client: int) -> np.random.Generator:
    """Open the random stream of one client in one round: Philox, the same on every machine."""
    return np.random.Generator(np.random.Philox([seed, round, client]))


def batch_indices(
    examples: int,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    generator: np.random.Generator,
) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of each mini-batch of ``epochs`` shuffled passes.

    A last batch of a single example joins the one before it, because batch norm has no variance of
    one value; a client that owns a single example trains on it alone.

    Args:
        examples: Size of the dataset; 0 yields nothing.
        batch_size: Examples a step.
        epochs: Passes over the data.
        max_steps: Stop after this many batches; ``None`` is no limit.
        generator: Source of the order.
    """
    steps = 0
    for _ in range(epochs if examples > 0 else 0):
        order = generator.permutation(examples)
        starts = list(range(0, examples, batch_size))
        if batch_size > 1 and len(starts) > 1 and examples - starts[-1] == 1:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], examples], strict=True):
            if max_steps is not None and steps >= max_steps:
                return
            steps += 1
            yield order[start:end]


def concatenated(dataset: Dataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the whole dataset in its own order, ``batch_size`` examples at a time."""
    reader = Reader(dataset)
    for start in range(0, len(dataset), batch_size):
        yield reader.take(np.arange(start, min(start + batch_size, len(dataset))))
