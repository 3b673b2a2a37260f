"""The passes of a linear layer through the kernels of ``sparsefl.kernels``.

Stored elements go in and come out. The kernels are operators, for the compiler, which take a
support's blocks as :class:`sparsefl.ops._kernel_plan.Blocks` holds them; Triton is imported when
the first of them runs.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.kernels.block_plan import BlockList, BlockPlan
from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.ops import _passes
from sparsefl.ops._kernel_weight import constant, gives_dx, held, launcher
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import LinearPlan


def product(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: LinearPlan,
) -> Tensor:
    """Return the output, or by a kernel of the input's gradient that, of a packed weight."""
    blocks, mask = held(plan).blocks, held(plan).mask
    if kernel in _passes.MASKED_PRODUCTS:
        assert mask is not None
        return torch.ops.sparsefl.masked_product.default(  # type: ignore[no-any-return]
            kernel, x, weight, bias, mask.words, mask.offsets, [*mask.shape, mask.nnz]
        )
    assert blocks is not None
    found: Tensor = torch.ops.sparsefl.block_product.default(
        kernel, x, weight, constant(magnitude), bias, blocks.lists, blocks.sizes
    )
    return found


def stored_gradient(
    kernel: str, grad: Tensor, x: Tensor, magnitude: Magnitude | None, plan: LinearPlan
) -> Tensor:
    """Return the stored elements' gradient, ``[nnz]``: nothing of dense size is written.

    Args:
        kernel: ``"block_dw"`` or ``"masked_dw"``.
        grad: Gradient of the output, ``[N, out]``.
        x: Input, ``[N, in]``.
        magnitude: That of a sign operator, or None.
        plan: Where the elements lie.
    """
    scale, (blocks, mask) = constant(magnitude), (held(plan).blocks, held(plan).mask)
    if kernel == "block_dw":
        assert blocks is not None
        found: Tensor = blocks.unpack(
            torch.ops.sparsefl.block_dw.default(grad, x, scale, blocks.lists, blocks.sizes)
        )
    else:
        assert mask is not None
        sizes = [*mask.shape, mask.nnz]
        found = torch.ops.sparsefl.masked_dw.default(
            grad, x, scale, mask.words, mask.offsets, sizes
        ).index_select(0, plan.order)
    return found if magnitude is None or magnitude.each is None else found * magnitude.each


define(
    "block_product(str kernel, Tensor x, Tensor weight, float magnitude, Tensor? bias,"
    " Tensor[] lists, int[] sizes) -> Tensor"
)
define(
    "masked_product(str kernel, Tensor x, Tensor weight, Tensor? bias, Tensor words,"
    " Tensor offsets, int[] sizes) -> Tensor"
)
define("block_dw(Tensor grad, Tensor x, float scale, Tensor[] lists, int[] sizes) -> Tensor")
define(
    "masked_dw(Tensor grad, Tensor x, float scale, Tensor words, Tensor offsets, int[] sizes)"
    " -> Tensor"
)


def block_plan(lists: list[Tensor], sizes: list[int]) -> BlockPlan:
    """Return the plan of an operator's arguments."""
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
    arguments: list[Any] = [x, weight, block_plan(lists, sizes)]
    if weight.dtype == torch.uint8:
        arguments.append(magnitude)
    if not gives_dx(kernel):
        arguments.append(bias)
    found: Tensor = launcher(kernel)(*arguments)
    return found


def _masked_product(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    words: Tensor,
    offsets: Tensor,
    sizes: list[int],
) -> Tensor:
    """Return ``x @ W.T + bias``, or ``x @ W`` by a kernel of the input's gradient."""
    arguments = [] if gives_dx(kernel) else [bias]
    found: Tensor = launcher(kernel)(x, weight, _mask(words, offsets, sizes), *arguments)
    return found


def _mask(words: Tensor, offsets: Tensor, sizes: list[int]) -> MaskPlan:
    out, inner, nnz = sizes
    return MaskPlan((out, inner), nnz, words, offsets)


def _block_dw(
    grad: Tensor, x: Tensor, scale: float, lists: list[Tensor], sizes: list[int]
) -> Tensor:
    """Return ``(grad.T @ x) * scale`` on the kept blocks, packed ``[nnzb, BN, BK]``."""
    found: Tensor = launcher("block_dw")(grad, x, block_plan(lists, sizes), scale=scale)
    return found


def _masked_dw(
    grad: Tensor, x: Tensor, scale: float, words: Tensor, offsets: Tensor, sizes: list[int]
) -> Tensor:
    """Return ``(grad.T @ x) * scale`` at the kept positions, row-major ``[nnz]``."""
    found: Tensor = launcher("masked_dw")(grad, x, _mask(words, offsets, sizes), scale=scale)
    return found


for _name, _function in (
    ("block_product", _block_product),
    ("masked_product", _masked_product),
    ("block_dw", _block_dw),
    ("masked_dw", _masked_dw),
):
    # Of whatever device: Triton's interpreter takes tensors on the CPU.
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")


@torch.library.register_fake("sparsefl::masked_product", lib=LIBRARY)
@torch.library.register_fake("sparsefl::block_product", lib=LIBRARY)
def _(kernel: str, x: Tensor, *others: Any) -> Tensor:
    out, inner = others[-1][:2]
    return x.new_empty(x.shape[0], inner if gives_dx(kernel) else out)


@torch.library.register_fake("sparsefl::block_dw", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, scale: float, lists: list[Tensor], sizes: list[int]) -> Tensor:
    return x.new_empty(lists[-1].shape[0], *sizes[2:])


@torch.library.register_fake("sparsefl::masked_dw", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(others[-1][2])
