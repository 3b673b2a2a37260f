"""The weights that pruning may touch, and the exact selection of the k best of them."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """List the weights of linear and convolution layers by parameter name, tied ones once.

    What :func:`left_dense` names is not among them.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
        ValueError: if the model has no such layer, or one that is still uninitialised (lazy).
    """
    _check_model(model)
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, _LAYERS) or _obstacle(module) is not None:
            continue
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise ValueError(f"layer {name!r} is uninitialised: run the model once before pruning")
        if id(weight) not in seen:
            seen.add(id(weight))
            weights[f"{name}.weight" if name else "weight"] = weight
    if not weights:
        reasons = [f"{name or 'the model'} ({why})" for name, why in left_dense(model).items()]
        raise ValueError(
            "model has no linear or convolution weight to prune"
            + (f"; left dense: {', '.join(reasons)}" if reasons else "")
        )
    return weights


def left_dense(model: nn.Module) -> dict[str, str]:
    """Name the layers that pruning leaves as they are, although they hold a weight matrix, and why.

    Depthwise convolutions are among them: a few percent of the weights, and each the only path of
    its channel (as in Evci et al. 2020, arXiv 1911.11134, on MobileNet).

    Args:
        model: Any model.

    Returns:
        ``{module name: reason}``; biases and norms do not count.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``.
    """
    _check_model(model)
    reasons = {name: _obstacle(module) for name, module in model.named_modules()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")


def _obstacle(module: nn.Module) -> str | None:
    """Return why the weights that this module itself holds cannot be pruned, or None."""
    if isinstance(module, _LAYERS):
        if "weight_mask" in module._buffers:
            return "pruned by torch.nn.utils.prune already: call prune.remove first"
        if not isinstance(module.weight, nn.Parameter):
            return "its weight is computed by a parametrization or a hook"
        groups = getattr(module, "groups", 1)
        return "depthwise" if 1 < groups == module.in_channels else None
    # A parametrization holds the tensor from which another module's weight is computed.
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | ParametrizationList):
        return None
    own = module.parameters(recurse=False)
    if any(not nn.parameter.is_lazy(weight) and weight.dim() > 1 for weight in own):
        return f"{type(module).__name__} unsupported"
    return None


def check_density(density: float) -> None:
    """Refuse a density outside (0, 1].

    Raises:
        TypeError: if ``density`` is not a number.
        ValueError: if it is outside (0, 1].
    """
    if isinstance(density, bool) or not isinstance(density, int | float):
        raise TypeError(f"density must be a number in (0, 1], got {type(density).__name__}")
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density must be in (0, 1], got {density}")


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


def split_masks(keep: Tensor, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Cut a flat ``[N]`` selection into one mask a weight, in the weights' order."""
    pieces = keep.split([weight.numel() for weight in weights.values()])
    return {
        name: piece.reshape(weight.shape).to(weight.device)
        for (name, weight), piece in zip(weights.items(), pieces, strict=True)
    }
