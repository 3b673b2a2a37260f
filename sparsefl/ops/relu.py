"""``relu``: the positive part, of which the backward pass keeps one bit an element."""

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._relu import ReluFunction

# Elements whose bits lie together, and their bytes (csrc/cpu/relu.h).
_SPAN, _SPAN_BYTES = 512, 64


def relu(x: Tensor) -> Tensor:
    """Compute ``y = max(x, 0)``; ``dx = dy`` where x is not <= 0, else 0.

    Backward keeps which elements passed, one bit each, where torch's keeps ``y``, 32 bits each.
    That spares memory where nothing else keeps ``y``: in front of a layer whose weight is frozen,
    a view, or a sum.

    Args:
        x: Any shape, float32 or float64, on the CPU.

    Returns:
        The shape, dtype and, where ``x`` is dense in memory, strides of ``x``. A NaN stays one.

    Raises:
        TypeError: if ``x`` is no tensor, or of another dtype.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    if not _without_gaps(x):
        x = x.contiguous()
    return ReluFunction.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def _without_gaps(x: Tensor) -> bool:
    """Tell whether the elements lie in memory as those of a permuted contiguous tensor do."""
    if x.is_contiguous():
        return True
    strides = x.stride()
    return x.permute(sorted(range(x.dim()), key=lambda d: -strides[d])).is_contiguous()


define("relu(Tensor x) -> (Tensor, Tensor)")
define("relu_backward(Tensor grad, Tensor passed) -> Tensor")


@torch.library.register_fake("sparsefl::relu", lib=LIBRARY)
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    spans = (x.numel() + _SPAN - 1) // _SPAN
    return torch.empty_like(x), x.new_empty(spans * _SPAN_BYTES, dtype=torch.uint8)


@torch.library.register_fake("sparsefl::relu_backward", lib=LIBRARY)
def _(grad: Tensor, passed: Tensor) -> Tensor:
    return torch.empty_like(grad)
