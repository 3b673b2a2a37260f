"""``group_norm``: normalisation of each sample's groups of channels in batch-last memory."""

from typing import Any

import torch
from torch import Tensor

from sparsefl.ops._autograd import fake_norm_backward
from sparsefl.ops._checks import check_channels, check_same
from sparsefl.ops._group_norm import GroupNormFunction
from sparsefl.ops._library import LIBRARY, define
from sparsefl.ops._recompute import Recipe, is_held, offer
from sparsefl.ops.batch_last import batch_last, empty_batch_last


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    relu: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Compute ``relu((x - mean) / sqrt(var + eps) * weight + bias + residual)`` in one pass.

    Mean and variance (biased) are those of a sample's group: ``C / groups`` channels that follow
    each other, over all their positions. In batch-last memory the samples lie in the lanes, and a
    group is one stretch: it is read for its moments and again to be normalised. Backward reads
    ``x`` and the gradient, and finds from ``x`` where the ReLU let it through (with a residual,
    from the output, or from the residual where a convolution holds that in any case).

    Args:
        x: ``[N, C, ...]``, float32 or float64; moved where it is not in batch-last memory.
        groups: How many; it divides ``C``.
        weight: ``[C]``, dtype of ``x``; None: ones.
        bias: ``[C]``, dtype of ``x``; None: zeros.
        residual: What is added before the ReLU, shape and dtype of ``x``, or None.
        relu: Whether the result goes through a ReLU.
        eps: What is added to the variance.

    Returns:
        Shape and dtype of ``x``, in batch-last memory.

    Raises:
        TypeError: if an argument is of another type or dtype.
        ValueError: if a shape or device does not fit, or ``groups`` does not divide the channels.

    Source: Wu and He 2018, "Group Normalization", eq. 1 to 7 (arXiv 1803.08494).
    """
    check_channels(x)
    _check_groups(groups, x.shape[1])
    affine = (
        check_same(name, t, x, (x.shape[1],)) for name, t in (("weight", weight), ("bias", bias))
    )
    weight, bias = (None if t is None else t.contiguous() for t in affine)
    residual = check_same("residual", residual, x, tuple(x.shape))
    if residual is not None:
        residual = batch_last(residual)
    x = batch_last(x)
    again = relu and (residual is None or is_held(residual))
    y, mean, invstd = GroupNormFunction.apply(x, groups, weight, bias, residual, eps, relu, again)
    if again:
        recipe = Recipe(x, weight, bias, residual, mean, invstd)
        offer(y, recipe, torch.ops.sparsefl.group_norm_again.default)
    return y  # type: ignore[no-any-return]


def _check_groups(groups: int, channels: int) -> None:
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"groups: expected an int, got {type(groups).__name__}")
    if groups < 1 or channels == 0 or channels % groups != 0:
        raise ValueError(f"groups: expected a divisor of the {channels} channels, got {groups}")


define(
    "group_norm(Tensor x, int groups, Tensor? weight, Tensor? bias, Tensor? residual, float eps,"
    " bool relu) -> (Tensor, Tensor, Tensor)"
)
define(
    "group_norm_again(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, Tensor mean,"
    " Tensor invstd, bool relu) -> Tensor"
)
define(
    "group_norm_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor? residual,"
    " Tensor? y, Tensor mean, Tensor invstd, bool relu, int[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("sparsefl::group_norm", lib=LIBRARY)
def _(x: Tensor, groups: int, *_: Any) -> tuple[Tensor, ...]:
    statistics = (x.new_empty(groups, x.shape[0]) for _ in range(2))
    return (empty_batch_last(x, *x.shape), *statistics)


@torch.library.register_fake("sparsefl::group_norm_again", lib=LIBRARY)
def _(x: Tensor, *_: Any) -> Tensor:
    return empty_batch_last(x, *x.shape)


@torch.library.register_fake("sparsefl::group_norm_backward", lib=LIBRARY)
def _(grad: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return fake_norm_backward(x, arguments[-1])
