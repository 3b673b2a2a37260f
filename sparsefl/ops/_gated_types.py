"""What ``gated_conv2d`` takes and gives beside images."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class GatedGeometry:
    """Extents of a 2-d convolution of one group, ``(height, width)`` each; zero padding."""

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

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
        kept: Output channels that a sample keeps at most.
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
