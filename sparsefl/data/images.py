"""Labelled images in memory and what is cut from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from sparsefl import random

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Info:
    """What a model needs to know of a data set.

    Attributes:
        in_shape: Channels, height and width of an image.
        num_classes: Number of labels, ``0 .. num_classes - 1``.
        mean: Mean that was subtracted, of pixels scaled to [0, 1].
        std: Standard deviation that they were divided by.
    """

    in_shape: tuple[int, int, int]
    num_classes: int
    mean: float
    std: float


def as_dataset(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], most: int, info: Info
) -> TensorDataset:
    """Return pairs of ``(pixel / most - mean) / std``, float32 ``info.in_shape``, and label, int64.

    Args:
        images: Pixels, ``[n, height, width]``, uint8 in 0..most.
        labels: Labels, ``[n]``, uint8.
        most: The largest pixel.
        info: Shape, mean and standard deviation.

    Raises:
        ValueError: if shapes, pixels or labels are not those of ``info``.
    """
    shape = (len(labels), *info.in_shape)
    if images.size != np.prod(shape) or images.shape[-2:] != info.in_shape[1:]:
        raise ValueError(f"images have shape {images.shape} for {len(labels)} labels: {info}")
    if images.size and (images.max() > most or labels.max() >= info.num_classes):
        raise ValueError(f"pixels exceed {most}, or labels {info.num_classes - 1}")
    scale, shift = 1 / (most * info.std), info.mean / info.std
    pixels = images.reshape(shape).astype(np.float32) * np.float32(scale) - np.float32(shift)
    return TensorDataset(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)))


def shuffled(count: int, seed: int, name: str) -> IndexArray:
    """Return 0 .. count - 1 in the order of a seed stream's words, the same on every machine."""
    return np.argsort(random.uniform_bits(seed, name, count), kind="stable").astype(np.int64)


def subset(
    dataset: Dataset[tuple[torch.Tensor, ...]], indices: Sequence[int] | IndexArray
) -> Subset[tuple[torch.Tensor, ...]]:
    """Return the examples of ``dataset`` at ``indices``, without copying them."""
    return Subset(dataset, [int(index) for index in indices])


def labels_of(dataset: Dataset[tuple[torch.Tensor, ...]]) -> IndexArray:
    """Return all labels of a data set of ``(input, label)`` pairs, ``[n]``, int64.

    Raises:
        TypeError: if ``dataset`` has no length.
    """
    if isinstance(dataset, Subset):
        return labels_of(dataset.dataset)[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1].numpy().astype(np.int64)
    if not hasattr(dataset, "__len__"):
        raise TypeError(f"dataset must be map-style, got {type(dataset).__name__}")
    return np.array([int(dataset[i][1]) for i in range(len(dataset))], np.int64)


def hold_out(
    train: Dataset[tuple[torch.Tensor, ...]], count: int = 5000, seed: int = 0
) -> tuple[Subset[tuple[torch.Tensor, ...]], Subset[tuple[torch.Tensor, ...]]]:
    """Split the server's development set off: ``count`` examples, whatever their labels.

    The examples are the first ``count`` in the order of the stream ``hold-out`` of the seed, so
    that they do not depend on clients or partition.

    Args:
        train: The training data.
        count: Size of the development set.
        seed: Seed of the choice.

    Returns:
        The rest and the development set, each in the order of ``train``.

    Raises:
        ValueError: if ``count`` leaves nothing to train on.
    """
    size = len(train)  # type: ignore[arg-type]
    if not 0 <= count < size:
        raise ValueError(f"count must lie in [0, {size}) for {size} training examples, got {count}")
    order = shuffled(size, seed, "hold-out")
    return subset(train, np.sort(order[count:])), subset(train, np.sort(order[:count]))
