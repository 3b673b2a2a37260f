"""What ``gated_conv2d`` takes and gives beside images."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class GatedGeometry:
    """Extents of a 2-d convolution of one group, ``(height, width)`` each; zero padding.

    Raises:
        ValueError: if one is no pair of whole numbers, a padding is negative, or another below 1.
    """

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        """Refuse what is no geometry."""
        for name, pair in vars(self).items():
            least = 0 if name == "padding" else 1
            whole = len(pair) == 2 and all(isinstance(size, int) for size in pair)
            if not whole or min(pair) < least:
                raise ValueError(f"{name} must be two whole numbers from {least} on, got {pair!r}")

    def output_size(self, height: int, width: int) -> Pair:
        """Return height and width of the output of an input of that size."""
        return self._output(0, height), self._output(1, width)

    def sizes(self, height: int, width: int) -> list[int]:
        """Return the operators' ``geometry``: of either axis input, output and the rest."""
        return [
            number
            for axis, size in enumerate((height, width))
            for number in (
                *(size, self._output(axis, size), self.kernel_size[axis], self.stride[axis]),
                *(self.padding[axis], self.dilation[axis]),
            )
        ]

    def _output(self, axis: int, size: int) -> int:
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1


@dataclass(frozen=True)
class GatedOptions:
    """What a gated convolution does beside its tensors.

    Attributes:
        kept: Output channels that a sample keeps at most, from 1 to all.
        all_samples: Whether the batch statistics are of all pairs, not of the open ones alone.
        sigmoid: Whether the gates see the sigmoid of the channels' means.
        relu: Whether the result passes a ReLU.
        eps: Added to the variance.
    """

    kept: int
    all_samples: bool
    sigmoid: bool
    relu: bool
    eps: float


class GatedTensors(NamedTuple):
    """The trained tensors: convolution, gate ``[out, in]`` and ``[out]``, norm ``[out]``."""

    weight: Tensor
    bias: Tensor | None
    gate_weight: Tensor
    gate_bias: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None


class Statistics(NamedTuple):
    """Mean and biased variance ``[out]`` of a batch, and of how many planes ``[out]`` (int64)."""

    mean: Tensor
    variance: Tensor
    planes: Tensor


Result: TypeAlias = tuple[Tensor, Tensor, Statistics | None]
