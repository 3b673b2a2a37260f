"""What layers hand to the kernels of ``sparsefl.kernels``: packed weights, and who launches.

Stored elements go in. Triton is imported when the first kernel runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsefl.kernels import REGISTRY
from sparsefl.kernels.block_plan import pack_block_signs
from sparsefl.ops import _passes
from sparsefl.ops._kernel_plan import KernelPlan
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._magnitude import Magnitude, kept_weights
from sparsefl.ops._plan import Conv2dPlan, LinearPlan


def packed_weight(
    kernel: str, stored: Tensor, magnitude: Magnitude | None, plan: LinearPlan | Conv2dPlan
) -> Tensor:
    """Return the kept weights as a kernel reads them: blocks, of bits for signs, or row-major.

    Args:
        kernel: Its name.
        stored: Values or scores, ``[nnz]``.
        magnitude: That of a sign operator, or None.
        plan: Where they lie.

    Returns:
        ``[nnzb, BN, BK]`` of the dtype of ``stored``, ``[nnzb, BN, BK / 8]`` uint8, or ``[nnz]``;
        of a convolution ``[nnzb, taps, BN, BK]`` or ``[nnzb, taps, BN, BK / 8]``.
    """
    blocks, rank = held(plan).blocks, held(plan).rank
    if kernel in _passes.MASKED_PRODUCTS:
        assert rank is not None
        return kept_weights(stored, magnitude).index_select(0, rank)
    assert blocks is not None
    if kernel.startswith("sign"):
        if not held(plan).gathers_signs:
            return pack_block_signs(blocks.pack(stored))
        bits: Tensor = torch.ops.sparsefl.gather_signs.default(stored, blocks.source)
        *shape, width = blocks.shape
        return bits.view(-1, *shape, width // 8)
    return blocks.pack(kept_weights(stored, magnitude))


def held(plan: LinearPlan | Conv2dPlan) -> KernelPlan:
    """Return what a plan has for kernels."""
    assert plan.kernels is not None
    return plan.kernels


def constant(magnitude: Magnitude | None) -> float:
    """Return the one magnitude of a sign operator; 1 where it has many, or there is none."""
    one = magnitude is not None and magnitude.each is None
    return magnitude.constant if magnitude is not None and one else 1.0


@functools.cache
def launcher(kernel: str) -> Callable[..., Any]:
    """Return what launches a kernel, by its name in ``sparsefl.kernels.REGISTRY``.

    Raises:
        ImportError: where triton is not installed.
    """
    return REGISTRY[kernel].load()


def gives_dx(kernel: str) -> bool:
    """Tell whether a kernel computes the gradient of an input."""
    return kernel.endswith("_dx")


define("gather_signs(Tensor scores, Tensor source) -> Tensor")


def _gather_signs(scores: Tensor, source: Tensor) -> Tensor:
    found: Tensor = launcher("gather_signs")(scores, source)
    return found


# Of whatever device: Triton's interpreter takes tensors on the CPU.
LIBRARY.impl("gather_signs", _gather_signs, "CompositeExplicitAutograd")


@torch.library.register_fake("sparsefl::gather_signs", lib=LIBRARY)
def _(scores: Tensor, source: Tensor) -> Tensor:
    return source.new_empty(source.shape[0] // 8, dtype=torch.uint8)
