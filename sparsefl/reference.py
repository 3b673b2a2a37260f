"""Every operator in a few lines of plain torch: the tests' oracle, a baseline of the benchmarks.

All take row-major operands: a boolean ``mask`` of the weight's shape and the kept values ``[nnz]``
in row-major order. Autograd supplies the gradients.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_weight(values: Tensor, mask: Tensor) -> Tensor:
    """Return the weight ``W`` with ``W[mask] = values`` and zero elsewhere, of ``mask``'s shape."""
    zeros = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(mask, values)


def signs(scores: Tensor) -> Tensor:
    """Return ``sgn(scores)`` with ``sgn(0) = +1``; its gradient is straight-through (identity)."""
    hard = torch.where(scores >= 0, 1.0, -1.0).to(scores.dtype)
    return hard + (scores - scores.detach())


def sparse_linear(x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ W.T + bias``; ``x`` is ``[..., in]``, ``mask`` ``[out, in]``."""
    return F.linear(x, dense_weight(values, mask), bias)


def sparse_conv2d(
    x: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | str = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Return the cross-correlation of ``x`` ``[N, C, H, W]`` with ``W``, plus ``bias``."""
    weight = dense_weight(values, mask)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def sign_linear(
    x: Tensor, scores: Tensor, magnitude: Tensor | float, mask: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return ``sparse_linear`` with the values ``magnitude * sgn(scores)``."""
    return sparse_linear(x, magnitude * signs(scores), mask, bias)


def sign_conv2d(
    x: Tensor,
    scores: Tensor,
    magnitude: Tensor | float,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | str = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Return ``sparse_conv2d`` with the values ``magnitude * sgn(scores)``."""
    values = magnitude * signs(scores)
    return sparse_conv2d(x, values, mask, bias, stride, padding, dilation, groups)


def gates(x: Tensor, weight: Tensor, bias: Tensor, kept: int, sigmoid: bool = False) -> Tensor:
    """Return ``relu(weight @ p + bias)``, ``[N, out]``, the ``kept`` largest of every sample.

    Of equal ones the first are kept. ``p`` is the mean of every channel of ``x`` ``[N, in, H, W]``,
    or the mean's sigmoid.
    """
    p = x.mean((2, 3))
    g = F.relu(F.linear(p.sigmoid() if sigmoid else p, weight, bias))
    largest = g.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return g * torch.zeros_like(g).scatter(1, largest, 1.0)


def gated_moments(z: Tensor, g: Tensor, all_samples: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, biased variance and number of values ``[C]`` of the channels of ``z``.

    Of the samples with an open gate, or of all; of none the mean is 0.
    """
    of = torch.ones_like(g) if all_samples else (g > 0).to(g.dtype)
    of = of[:, :, None, None]
    count = of.sum((0, 2, 3)) * z.shape[2] * z.shape[3]
    mean = (z * of).sum((0, 2, 3)) / count.clamp(min=1)
    variance = ((z - mean[:, None, None]).square() * of).sum((0, 2, 3)) / count.clamp(min=1)
    return mean, variance, count


def gated_norm(
    z: Tensor,
    g: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running: tuple[Tensor, Tensor] | None = None,
    all_samples: bool = False,
    eps: float = 1e-5,
    relu: bool = True,
) -> Tensor:
    """Return ``relu(g * norm(z))``; ``z`` is ``[N, C, H, W]``, ``g`` the gates ``[N, C]``.

    The batch's mean and variance are those of the samples with an open gate, or of all.
    """
    mean, variance, _ = gated_moments(z, g, all_samples) if running is None else (*running, None)
    h = (z - mean[:, None, None]) * (variance[:, None, None] + eps).rsqrt()
    if weight is not None:
        h = h * weight[:, None, None]
    if bias is not None:
        h = h + bias[:, None, None]
    h = h * g[:, :, None, None]
    return F.relu(h) if relu else h


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``relu(norm(x) + residual)``, by the batch's statistics where none are given."""
    y = F.batch_norm(x, mean, var, weight, bias, training=mean is None, eps=eps)
    y = y if residual is None else y + residual
    return F.relu(y) if relu else y


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Return ``relu(norm(x) + residual)``, by the statistics of each sample's groups."""
    y = F.group_norm(x, groups, weight, bias, eps)
    y = y if residual is None else y + residual
    return F.relu(y) if relu else y


def max_pool2d(
    x: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor:
    """Return the greatest element of each window."""
    return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)


def batch_last(x: Tensor) -> Tensor:
    """Return ``x`` in memory order C, H, W, N."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def growth(
    x: Tensor, grad: Tensor, mask: Tensor, count: int, **geometry: Any
) -> tuple[Tensor, Tensor]:
    """Return positions and values of the ``count`` largest weight gradients where ``mask`` is off.

    By increasing position, of equal magnitudes those of the lowest; a linear map without geometry.
    """
    weight = torch.zeros(mask.shape, dtype=x.dtype, requires_grad=True)
    y = F.conv2d(x, weight, None, **geometry) if geometry else F.linear(x, weight)
    (dense,) = torch.autograd.grad(y, weight, grad)
    flat = dense.flatten()
    scores = flat.abs().masked_fill(mask.flatten(), -1.0)
    indices = scores.sort(descending=True, stable=True).indices[:count].sort().values
    return indices, flat[indices]


def pack_bits(kept: Tensor) -> Tensor:
    """Return the bitmap of a flat bool tensor, least significant bit first, zeros past the last."""
    padded = F.pad(kept.to(torch.uint8), (0, -kept.numel() % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=kept.device)).sum(
        1, dtype=torch.uint8
    )


def unpack_bits(bits: Tensor, n: int) -> Tensor:
    """Return the first ``n`` bits of a bitmap as a flat bool tensor."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[:, None] >> shifts & 1).bool().view(-1)[:n]


def fused_add(model: Tensor, values: Tensor, weight: float) -> Tensor:
    """Return ``model + weight * values`` of float32 tensors, rounded once, as a fused operation is.

    The product is exact in float64. Their sum is rounded to odd there, so that rounding it again
    gives the float32 that is nearest to the exact sum.
    """
    product = values.double() * torch.tensor(weight, dtype=torch.float32).double().item()
    other = model.double()
    total = product + other
    # Knuth's exact error of the sum.
    part = total - product
    error = (product - (total - part)) + (other - part)
    bits = total.view(torch.int64)
    is_even = (bits & 1 == 0) & error.ne(0) & total.isfinite()
    toward = torch.where((error > 0) == (total > 0), 1, -1)
    return torch.where(is_even, bits + toward, bits).view(torch.float64).float()


def majority_vote(packed: Tensor, n: int, least: int) -> tuple[Tensor, Tensor]:
    """Return where at least ``least`` of the clients' bitmaps are set, and where ``least - 1`` are.

    ``packed`` is ``[clients, bytes]`` uint8; both results are bool, ``[n]``.
    """
    counts = sum(unpack_bits(row, n).to(torch.int32) for row in packed)
    assert isinstance(counts, Tensor)
    return counts >= least, counts == least - 1


def top_k(x: Tensor, k: int) -> Tensor:
    """Return which ``k`` elements of a flat float32 tensor are largest in magnitude, ties first."""
    keys = x.contiguous().view(torch.int32) & 0x7FFFFFFF
    if k == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    threshold = keys.topk(k, sorted=True).values[-1]
    above, tied = keys > threshold, keys == threshold
    return above | (tied & (tied.cumsum(0) <= k - above.sum()))
