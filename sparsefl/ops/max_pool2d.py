"""``max_pool2d``: the greatest element of each window, in batch-last memory."""

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._max_pool2d import MaxPool2dFunction
from sparsefl.ops.batch_last import batch_last, empty_batch_last

# A position in a window is kept in a byte.
MOST_TAPS = 256
Pair = tuple[int, int]


def max_pool2d(
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    *,
    ceil_mode: bool = False,
) -> Tensor:
    """Compute ``y[n, c, p, q] = max over (r, s) of x[n, c, p * u + r * d - m, q * u + s * d - m]``.

    ``u``, ``d`` and ``m`` are stride, dilation and padding of the dimension; what is padded is
    never the greatest. The samples lie in the lanes. Backward keeps a byte an element of the
    output, where torch keeps eight: the position in the window. Of equal elements it is the first.

    Args:
        x: ``[N, C, H, W]``, float32 or float64; moved where it is not in batch-last memory.
        kernel: Height and width of a window, at most 256 positions.
        stride: From window to window.
        padding: At each side, at most half of the kernel.
        dilation: From position to position in a window.
        ceil_mode: Whether a window may end outside the padded image.

    Returns:
        ``[N, C, OH, OW]``, dtype of ``x``, in batch-last memory.

    Raises:
        TypeError: if ``x`` is no tensor, or of another dtype.
        ValueError: if ``x`` is not four-dimensional, a size is out of range, or no window fits.
    """
    _check(x, kernel, stride, padding, dilation)
    window = [*kernel, *stride, *padding, *dilation]
    size = [_windows(x.shape[2 + d], *window[d::2], ceil_mode=ceil_mode) for d in (0, 1)]
    if min(size) < 1:
        raise ValueError(f"x: no window {kernel} fits into {list(x.shape)}")
    return MaxPool2dFunction.apply(batch_last(x), *size, window)  # type: ignore[no-any-return]


def _windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool
) -> int:
    """Count the windows along a dimension; none starts in the padding after the image."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count


def _check(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    if x.dim() != 4:
        raise ValueError(f"x: expected [N, C, H, W], got {list(x.shape)}")
    for name, pair in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if min(pair) < 1:
            raise ValueError(f"{name}: expected positive sizes, got {pair}")
    if kernel[0] * kernel[1] > MOST_TAPS:
        raise ValueError(f"kernel: expected at most {MOST_TAPS} positions, got {kernel}")
    if min(padding) < 0 or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"padding: expected 0 to half of the kernel {kernel}, got {padding}")


define("max_pool2d(Tensor x, int out_height, int out_width, int[] window) -> (Tensor, Tensor)")
define(
    "max_pool2d_backward(Tensor grad, Tensor taps, int height, int width, int[] window) -> Tensor"
)


@torch.library.register_fake("sparsefl::max_pool2d", lib=LIBRARY)
def _(x: Tensor, out_height: int, out_width: int, window: list[int]) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape[:2]
    taps = x.new_empty((channels, out_height, out_width, batch), dtype=torch.uint8)
    return empty_batch_last(x, batch, channels, out_height, out_width), taps


@torch.library.register_fake("sparsefl::max_pool2d_backward", lib=LIBRARY)
def _(grad: Tensor, taps: Tensor, height: int, width: int, window: list[int]) -> Tensor:
    return empty_batch_last(grad, grad.shape[0], grad.shape[1], height, width)
