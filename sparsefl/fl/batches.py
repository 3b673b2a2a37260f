"""Mini-batches of any map-style dataset, in an order that depends on nothing but its seeds."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from sparsefl import random
from sparsefl.data import Images

Indices: TypeAlias = NDArray[np.int64]


@runtime_checkable
class Dataset(Protocol):
    """A map-style dataset whose items are ``(input, label)``."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int, /) -> Any:
        """Return example ``index``."""


class _Source(Protocol):
    """Where examples come from: reads many at once, and knows the labels where that is cheap."""

    def take(self, indices: Indices) -> list[Any]:
        """Return the parts of the examples at ``indices``, each collated, ``[n, ...]``."""

    def labels(self) -> Tensor | None:
        """Return all labels, ``[n]``, or ``None`` where each would have to be read."""


class _Tensors:
    """A ``TensorDataset``: one index a batch."""

    def __init__(self, dataset: TensorDataset) -> None:
        self._tensors = dataset.tensors

    def take(self, indices: Indices) -> list[Any]:
        rows = torch.from_numpy(indices)
        return [tensor[rows] for tensor in self._tensors]

    def labels(self) -> Tensor | None:
        return self._tensors[1] if len(self._tensors) == 2 else None


class _Chosen:
    """A ``Subset``: its positions, looked up once."""

    def __init__(self, dataset: Subset[Any]) -> None:
        self._indices = np.asarray(dataset.indices, dtype=np.int64)
        self._whole = _source_of(dataset.dataset)

    def take(self, indices: Indices) -> list[Any]:
        return self._whole.take(self._indices[indices])

    def labels(self) -> Tensor | None:
        labels = self._whole.labels()
        return None if labels is None else labels[torch.from_numpy(self._indices)]


class _Joined:
    """A ``ConcatDataset``: each part reads its own examples, which then return to their places."""

    def __init__(self, dataset: ConcatDataset[Any]) -> None:
        self._parts = [_source_of(part) for part in dataset.datasets]
        self._ends = np.asarray(dataset.cumulative_sizes, dtype=np.int64)

    def take(self, indices: Indices) -> list[Any]:
        owner = np.searchsorted(self._ends, indices, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        used = np.unique(owner)
        batches = [
            self._parts[part].take(indices[owner == part] - starts[part]) for part in used.tolist()
        ]
        order = np.concatenate([np.flatnonzero(owner == part) for part in used])
        back = torch.from_numpy(np.argsort(order))
        return [torch.cat(pieces)[back] for pieces in zip(*batches, strict=True)]

    def labels(self) -> Tensor | None:
        parts = [part.labels() for part in self._parts]
        known = [labels for labels in parts if labels is not None]
        return torch.cat(known) if len(known) == len(parts) else None


class _Items:
    """Any other map-style dataset: one example after the other."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def take(self, indices: Indices) -> list[Any]:
        batch: Any = default_collate([self._dataset[int(index)] for index in indices])
        return list(batch) if isinstance(batch, list | tuple) else [batch]

    def labels(self) -> Tensor | None:
        return None


def _source_of(dataset: Any) -> _Source:
    """Choose how to read a dataset; a subclass may read its items otherwise, so it is read so."""
    if type(dataset) is TensorDataset:
        return _Tensors(dataset)
    if type(dataset) is Images:
        return dataset
    if type(dataset) is Subset:
        return _Chosen(dataset)
    if type(dataset) is ConcatDataset:
        return _Joined(dataset)
    return _Items(dataset)


class Reader:
    """Reads batches of a dataset; tensors, and subsets and chains of them, at once.

    Floating-point inputs become ``dtype``, whatever the dataset holds (numpy's default is float64);
    inputs of integers stay as they are. Labels become int64.
    """

    def __init__(self, dataset: Dataset, dtype: torch.dtype = torch.float32) -> None:
        """Open a dataset.

        Args:
            dataset: Map-style, of ``(input, label)`` pairs.
            dtype: Of floating-point inputs: the model's.
        """
        self._source = _source_of(dataset)
        self._dtype = dtype

    def take(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Collate the examples at ``indices`` into ``(inputs [n, ...], labels)``.

        Labels are ``[n]``, or ``[n, positions]`` of sequences.

        Raises:
            TypeError: if the items are not pairs that collate to tensors, or labels no integers.
            ValueError: if labels are not one number an example, or one a position of it.
        """
        batch = self._source.take(indices)
        if len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
            raise TypeError(
                "dataset items must be (input, label) pairs that collate to tensors; for arrays "
                "give torch.utils.data.TensorDataset(inputs, labels)"
            )
        inputs, labels = batch
        if inputs.is_floating_point():
            inputs = inputs.to(self._dtype)
        return inputs, _as_classes(labels)

    def labels(self) -> Tensor | None:
        """Return all labels, int64, or ``None`` where every item would have to be read."""
        labels = self._source.labels()
        return None if labels is None else _as_classes(labels)


def _as_classes(labels: Tensor) -> Tensor:
    """Return labels as int64, one number an example or, of sequences, one a position."""
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be integers, the numbers of classes, got {labels.dtype}")
    if labels.dim() not in (1, 2):
        raise ValueError(
            "labels must be one class number an example, or one a position of a sequence, got "
            f"shape {list(labels.shape[1:])}"
        )
    return labels.to(torch.int64)


def stream(seed: int, round: int, client: int) -> np.random.Generator:
    """Open the random stream of one client in one round: Philox, the same on every machine."""
    return random.generator(seed, f"client {client} in round {round}")


def batch_indices(
    examples: int,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    generator: np.random.Generator,
) -> Iterator[Indices]:
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


def concatenated(
    dataset: Dataset, batch_size: int, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the whole dataset in its own order, ``batch_size`` examples at a time."""
    reader = Reader(dataset, dtype)
    for start in range(0, len(dataset), batch_size):
        yield reader.take(np.arange(start, min(start + batch_size, len(dataset))))
