"""The passes of a convolution through the kernels of ``sparsefl.kernels``.

As :mod:`sparsefl.ops._kernel_linear`, of blocks of channels.
"""

from typing import Any

import torch
from torch import Tensor

from sparsefl.kernels.conv2d_plan import BlockConv2dPlan, Geometry, TapList
from sparsefl.ops._kernel_linear import block_plan
from sparsefl.ops._kernel_plan import Blocks
from sparsefl.ops._kernel_weight import constant, gives_dx, held, launcher
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._magnitude import Magnitude
from sparsefl.ops._plan import Conv2dPlan


def product(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    magnitude: Magnitude | None,
    plan: Conv2dPlan,
    size: torch.Size,
) -> Tensor:
    """Return the output, or by a kernel of the input's gradient that, of a packed weight.

    Args:
        kernel: Its name.
        x: Input ``[N, C, H, W]``, or gradient of the output, of any strides.
        weight: As :func:`sparsefl.ops._kernel_weight.packed_weight` gives it.
        bias: Of the output, or None.
        magnitude: That of a sign operator, or None.
        plan: Of the layer, of one group.
        size: The input's shape.

    Returns:
        ``[N, O, P, Q]`` or ``[N, C, H, W]``, channels_last.
    """
    blocks = _blocks(plan)
    found: Tensor = torch.ops.sparsefl.block_conv2d.default(
        *(kernel, x, weight, constant(magnitude), bias),
        *(blocks.lists, blocks.sizes, _flat(blocks), size[2:]),
    )
    return found


def stored_gradient(
    kernel: str, grad: Tensor, x: Tensor, magnitude: Magnitude | None, plan: Conv2dPlan
) -> Tensor:
    """Return the stored elements' gradient, ``[nnz]``: nothing of dense size is written.

    Args:
        kernel: ``"block_conv2d_dw"``.
        grad: Gradient of the output, ``[N, O, P, Q]``.
        x: Input, ``[N, C, H, W]``.
        magnitude: That of a sign operator, or None.
        plan: Where the elements lie.
    """
    blocks = _blocks(plan)
    found = blocks.unpack(
        torch.ops.sparsefl.block_conv2d_dw.default(
            kernel, grad, x, constant(magnitude), blocks.lists, blocks.sizes, _flat(blocks)
        )
    )
    return found if magnitude is None or magnitude.each is None else found * magnitude.each


def _blocks(plan: Conv2dPlan) -> Blocks:
    blocks = held(plan).blocks
    assert blocks is not None
    return blocks


def _flat(blocks: Blocks) -> list[int]:
    """Return a convolution's geometry as operators take it."""
    assert blocks.geometry is not None
    return [length for pair in blocks.geometry for length in pair]


define(
    "block_conv2d(str kernel, Tensor x, Tensor weight, float magnitude, Tensor? bias,"
    " Tensor[] lists, int[] sizes, int[] geometry, SymInt[] input_size) -> Tensor"
)
define(
    "block_conv2d_dw(str kernel, Tensor grad, Tensor x, float scale, Tensor[] lists, int[] sizes,"
    " int[] geometry) -> Tensor"
)


def _geometry(flat: list[int]) -> Geometry:
    kernel, stride, padding, dilation = ((flat[i], flat[i + 1]) for i in range(0, 8, 2))
    return Geometry(kernel, stride, padding, dilation)


def _plan(lists: list[Tensor], sizes: list[int], geometry: list[int]) -> BlockConv2dPlan:
    forward, backward = TapList(*lists[7:9]), TapList(*lists[9:])
    return BlockConv2dPlan(block_plan(lists, sizes), _geometry(geometry), forward, backward)


def _block_conv2d(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    magnitude: float,
    bias: Tensor | None,
    lists: list[Tensor],
    sizes: list[int],
    geometry: list[int],
    input_size: list[int],
) -> Tensor:
    """Return the convolution, or the input's gradient by a kernel of that."""
    arguments: list[Any] = [x, weight, _plan(lists, sizes, geometry)]
    if gives_dx(kernel):
        arguments.append(tuple(input_size))
    if weight.dtype == torch.uint8:
        arguments.append(magnitude)
    if not gives_dx(kernel):
        arguments.append(bias)
    found: Tensor = launcher(kernel)(*arguments)
    return found


def _block_conv2d_dw(
    kernel: str,
    grad: Tensor,
    x: Tensor,
    scale: float,
    lists: list[Tensor],
    sizes: list[int],
    geometry: list[int],
) -> Tensor:
    """Return the weight gradient of the kept blocks, packed ``[nnzb, taps, BN, BK]``."""
    found: Tensor = launcher(kernel)(grad, x, _plan(lists, sizes, geometry), scale=scale)
    return found


# Of whatever device: Triton's interpreter takes tensors on the CPU.
LIBRARY.impl("block_conv2d", _block_conv2d, "CompositeExplicitAutograd")
LIBRARY.impl("block_conv2d_dw", _block_conv2d_dw, "CompositeExplicitAutograd")


@torch.library.register_fake("sparsefl::block_conv2d", lib=LIBRARY)
def _(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    magnitude: float,
    bias: Tensor | None,
    lists: list[Tensor],
    sizes: list[int],
    geometry: list[int],
    input_size: list[int],
) -> Tensor:
    out, inner, *_ = sizes
    if gives_dx(kernel):
        return x.new_empty(x.shape[0], *input_size, inner).permute(0, 3, 1, 2)
    height, width = _geometry(geometry).output_size(x.shape[2], x.shape[3])
    return x.new_empty(x.shape[0], height, width, out).permute(0, 3, 1, 2)


@torch.library.register_fake("sparsefl::block_conv2d_dw", lib=LIBRARY)
def _(
    kernel: str,
    grad: Tensor,
    x: Tensor,
    scale: float,
    lists: list[Tensor],
    sizes: list[int],
    geometry: list[int],
) -> Tensor:
    return x.new_empty(lists[6].shape[0], geometry[0] * geometry[1], *sizes[2:])
