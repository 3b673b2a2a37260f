"""Labelled images in memory and what is cut from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        mean: Mean that was subtracted, of pixels scaled to [0, 1]; one a channel for colours.
        std: Standard deviation that they were divided by, likewise.
        label: What reports call the data.
        owners: Who each training example is of, ``[n]`` of ints from 0, where the data say so.
    """

    in_shape: tuple[int, int, int]
    num_classes: int
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    label: str = ""
    owners: IndexArray | None = field(default=None, compare=False, repr=False)


class Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pairs of image and label; pixels stay uint8, a quarter of the memory, until they are read.

    An image is ``(pixel / 255 - mean) / std``, float32 ``info.in_shape``, its label int64.
    """

    def __init__(
        self,
        blocks: Sequence[npt.NDArray[np.uint8]],
        labels: npt.NDArray[np.uint8],
        info: Info,
    ) -> None:
        """Join blocks of images.

        Args:
            blocks: Pixels, each ``[n_i, channels * height * width]``, uint8; memory maps stay so.
            labels: Labels of all images, ``[sum n_i]``, uint8.
            info: Shape, classes, mean and standard deviation.

        Raises:
            ValueError: if numbers of images and labels differ, an image has another size, or a
                label is too large.
        """
        size = int(np.prod(info.in_shape))
        if any(block.ndim != 2 or block.shape[1] != size for block in blocks):
            raise ValueError(f"images must be rows of {size} bytes, {list(info.in_shape)}")
        self._ends = np.cumsum([len(block) for block in blocks], dtype=np.int64)
        if self._ends[-1] != len(labels):
            raise ValueError(f"{self._ends[-1]} images have {len(labels)} labels")
        if len(labels) and labels.max() >= info.num_classes:
            raise ValueError(f"labels exceed {info.num_classes - 1}: {labels.max()}")
        self.info = info
        self._blocks = list(blocks)
        self._labels = torch.from_numpy(labels.astype(np.int64))
        std = torch.tensor(info.std, dtype=torch.float32).reshape(-1, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = torch.tensor(info.mean, dtype=torch.float32).reshape(-1, 1, 1) / std

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one image and its label."""
        images, labels = self.take(np.array([range(len(self))[index]]))
        return images[0], labels[0]

    def take(self, indices: IndexArray) -> list[torch.Tensor]:
        """Return the images at ``indices``, ``[n, *info.in_shape]``, and their labels, ``[n]``."""
        owner = np.searchsorted(self._ends, indices, side="right")
        pixels = np.empty((len(indices), int(np.prod(self.info.in_shape))), np.uint8)
        for number in np.unique(owner).tolist():
            rows = owner == number
            start = self._ends[number] - len(self._blocks[number])
            pixels[rows] = self._blocks[number][indices[rows] - start]
        images = torch.from_numpy(pixels).reshape(-1, *self.info.in_shape).float()
        return [images.mul_(self._scale).sub_(self._shift), self._labels[torch.from_numpy(indices)]]

    def labels(self) -> torch.Tensor:
        """Return all labels, ``[n]``, int64."""
        return self._labels


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
    if not isinstance(info.mean, float) or not isinstance(info.std, float):
        raise ValueError(f"mean and standard deviation must be those of one channel: {info}")
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
    if isinstance(dataset, Images):
        return dataset.labels().numpy().copy()
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
