"""A tile of one tap of a convolution's weight gradient: shared by the kernels of gradients."""

import triton
import triton.language as tl


@triton.jit
def conv2d_dw_tile(
    dy_ptr,
    x_ptr,
    n,
    k,
    N,
    K,
    first,
    last,
    stride_dm,
    down,
    right,
    height,
    width,
    out_height,
    out_width,
    step_y,
    step_x,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Return ``dy[pixel, n].T @ x[pixel of the tap, k]``, float32 ``[BLOCK_N, BLOCK_K]``.

    Both images are channels_last; summed over the output's pixels from ``first`` to ``last``, each
    of which the tap finds ``down`` and ``right`` of where the pixel falls.
    """
    n_inside = (n < N)[None, :]
    k_inside = (k < K)[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(first, last, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        y = m // out_width % out_height * step_y + down
        x = m % out_width * step_x + right
        image = (m // (out_height * out_width)).to(tl.int64)
        there = (m < last) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        # Where the tap meets padding the product is zero: neither is read.
        dy_at = m.to(tl.int64)[:, None] * stride_dm + n[None, :]
        dy = tl.load(dy_ptr + dy_at, mask=there[:, None] & n_inside, other=0.0)
        x_at = ((image * height + y) * width + x)[:, None] * K + k[None, :]
        operand = tl.load(x_ptr + x_at, mask=there[:, None] & k_inside, other=0.0)
        if UPCAST:
            dy = dy.to(tl.float32)
            operand = operand.to(tl.float32)
        acc = tl.dot(tl.trans(dy), operand, acc, input_precision=PRECISION)
    return acc
