"""The linear kernels of ``sparsefl.kernels`` as operators: what autograd and the compiler see.

They take a support's blocks as :class:`sparsefl.ops._kernel_plan.Blocks` holds them. Triton is
imported when the first of them runs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsefl.kernels import REGISTRY
from sparsefl.kernels.block_plan import BlockList, BlockPlan
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.ops._library import LIBRARY, define

define(
    "block_product(str kernel, Tensor x, Tensor weight, float magnitude, Tensor? bias,"
    " Tensor[] lists, int[] sizes) -> Tensor"
)
define("block_dw(Tensor grad, Tensor x, float scale, Tensor[] lists, int[] sizes) -> Tensor")
define(
    "masked_dw(Tensor grad, Tensor x, float scale, Tensor words, Tensor offsets, int[] sizes)"
    " -> Tensor"
)


@functools.cache
def launcher(kernel: str) -> Callable[..., Any]:
    """Return what launches a kernel, by its name in ``sparsefl.kernels.REGISTRY``.

    Raises:
        ImportError: where triton is not installed.
    """
    return REGISTRY[kernel].load()


def _plan(lists: list[Tensor], sizes: list[int]) -> BlockPlan:
    out, inner, height, width = sizes
    rows, columns = BlockList(*lists[:3]), BlockList(*lists[3:6])
    return BlockPlan((out, inner), (height, width), rows, columns, lists[6])


def _block_product(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    magnitude: float,
    bias: Tensor | None,
    lists: list[Tensor],
    sizes: list[int],
) -> Tensor:
    """Return ``x @ W.T + bias``, or ``x @ W`` by a kernel of the input's gradient."""
    arguments: list[Any] = [x, weight, _plan(lists, sizes)]
    if weight.dtype == torch.uint8:
        arguments.append(magnitude)
    if not _gives_dx(kernel):
        arguments.append(bias)
    found: Tensor = launcher(kernel)(*arguments)
    return found


def _block_dw(
    grad: Tensor, x: Tensor, scale: float, lists: list[Tensor], sizes: list[int]
) -> Tensor:
    """Return ``(grad.T @ x) * scale`` on the kept blocks, packed ``[nnzb, BN, BK]``."""
    found: Tensor = launcher("block_dw")(grad, x, _plan(lists, sizes), scale=scale)
    return found


def _masked_dw(
    grad: Tensor, x: Tensor, scale: float, words: Tensor, offsets: Tensor, sizes: list[int]
) -> Tensor:
    """Return ``(grad.T @ x) * scale`` at the kept positions, row-major ``[nnz]``."""
    out, inner, nnz = sizes
    plan = MaskPlan((out, inner), nnz, words, offsets)
    found: Tensor = launcher("masked_dw")(grad, x, plan, scale=scale)
    return found


def _gives_dx(kernel: str) -> bool:
    return kernel.endswith("_dx")


for _name, _function in (
    ("block_product", _block_product),
    ("block_dw", _block_dw),
    ("masked_dw", _masked_dw),
):
    # Of whatever device: Triton's interpreter takes tensors on the CPU.
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")


@torch.library.register_fake("sparsefl::block_product", lib=LIBRARY)
def _(kernel: str, x: Tensor, *others: Any) -> Tensor:
    out, inner = others[-1][:2]
    return x.new_empty(x.shape[0], inner if _gives_dx(kernel) else out)


@torch.library.register_fake("sparsefl::block_dw", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, scale: float, lists: list[Tensor], sizes: list[int]) -> Tensor:
    return x.new_empty(lists[-1].shape[0], *sizes[2:])


@torch.library.register_fake("sparsefl::masked_dw", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(others[-1][2])
