"""The weights that pruning may touch, and the exact selection of the k best of them."""

from numbers import Real

import torch
from torch import Tensor, nn

from sparsefl.nn._stand_in import is_pruned
from sparsefl.nn._weights import WeightGroup, find_weights, in_model_order, stays_dense

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def prunable_weights(model: nn.Module, include_dense: bool = False) -> dict[str, nn.Parameter]:
    """List the weights that pruning may touch by parameter name, tied ones once.

    What :func:`left_dense` names is not among them.

    Args:
        model: Any model.
        include_dense: As in :func:`left_dense`.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
        ValueError: if the model has no such layer, or one that is still uninitialised (lazy).
    """
    reasons = left_dense(model, include_dense)
    weights: dict[str, nn.Parameter] = {}
    for group in find_weights(model):
        name, layer = next(iter(group.distinct.items()))
        if isinstance(layer, _LAYERS) and group.is_lazy:
            raise ValueError(f"layer {name!r} is uninitialised: run the model once before pruning")
        if name not in reasons:
            weights[group.names[0]] = layer.get_parameter("weight")
    if not weights:
        listed = [f"{name or 'the model'} ({why})" for name, why in reasons.items()]
        raise ValueError(
            "model has no linear or convolution weight to prune"
            + (f"; left dense: {', '.join(listed)}" if listed else "")
        )
    return weights


def left_dense(model: nn.Module, include_dense: bool = False) -> dict[str, str]:
    """Name the layers that pruning leaves as they are, although they hold a weight matrix, and why.

    They are those that :func:`sparsefl.sparsify` leaves dense, for its reasons, and two kinds more:
    what ``torch.nn.utils.prune`` has pruned already, and depthwise convolutions: a few percent of
    the weights, and each the only path of its channel (as in Evci et al. 2020, arXiv 1911.11134, on
    MobileNet).

    Args:
        model: Any model.
        include_dense: Prune linear and convolution layers too that sparsify leaves dense (1-d, 3-d
            and transposed convolutions, subclasses, other dtypes). It masks their weights once, and
            nothing gets faster there; but the zeros may be wanted for themselves.

    Returns:
        ``{module name: reason}``, or the parameter's name where no layer holds it; biases and norms
        do not count.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    reasons = stays_dense(model)
    for group in find_weights(model):
        if include_dense and _can_be_masked(group):
            for name in group.distinct:
                reasons.pop(name, None)
        spared = next(filter(None, map(_spared, group.distinct.values())), None)
        if spared is not None:
            reasons = {**dict.fromkeys(group.distinct, spared), **reasons}
    return in_model_order(model, reasons)


def _can_be_masked(group: WeightGroup) -> bool:
    """Tell whether only linear and convolution layers use the weight, and it is a Parameter."""
    layers = group.distinct.values()
    return all(isinstance(layer, _LAYERS) and "weight" in layer._parameters for layer in layers)


def _spared(layer: nn.Module) -> str | None:
    """Return why pruning leaves a layer dense that could be sparse, or None."""
    if is_pruned(layer):
        return "pruned by torch.nn.utils.prune already: call prune.remove first"
    groups = getattr(layer, "groups", 1)
    return "depthwise" if isinstance(layer, _LAYERS) and 1 < groups == layer.in_channels else None


def check_density(density: object, name: str = "density") -> float:
    """Return a density in (0, 1] as Python's number.

    Args:
        density: Any real number, numpy's too.
        name: What messages call it.

    Raises:
        TypeError: if ``density`` is not a number.
        ValueError: if it is outside (0, 1].
    """
    if isinstance(density, bool) or not isinstance(density, Real):
        raise TypeError(f"{name} must be a number in (0, 1], got {type(density).__name__}")
    number = float(density)
    if not 0 < number <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {number:g}")
    return number


def keep_largest(scores: Tensor, count: int) -> Tensor:
    """Mark exactly ``count`` entries of the largest scores, ties by the lowest index.

    Selection by the count-th largest value: a stable sort of 1.2 million scores takes about ten
    times as long, and SynFlow selects a hundred times.

    Args:
        scores: ``[n]``, floating point, no NaN.
        count: How many are kept, ``0 <= count <= n``.

    Returns:
        ``[n]`` bool tensor with ``count`` true entries.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    if count == 0:
        return keep
    threshold = scores.kthvalue(scores.numel() - count + 1).values
    torch.gt(scores, threshold, out=keep)
    missing = count - int(keep.sum())
    keep[(scores == threshold).nonzero().flatten()[:missing]] = True
    return keep
