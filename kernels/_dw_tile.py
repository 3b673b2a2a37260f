"""A tile of a weight gradient, and what bitmaps say of it: shared by the kernels of gradients."""

import triton
import triton.language as tl


@triton.jit
def dw_tile(
    dy_ptr,
    x_ptr,
    n,
    k,
    N,
    K,
    first,
    last,
    stride_dm,
    stride_xm,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Return ``(dy[first:last].T @ x[first:last])[n, k]``, float32 ``[BLOCK_N, BLOCK_K]``."""
    n_inside = (n < N)[None, :]
    k_inside = (k < K)[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(first, last, BLOCK_M):
        m = (start + tl.arange(0, BLOCK_M)).to(tl.int64)[:, None]
        dy_at = m * stride_dm + n[None, :]
        dy = tl.load(dy_ptr + dy_at, mask=(m < last) & n_inside, other=0.0)  # [BLOCK_M, BLOCK_N]
        x_at = m * stride_xm + k[None, :]
        x = tl.load(x_ptr + x_at, mask=(m < last) & k_inside, other=0.0)  # [BLOCK_M, BLOCK_K]
        if UPCAST:
            dy = dy.to(tl.float32)
            x = x.to(tl.float32)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)
    return acc


@triton.jit
def kept_bits(words_ptr, n, k, N, K, WORDS):
    """Return where the words of a tile's positions lie, the words, and the bits, 0 off the matrix.

    A plan has fewer than 2**31 positions.
    """
    at = n[:, None] * WORDS + (k // 32)[None, :]
    words = tl.load(words_ptr + at, mask=(n < N)[:, None] & (k < K)[None, :], other=0)
    return at, words, (words >> (k % 32)[None, :]) & 1


@triton.jit
def rank_in_word(words, k):
    """Count the set bits of each word below bit ``k % 32``."""
    rest = words & ((1 << (k % 32)) - 1)[None, :]
    rest = rest - ((rest >> 1) & 0x55555555)
    rest = (rest & 0x33333333) + ((rest >> 2) & 0x33333333)
    rest = (rest + (rest >> 4)) & 0x0F0F0F0F
    rest += rest >> 8
    return (rest + (rest >> 16)) & 0x3F
