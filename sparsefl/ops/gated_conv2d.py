"""``gated_conv2d``: convolution, batch norm, gate and ReLU that skip channels sample by sample.

Source: adaptive dynamic pruning, arXiv 2106.06921: every sample keeps the channels of its largest
gates. What a sample's gates close is neither computed nor differentiated here.
"""

import math
from typing import Any

import torch
from torch import Tensor

from sparsefl.ops import _checks, _dispatch
from sparsefl.ops._gated import GatedConv2dFunction
from sparsefl.ops._gated_formula import gated_formula
from sparsefl.ops._gated_types import (
    GatedGeometry,
    GatedOptions,
    GatedTensors,
    Result,
    Statistics,
)
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops.batch_last import row_major


def gated_conv2d(
    x: Tensor,
    tensors: GatedTensors,
    geometry: GatedGeometry,
    options: GatedOptions,
    running: tuple[Tensor, Tensor] | None = None,
    handed: Tensor | None = None,
) -> Result:
    """Compute ``y = relu(g * norm(conv2d(x, weight, bias)))`` with a gate a sample and channel.

    ``g = relu(gate_weight @ p + gate_bias)`` with ``p`` the mean of every input channel, of which
    each sample keeps the ``options.kept`` largest; the others are zero. Input channels that are
    zero in a sample are skipped, and so are output channels whose gate is closed (but with batch
    statistics of all samples).

    Args:
        x: Input, ``[N, in, H, W]``, float32 or float64, any strides.
        tensors: Parameters, dtype of ``x``.
        geometry: Of the convolution.
        options: See :class:`GatedOptions`.
        running: Mean and variance ``[out]`` to normalise with; None: the batch's.
        handed: ``[N, in]`` bool, False where nobody asks for the gradient of ``x``: it is zero
            there. None: all of it is computed. Ignored where ``x`` is not zero outside it.

    Returns:
        ``y`` ``[N, out, P, Q]`` row-major (on other devices than the CPU in the memory format of
        ``x``, and all channels are computed there), which gates are open ``[N, out]`` bool, and
        the batch's statistics where it was normalised with them; the last two without gradients.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape or device does not fit.
    """
    x = _checks.check_operand(x)
    _check(x, tensors, geometry, running, handed)
    out = tensors.weight.shape[0]
    if not 1 <= options.kept <= out:
        raise ValueError(f"kept must be from 1 to the {out} output channels, got {options.kept}")
    if _dispatch.accelerated(x.device):
        return gated_formula(x, tensors, geometry, options, running)
    dense = _dispatch.gated_layout(geometry, (x.shape[2], x.shape[3]), x.device) == "dense"
    y, opened, *statistics = GatedConv2dFunction.apply(
        row_major(x), *tensors, geometry, options, running, handed, dense
    )
    return y, opened, Statistics(*statistics) if running is None else None


def update_running(
    running: tuple[Tensor, Tensor], statistics: Statistics, pixels: int, momentum: float
) -> None:
    """Move running mean and variance ``[out]``, in place, towards a batch's statistics.

    A channel without any value keeps its own, and its variance with a single one.

    Args:
        running: What is moved; the variance towards the unbiased one.
        statistics: Those of the batch.
        pixels: Of a plane.
        momentum: Share of the batch's.

    Raises:
        TypeError: if a dtype differs from the running mean's, or the counts are not int64.
        ValueError: if a shape or device does, or what is moved is not contiguous.
    """
    mean = running[0]
    _checks.check_operand(mean)
    names = ("running mean", "running variance", "mean", "variance")
    for name, tensor in zip(names, (*running, *statistics[:2]), strict=True):
        _checks.check_tensor(name, tensor, (mean.numel(),), mean)
    planes = statistics.planes
    if planes.dtype != torch.int64:
        raise TypeError(f"planes: expected int64, got {planes.dtype}")
    if planes.shape != mean.shape:
        raise ValueError(f"planes: expected {list(mean.shape)}, got {list(planes.shape)}")
    torch.ops.sparsefl.gated_update.default(*running, *statistics, pixels, momentum)


