"""Batch-last memory: the same tensor with its batch innermost, as the CPU kernels want it."""

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY, define

define("transpose(Tensor x) -> Tensor")
_TRANSPOSE = torch.ops.sparsefl.transpose.default
# Below so many elements an autograd function in Python costs more than torch's slower copy.
_LEAST_TURNED = 1 << 17


def batch_last(x: Tensor) -> Tensor:
    """Return ``x`` with the batch (dimension 0) innermost in memory; values and shape stay.

    A tensor ``[N, C, H, W]`` comes back with the memory order C, H, W, N, that is with strides
    ``(1, H * W * N, W * N, N)``. Elementwise operations keep the strides. A tensor that already
    lies so is returned as it is. Differentiable.

    Args:
        x: ``[N, ...]`` of at least one dimension, any dtype and strides.

    Returns:
        Tensor equal to ``x`` with ``stride(0) == 1``.

    Raises:
        TypeError: if ``x`` is not a tensor.
        ValueError: if ``x`` has no dimension.
    """
    _check(x)
    if lies_batch_last(x):
        return x
    return torch.movedim(_FeatureMajor.apply(x), -1, 0)


def row_major(x: Tensor) -> Tensor:
    """Return ``x`` contiguous, with its batch (dimension 0) outermost: ``batch_last`` undone.

    ``x.contiguous()`` gives the same; for a large tensor in batch-last memory this takes a third of
    its time. Wanted where a dense layer of torch follows a sparse one. A contiguous tensor is
    returned as it is. Differentiable.

    Args:
        x: ``[N, ...]`` of at least one dimension, any dtype and strides.

    Returns:
        Contiguous tensor equal to ``x``.

    Raises:
        TypeError: if ``x`` is not a tensor.
        ValueError: if ``x`` has no dimension.
    """
    _check(x)
    if x.numel() < _LEAST_TURNED or x.is_contiguous():
        return x.contiguous()
    return _RowMajor.apply(x)  # type: ignore[no-any-return]


def lies_batch_last(x: Tensor) -> bool:
    """Tell whether ``x`` ``[N, ...]`` has its batch innermost in memory, and no gaps.

    By its strides: a view to ask would cost a node of the graph, in every layer of a small model.
    """
    size, stride = x.shape, x.stride()
    expected = size[0]
    if stride[0] != 1:
        return False
    for d in range(len(size) - 1, 0, -1):
        if stride[d] != expected and size[d] != 1:
            return False
        expected *= size[d]
    return True


def _check(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dim() == 0:
        raise ValueError("x: expected at least one dimension, got a scalar")


def _feature_major(x: Tensor) -> Tensor:
    """Return ``x`` ``[N, ...]`` as a contiguous ``[..., N]``: a view where it is batch-last."""
    moved = x.t() if x.dim() == 2 else x.movedim(0, -1)
    if moved.is_contiguous():
        return moved
    if x.dim() == 2 and x.is_contiguous() and x.dtype == torch.float32 and x.numel() > 0:
        return _TRANSPOSE(x)
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return moved.contiguous()
    flat = x.contiguous().view(x.shape[0], -1)  # [N, features]
    return _unviewed(_TRANSPOSE(flat), moved.shape)


def _sample_major(x: Tensor) -> Tensor:
    """Return ``x`` ``[..., N]`` as a contiguous ``[N, ...]``."""
    if x.dim() == 2 and x.is_contiguous() and x.dtype == torch.float32 and x.numel() > 0:
        return _TRANSPOSE(x)
    moved = x.movedim(-1, 0)
    if not x.is_contiguous() or x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return moved.contiguous()
    flat = x.view(-1, x.shape[-1])  # [features, N]
    return _unviewed(_TRANSPOSE(flat), moved.shape)


def _unviewed(x: Tensor, shape: torch.Size) -> Tensor:
    """Return a fresh tensor in another shape; autograd refuses in-place operations on its view."""
    result: Tensor = torch.ops.aten._unsafe_view.default(x, shape)
    return result


def empty_batch_last(like: Tensor, *size: int) -> Tensor:
    """Return an uninitialised tensor ``[N, ...]`` with the batch innermost, and no view."""
    strides = [1] * len(size)
    stride = size[0]
    for d in range(len(size) - 1, 0, -1):
        strides[d] = stride
        stride *= size[d]
    return like.new_empty_strided(size, strides)


class _FeatureMajor(torch.autograd.Function):
    """``_feature_major``; the gradient of what was turned is turned back."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        result = _feature_major(x)
        # A view of an input has to be another tensor than the one that the input's view is.
        return result.view_as(result) if x.movedim(0, -1).is_contiguous() else result

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        (x,) = inputs
        # A convolution of torch that gave it would turn its gradient more slowly.
        ctx.turned = x.numel() >= _LEAST_TURNED and x.is_contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _sample_major(grad) if ctx.turned else grad.movedim(-1, 0)


class _RowMajor(torch.autograd.Function):
    """Sample-major memory; the gradient keeps its own."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _sample_major(x.movedim(0, -1))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return grad


@torch.library.register_fake("sparsefl::transpose", lib=LIBRARY)
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[0])
