"""``gather_signs``: the bits of a sign layer's scores, in the order in which a kernel reads them.

Source: Bernstein et al. 2018, "signSGD: Compressed Optimisation for Non-Convex Problems", algorithm
1, for one bit a sign.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsefl.kernels._launch import DTYPES, check_packed, launch_options, on

_BYTES = 512


@triton.jit
def _gather_signs_kernel(scores_ptr, source_ptr, out_ptr, count, BYTES: tl.constexpr):
    byte = tl.program_id(0) * BYTES + tl.arange(0, BYTES)
    bit = tl.arange(0, 8)
    inside = (byte < count)[:, None]
    place = byte.to(tl.int64)[:, None] * 8 + bit[None, :]
    source = tl.load(source_ptr + place, mask=inside, other=0)
    score = tl.load(scores_ptr + source, mask=inside, other=0.0).to(tl.float32)
    # A NaN is no number that is at least 0.
    bits = ((score >= 0) == 0).to(tl.int32) << bit[None, :]
    tl.store(out_ptr + byte, tl.sum(bits, axis=1).to(tl.uint8), mask=byte < count)


def gather_signs_options() -> dict[str, Any]:
    """Return the tile and the launch options."""
    return {"BYTES": _BYTES, **launch_options(num_warps=4, num_stages=1)}


def gather_signs(scores: Tensor, source: Tensor) -> Tensor:
    """Return the signs of some scores: bit ``i`` is set unless ``scores[source[i]] >= 0``.

    Args:
        scores: ``[nnz]``, float32, float16 or bfloat16, contiguous.
        source: Which score each bit is of, ``[n]`` int32, ``n`` a multiple of 8, on the device of
            ``scores``.

    Returns:
        ``[n / 8]`` uint8, lowest bit first.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or a device does not.
    """
    if scores.dtype not in DTYPES or source.dtype != torch.int32:
        raise TypeError(
            f"scores must be float32, float16 or bfloat16 and source int32, got {scores.dtype} and "
            f"{source.dtype}"
        )
    if source.dim() != 1 or source.numel() % 8:
        raise ValueError(f"source must be [n], n % 8 == 0, got {list(source.shape)}")
    source = check_packed("source", source, tuple(source.shape), scores.device)
    count = source.numel() // 8
    out = torch.empty(count, dtype=torch.uint8, device=scores.device)
    if count:
        with on(scores.device):
            _gather_signs_kernel[(triton.cdiv(count, _BYTES),)](
                scores.contiguous(), source, out, count, **gather_signs_options()
            )
    return out