def _check(
    x: Tensor,
    tensors: GatedTensors,
    geometry: GatedGeometry,
    running: tuple[Tensor, Tensor] | None,
    handed: Tensor | None,
) -> None:
    out, channels = tensors.weight.shape[:2]
    if min(out, channels) < 1:
        raise ValueError(f"weight: expected channels, got shape {list(tensors.weight.shape)}")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x: expected [N, {channels}, H, W], got {list(x.shape)}")
    if min(geometry.output_size(x.shape[2], x.shape[3])) < 1:
        raise ValueError(
            f"x: {x.shape[2]}x{x.shape[3]} pixels with padding {geometry.padding} are smaller than "
            f"the kernel {geometry.kernel_size} with dilation {geometry.dilation}"
        )
    planes = x.shape[0] * math.prod(geometry.output_size(x.shape[2], x.shape[3]))
    if running is None and planes < 2:
        raise ValueError(f"x: expected more than one value a channel to normalise, got {planes}")
    shapes = ((out, channels, *geometry.kernel_size), (out,), (out, channels), *3 * [(out,)])
    for name, tensor, shape in zip(GatedTensors._fields, tensors, shapes, strict=True):
        _checks.check_tensor(name, tensor, shape, x)
    for name, tensor in zip(("running mean", "running variance"), running or (), strict=False):
        _checks.check_tensor(name, tensor, (out,), x)
    if handed is not None and (handed.dtype != torch.bool or handed.shape != x.shape[:2]):
        raise ValueError(
            f"handed: expected bool {list(x.shape[:2])}, got {handed.dtype} {list(handed.shape)}"
        )


define("gated_pool(Tensor x) -> (Tensor, Tensor)")
define(
    "gated_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor in_kept, Tensor out_kept,"
    " int[] geometry) -> Tensor"
)
define(
    "gated_conv2d_backward(Tensor grad, Tensor? x, Tensor weight, Tensor? start, Tensor in_kept,"
    " Tensor in_wanted, Tensor out_kept, int[] geometry, int[] wanted) -> (Tensor, Tensor)"
)
define("gated_keep(Tensor logits, int kept) -> (Tensor, Tensor)")
define(
    "gated_update(Tensor(a!) running_mean, Tensor(b!) running_variance, Tensor mean,"
    " Tensor variance, Tensor count, int pixels, float momentum) -> ()"
)
define("gated_moments(Tensor z, Tensor active) -> (Tensor, Tensor, Tensor)")
define(
    "gated_norm(Tensor z, Tensor gate, Tensor active, Tensor mean, Tensor variance,"
    " Tensor? weight, Tensor? bias, float eps, bool relu) -> Tensor"
)
define(
    "gated_norm_backward(Tensor grad, Tensor z, Tensor gate, Tensor active, Tensor mean,"
    " Tensor variance, Tensor? count, Tensor? weight, Tensor? bias, float eps, bool relu)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::gated_pool", lib=LIBRARY)
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.bool)


@torch.library.register_fake("sparsefl::gated_keep", lib=LIBRARY)
def _(logits: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape, dtype=torch.bool)


@torch.library.register_fake("sparsefl::gated_update", lib=LIBRARY)
def _(*_: Any) -> None:
    return None


@torch.library.register_fake("sparsefl::gated_conv2d", lib=LIBRARY)
def _(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    geometry = rest[-1]
    return x.new_empty(x.shape[0], weight.shape[0], geometry[1], geometry[7])


@torch.library.register_fake("sparsefl::gated_conv2d_backward", lib=LIBRARY)
def _(grad: Tensor, x: Tensor | None, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, geometry, wanted = rest
    size = (grad.shape[0], weight.shape[1], geometry[0], geometry[6])
    return (
        grad.new_empty(size if wanted[0] else 0),
        grad.new_empty(weight.shape if wanted[1] else 0),
    )


@torch.library.register_fake("sparsefl::gated_moments", lib=LIBRARY)
def _(z: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels = z.shape[1]
    return (
        z.new_empty(channels),
        z.new_empty(channels),
        active.new_empty(channels, dtype=torch.long),
    )


@torch.library.register_fake("sparsefl::gated_norm", lib=LIBRARY)
def _(z: Tensor, *_: Any) -> Tensor:
    return z.new_empty(z.shape)


@torch.library.register_fake("sparsefl::gated_norm_backward", lib=LIBRARY)
def _(grad: Tensor, z: Tensor, gate: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = z.shape[1]
    norm = (z.new_empty(channels), z.new_empty(channels))
    return (z.new_empty(z.shape), z.new_empty(gate.shape), *norm)
