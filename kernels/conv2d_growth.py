"""``conv2d_growth``: the largest weight gradients of a convolution among pruned positions.

Source: see :mod:`sparsefl.kernels._growth_search`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._conv2d_dw_tile import conv2d_dw_tile
from sparsefl.kernels._dw_tile import kept_bits
from sparsefl.kernels._growth_search import Filtering, Growth, find_growth
from sparsefl.kernels._launch import (
    check_images,
    check_plan,
    check_same,
    on,
    precision,
    upcasts,
)
from sparsefl.kernels.conv2d_plan import Geometry
from sparsefl.kernels.growth import list_hits
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.kernels.masked_dw import dw_tile_options, dw_tiles


@triton.jit
def _conv2d_growth_kernel(
    dy_ptr,
    x_ptr,
    words_ptr,
    total_ptr,
    index_ptr,
    value_ptr,
    M,
    N,
    K,
    TAPS,
    WORDS,
    room,
    first_index,
    stride_dm,
    height,
    width,
    out_height,
    out_width,
    kernel_width,
    step_y,
    step_x,
    above,
    left,
    between_y,
    between_x,
    threshold,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    # One tap of one tile of channels. Row n of the gradient has K * TAPS columns, taps innermost.
    tap = tl.program_id(0) % TAPS
    tile = tl.program_id(0) // TAPS
    tiles = tl.cdiv(K, BLOCK_K)
    n = tile // tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tile % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    down = tap // kernel_width * between_y - above
    right = tap % kernel_width * between_x - left
    acc = conv2d_dw_tile(
        dy_ptr, x_ptr, n, k, N, K, 0, M, stride_dm, down, right,
        height, width, out_height, out_width, step_y, step_x,
        BLOCK_M, BLOCK_N, BLOCK_K, PRECISION, UPCAST,
    )  # fmt: skip
    column = k * TAPS + tap
    _, _, kept = kept_bits(words_ptr, n, column, N, K * TAPS, WORDS)
    inside = (n < N)[:, None] & (k < K)[None, :]
    row_index = first_index + n * (K * TAPS)
    list_hits(
        acc, kept, inside, threshold, total_ptr, index_ptr, value_ptr, row_index, column, room
    )


def conv2d_growth(dy: Tensor, x: Tensor, plan: MaskPlan, geometry: Geometry, count: int) -> Growth:
    """Find the ``count`` largest ``|g|`` off the mask, ``g`` the weight gradient in float32.

    As :func:`sparsefl.kernels.growth.linear_growth`, of a convolution of one group that is padded
    alike on both sides.

    Args:
        dy: Gradient of the output, ``[M, out, P, Q]``, float32, float16 or bfloat16, copied unless
            it is channels_last.
        x: Input, ``[M, in, H, W]``, of the same dtype, likewise.
        plan: Of the weight ``[out, in, kh, kw]``, on the same device.
        geometry: Of the convolution.
        count: How many, at most the pruned positions.

    Returns:
        Positions and gradients.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not, ``count`` is out of range, or a gradient is not
            a number.
    """
    out, columns = plan.shape
    dy, x = check_images("dy", dy, out), check_images("x", x, columns // geometry.taps)
    check_same("x", x, dy.dtype, dy.device)
    check_plan(plan, x.device)
    expected = (x.shape[0], out, *geometry.output_size(x.shape[2], x.shape[3]))
    if tuple(dy.shape) != expected:
        raise ValueError(f"dy must be {list(expected)} for this x, got {list(dy.shape)}")
    return find_growth(_Conv2dGradient(dy, x, plan, geometry), count)


@dataclass(frozen=True)
class _Conv2dGradient:
    """The gradient of a weight ``[out, in, kh, kw]`` as a matrix ``[out, in * kh * kw]``."""

    dy: Tensor
    x: Tensor
    plan: MaskPlan
    geometry: Geometry

    def sample(self, rows: Tensor) -> Tensor:
        x, (kernel, stride, padding, dilation) = self.x, self.geometry
        # The weight is only asked for its shape.
        weight = x.new_empty(1).expand(rows.numel(), x.shape[1], *kernel)
        asked = (False, True, False)
        of = None, stride, padding, dilation, False, (0, 0), 1
        found: Tensor = torch.ops.aten.convolution_backward.default(
            self.dy[:, rows], x, weight, *of, asked
        )[1]
        return found.flatten(1).float()

    def filter(self, threshold: float, found: Filtering, start: int, stop: int) -> None:
        x, plan, (kernel, stride, padding, dilation) = self.x, self.plan, self.geometry
        pixels = self.dy.permute(0, 2, 3, 1).flatten(0, 2)[:, start:stop]
        shape = (stop - start, x.shape[1])
        options = dw_tile_options((plan.shape[0], x.shape[1]), x.dtype)
        with on(x.device):
            _conv2d_growth_kernel[(dw_tiles(shape, options) * self.geometry.taps,)](
                pixels,
                x,
                plan.words[start:],
                *found,
                pixels.shape[0],
                *shape,
                self.geometry.taps,
                plan.words.shape[1],
                found.indices.numel(),
                start * plan.shape[1],
                pixels.stride(0),
                *x.shape[2:],
                *self.dy.shape[2:],
                kernel[1],
                *stride,
                *padding,
                *dilation,
                float(threshold),
                PRECISION=precision(x.dtype),
                UPCAST=upcasts(x.dtype),
                **options,
            )
