"""What a convolution's operators are told of one size and memory order of its input.

It is found once and kept with the plan: between two small layers' kernels, Python is what takes the
time, and its code and data have to be fetched again into caches that the kernels have filled.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsefl.ops import _dispatch
from sparsefl.ops._autograd import BATCH_LAST, ROW_MAJOR
from sparsefl.ops._layout_table import Kind
from sparsefl.ops._plan import Conv2dPlan


class Conv2dCall(NamedTuple):
    """A convolution of inputs of one size and memory order.

    Attributes:
        layout: What computes it.
        nnz: Kept weights.
        out: Output channels.
        forward: The forward operators' arguments after the bias.
        backward: The backward operators' arguments after the stored elements and magnitudes, up to
            ``wanted``.
        wanted_x: How the input's gradient is to lie, as the backward operators are told.
    """

    layout: _dispatch.Layout
    nnz: int
    out: int
    forward: tuple[Any, ...]
    backward: tuple[Any, ...]
    wanted_x: int


def known_call(
    plan: Conv2dPlan, x: Tensor, stored: Tensor, bias: Tensor | None
) -> Conv2dCall | None:
    """Return how ``x`` is convolved, or None unless all checks of the operands would let them be.

    That is so of contiguous float32 weights on the CPU and an ``x`` of a size met before. All
    checks take 10 us where kernels have filled the caches, 1 % of a small layer's step.
    """
    if torch.compiler.is_compiling() or not isinstance(x, Tensor):
        return None
    call: Conv2dCall | None = plan.calls.get((x.shape, x.stride(), torch.get_num_threads()))
    if call is None or x.dtype is not torch.float32 or not x.is_cpu:
        return None
    fits = _fits(stored, call.nnz) and (bias is None or _fits(bias, call.out))
    return call if fits else None


def _fits(tensor: Tensor, size: int) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.shape == (size,)
        and tensor.is_contiguous()
    )


def call_of(plan: Conv2dPlan, x: Tensor) -> Conv2dCall:
    """Return how ``x`` is convolved.

    Raises:
        ValueError: if ``x`` is not ``[N, in_channels, H, W]`` or smaller than the kernel.
    """
    if torch.compiler.is_compiling() or x.is_meta:
        return _prepare(plan, x)
    key = (x.shape, x.stride(), torch.get_num_threads())
    call = plan.calls.get(key)
    if call is None:
        call = plan.calls[key] = _prepare(plan, x)
    return call  # type: ignore[no-any-return]


def _prepare(plan: Conv2dPlan, x: Tensor) -> Conv2dCall:
    channels = plan.support.shape[1] * plan.groups
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected [N, {channels}, H, W], got {list(x.shape)}")
    height, width = plan.output_size(x.shape[2], x.shape[3])
    if min(height, width) < 1:
        raise ValueError(
            f"x: {x.shape[2]}x{x.shape[3]} pixels with padding {plan.padding} are smaller than the "
            f"kernel {plan.support.shape[2:]} with dilation {plan.dilation}"
        )
    kind: Kind = "pointwise" if plan.pointwise else "conv"
    layout = _dispatch.chosen(plan, kind, x, x.shape[0], height * width)
    geometry = plan.geometry(x.shape[2], x.shape[3])
    return Conv2dCall(
        layout,
        plan.support.nnz,
        plan.support.shape[0],
        (*plan.forward, geometry),
        (*plan.forward, *plan.transposed, geometry),
        BATCH_LAST if x.permute(1, 2, 3, 0).is_contiguous() else ROW_MAJOR,
    )
