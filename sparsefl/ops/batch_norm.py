"""``batch_norm``: normalisation of channels in batch-last memory, with a residual and a ReLU."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsefl.ops._autograd import fake_norm_backward
from sparsefl.ops._batch_norm import BatchNormFunction
from sparsefl.ops._checks import check_channels, check_same
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._recompute import Recipe, is_held, offer
from sparsefl.ops.batch_last import batch_last, empty_batch_last


class Normalised(NamedTuple):
    """What :func:`batch_norm` gives.

    Attributes:
        y: The normalised input.
        mean: Of each channel, ``[C]``; no gradient flows through it.
        var: Its variance (biased), ``[C]``; no gradient flows through it.
    """

    y: Tensor
    mean: Tensor
    var: Tensor


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> Normalised:
    """Compute ``relu((x - mean) / sqrt(var + eps) * weight + bias + residual)`` in one pass.

    Mean and variance are those of the batch, by channel over all other dimensions, unless they are
    given. A channel is one row of batch-last memory: it is read for its moments and, while it is in
    the cache, again to be normalised. Backward reads ``x`` and the gradient, and finds from ``x``
    where the ReLU let it through (with a residual, from the output, or from the residual where a
    convolution holds that in any case).

    Args:
        x: ``[N, C, ...]``, float32 or float64; moved where it is not in batch-last memory.
        weight: ``[C]``, dtype of ``x``; None: ones.
        bias: ``[C]``, dtype of ``x``; None: zeros.
        residual: What is added before the ReLU, shape and dtype of ``x``, or None.
        relu: Whether the result goes through a ReLU.
        mean: ``[C]``, or None for the batch's.
        var: ``[C]``, given where ``mean`` is.
        eps: What is added to the variance.

    Returns:
        The output, shape and dtype of ``x``, in batch-last memory, and the statistics.

    Raises:
        TypeError: if an argument is no tensor, or of another dtype.
        ValueError: if a shape or device does not fit, or one of ``mean`` and ``var`` is missing.

    Source: Ioffe and Szegedy 2015, "Batch Normalization", alg. 1; moments by stretches as in Chan,
    Golub and LeVeque 1983.
    """
    check_channels(x)
    if (mean is None) != (var is None):
        raise ValueError("mean and var: expected both or neither")
    names = {"weight": weight, "bias": bias, "mean": mean, "var": var}
    channels = [check_same(name, t, x, (x.shape[1],)) for name, t in names.items()]
    weight, bias, mean, var = (None if t is None else t.contiguous() for t in channels)
    residual = check_same("residual", residual, x, tuple(x.shape))
    if residual is not None:
        residual = batch_last(residual)
    x = batch_last(x)
    again = relu and (residual is None or is_held(residual))
    y, mean, var, invstd = BatchNormFunction.apply(
        x, weight, bias, residual, mean, var, eps, relu, again
    )
    if again:
        recipe = Recipe(x, weight, bias, residual, mean, invstd)
        offer(y, recipe, torch.ops.sparsefl.batch_norm_again.default)
    return Normalised(y, mean, var)


def runs_batch_norm(x: Tensor) -> bool:
    """Tell whether :func:`batch_norm` takes ``x``: its dtype, and a device with a kernel."""
    return x.dtype in (torch.float32, torch.float64) and x.device.type in ("cpu", "meta")


define(
    "batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? mean,"
    " Tensor? var, float eps, bool relu) -> (Tensor, Tensor, Tensor, Tensor)"
)
define(
    "batch_norm_again(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor mean,"
    " Tensor invstd, bool relu) -> Tensor"
)
define(
    "batch_norm_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? residual,"
    " Tensor? y, Tensor mean, Tensor invstd, bool batch_statistics, bool relu, int[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::batch_norm", lib=LIBRARY)
def _(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (empty_batch_last(x, *x.shape), *(x.new_empty(x.shape[1]) for _ in range(3)))


@torch.library.register_fake("sparsefl::batch_norm_again", lib=LIBRARY)
def _(x: Tensor, *_: Any) -> Tensor:
    return empty_batch_last(x, *x.shape)


@torch.library.register_fake("sparsefl::batch_norm_backward", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return fake_norm_backward(x, arguments[-1])
