"""Normalisation and pooling that stay in batch-last memory.

A batch-last tensor has shape ``[N, C, H, W]`` and memory ``C, H, W, N``: what the sparse
convolutions give. Plain torch.nn converts it (norms) or loses it (pooling). These classes have
kernels of ours, or take views on which torch's own are native, and compute exactly what their
parents do. For any other input they are their parents.

``torch.nn.Flatten`` needs no counterpart: of a batch-last tensor it gives a view
``[N, C * H * W]`` with strides ``(1, N)``, and elementwise layers keep the strides.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from sparsefl.nn._stand_in import in_transform
from sparsefl.nn._tracing import call_whole, refuse_script
from sparsefl.ops.batch_last import lies_batch_last
from sparsefl.ops.batch_norm import batch_norm, runs_batch_norm
from sparsefl.ops.group_norm import group_norm
from sparsefl.ops.max_pool2d import MOST_TAPS, max_pool2d

# Our max pooling takes 0.55 to 0.75 of torch's time from 1M elements on, seen at batch 64; at 0.5M
# and batches of 20 and 32 torch's, whose autograd is not in Python, is as fast.
_LEAST_POOLED, _LEAST_LANES = 1 << 19, 16


def is_batch_last(x: Tensor) -> bool:
    """Tell whether ``x`` is ``[N, C, H, W]``, ``N > 1``, with the batch innermost in memory."""
    return x.dim() == 4 and x.shape[0] > 1 and lies_batch_last(x)


class BatchLastBatchNorm2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` that keeps batch-last memory, on :func:`sparsefl.ops.batch_norm`.

    Its forward takes two arguments more, with which a block of layers runs as one
    (:mod:`sparsefl.nn.fused`).

    Attributes:
        to_batch_last: Whether an input in other memory is moved to batch-last, for a sparse
            convolution that follows, and not normalised by ``torch.nn``.
    """

    to_batch_last = False

    __prepare_scriptable__ = refuse_script

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Return the normalised ``[N, C, H, W]``, in the memory order of ``x``.

        Args:
            x: ``[N, C, H, W]``.
            residual: What is added to the result, or None.
            relu: Whether a ReLU follows.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        self._check_input_dim(x)
        if not self._runs_kernel(x, residual):
            return _add_and_relu(super().forward(x), residual, relu)
        factor = self._advance()
        known = not self.training and self.running_mean is not None
        out, mean, var = batch_norm(
            x,
            self.weight,
            self.bias,
            residual=residual,
            relu=relu,
            mean=self.running_mean if known else None,
            var=self.running_var if known else None,
            eps=self.eps,
        )
        if factor is not None and self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1]
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(var * (count / (count - 1)), factor)
        return out

    def _runs_kernel(self, x: Tensor, residual: Tensor | None) -> bool:
        """Tell whether the operator computes this; torch computes and refuses all else."""
        # Torch refuses a single value.
        if x.dtype != self._dtype(x.dtype) or x.numel() <= x.shape[1]:
            return False
        return _normalises(x, residual, self.to_batch_last)

    def _dtype(self, otherwise: torch.dtype) -> torch.dtype:
        for tensor in (self.weight, self.running_mean):
            if tensor is not None:
                return tensor.dtype
        return otherwise

    def _advance(self) -> float | None:
        """Count a training step; return how far it moves the running statistics, if at all."""
        if not self.training or not self.track_running_stats:
            return None
        if self.num_batches_tracked is None:
            return 0.0 if self.momentum is None else self.momentum
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            return 1.0 / float(self.num_batches_tracked)
        return self.momentum


class BatchLastGroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` that keeps batch-last memory, on :func:`sparsefl.ops.group_norm`.

    Its forward takes two arguments more, with which a block of layers runs as one
    (:mod:`sparsefl.nn.fused`).

    Attributes:
        to_batch_last: Whether an input ``[N, C, H, W]`` in other memory is moved to batch-last, for
            a sparse convolution that follows, and not normalised by ``torch.nn``.
    """

    to_batch_last = False

    __prepare_scriptable__ = refuse_script

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Return the normalised ``[N, C, ...]``, in the memory order of ``x``.

        Args:
            x: ``[N, C, ...]``.
            residual: What is added to the result, or None.
            relu: Whether a ReLU follows.
        """
        if isinstance(x, Proxy):
            return call_whole(self, x)
        if not self._runs_kernel(x, residual):
            return _add_and_relu(super().forward(x), residual, relu)
        return group_norm(
            x,
            self.num_groups,
            self.weight,
            self.bias,
            residual=residual,
            relu=relu,
            eps=self.eps,
        )

    def _runs_kernel(self, x: Tensor, residual: Tensor | None) -> bool:
        """Tell whether the operator computes this; torch computes and refuses all else."""
        if x.dim() != 4 or x.shape[1] != self.num_channels or x.numel() <= self.num_groups:
            return False
        if self.weight is not None and self.weight.dtype != x.dtype:
            return False
        return _normalises(x, residual, self.to_batch_last)


def _normalises(x: Tensor, residual: Tensor | None, to_batch_last: bool) -> bool:
    """Tell whether the operators normalise ``[N, C, H, W]``, and whether they are to."""
    if not runs_batch_norm(x) or in_transform():
        return False
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        return False
    return to_batch_last or x.permute(1, 2, 3, 0).is_contiguous()


def _add_and_relu(out: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    out = out if residual is None else out + residual
    return F.relu(out) if relu else out


class BatchLastMaxPool2d(nn.MaxPool2d):
    """``torch.nn.MaxPool2d`` that keeps batch-last memory, ``return_indices`` included."""

    __prepare_scriptable__ = refuse_script

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the pooled ``[N, C, OH, OW]``, and the indices where the layer gives them."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        swap = is_batch_last(x)
        if swap and self._runs_kernel(x):
            stride = self.kernel_size if self.stride is None else self.stride
            sizes = map(_pair, (self.kernel_size, stride, self.padding, self.dilation))
            return max_pool2d(x, *sizes, ceil_mode=self.ceil_mode)
        out: Tensor | tuple[Tensor, Tensor] = super().forward(x.transpose(0, 1) if swap else x)
        if not swap:
            return out
        if isinstance(out, tuple):
            return out[0].transpose(0, 1), out[1].transpose(0, 1)
        return out.transpose(0, 1)

    def _runs_kernel(self, x: Tensor) -> bool:
        """Tell whether the operator computes this; torch computes and refuses all else."""
        if self.return_indices or x.shape[0] < _LEAST_LANES or x.numel() < _LEAST_POOLED:
            return False
        kernel, padding = _pair(self.kernel_size), _pair(self.padding)
        if kernel[0] * kernel[1] > MOST_TAPS or padding[0] * 2 > kernel[0]:
            return False
        return padding[1] * 2 <= kernel[1] and runs_batch_norm(x) and not in_transform()


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class BatchLastAvgPool2d(nn.AvgPool2d):
    """``torch.nn.AvgPool2d`` that keeps batch-last memory."""

    __prepare_scriptable__ = refuse_script

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled ``[N, C, OH, OW]``."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        return _pool_samples_as_channels(super().forward, x)


class BatchLastAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """``torch.nn.AdaptiveAvgPool2d`` that keeps batch-last memory."""

    __prepare_scriptable__ = refuse_script

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled ``[N, C, OH, OW]``."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        if self.output_size in (1, (1, 1)) and is_batch_last(x):
            # Torch's own global average gives a gradient in NCHW memory.
            mean = x.permute(1, 2, 3, 0).flatten(1, 2).mean(1)  # [C, N]
            return mean.t()[:, :, None, None]
        return _pool_samples_as_channels(super().forward, x)


def _pool_samples_as_channels(pool: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Pool the view ``[C, N, H, W]``, which is channels_last and so native to torch's pooling."""
    return pool(x.transpose(0, 1)).transpose(0, 1) if is_batch_last(x) else pool(x)


# The layers that compute an addition and a ReLU after them, too.
NORMS = (BatchLastBatchNorm2d, BatchLastGroupNorm)

COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: BatchLastBatchNorm2d,
    nn.GroupNorm: BatchLastGroupNorm,
    nn.MaxPool2d: BatchLastMaxPool2d,
    nn.AvgPool2d: BatchLastAvgPool2d,
    nn.AdaptiveAvgPool2d: BatchLastAdaptiveAvgPool2d,
}
