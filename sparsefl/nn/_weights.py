"""The weights of a plain torch.nn model that could become sparse, and the masks meant for them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsefl.nn._stand_in import StandIn, effective_weight, is_pruned
from sparsefl.nn._support_layer import SupportLike, as_support
from sparsefl.support import Support

SUPPORTED = (nn.Linear, nn.Conv2d)
_NORMS = (nn.LayerNorm, nn.RMSNorm)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_COMPUTED = "its weight is computed by a parametrization or a hook"
# What find_weights knows of a layer's parameters.
_LISTED = ("weight", "weight_orig", "bias", "bias_orig")


@dataclass
class WeightGroup:
    """One weight and the layers that use it: several where it is tied or a layer is used twice.

    Attributes:
        layers: The layers by every name that they have in the model.
        outsiders: Parameter names under which modules that are no such layers hold the weight.
    """

    layers: dict[str, nn.Module] = field(default_factory=dict)
    outsiders: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the weight, as parameters of the dense model."""
        return [_join(name, "weight") for name in self.layers]

    @property
    def distinct(self) -> dict[str, nn.Module]:
        """The layers by their first name."""
        first: dict[int, str] = {}
        for name, layer in self.layers.items():
            first.setdefault(id(layer), name)
        return {name: self.layers[name] for name in first.values()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        weight = next(iter(self.layers.values())).weight
        assert isinstance(weight, Tensor)
        return tuple(weight.shape)

    @property
    def is_lazy(self) -> bool:
        """Whether the weight has no shape yet."""
        return _is_lazy(next(iter(self.layers.values())))

    def obstacles(self, min_numel: int) -> dict[str, str]:
        """Return why the weight must stay dense, for each layer; empty if it may become sparse."""
        own = {name: _obstacle(layer, min_numel) for name, layer in self.distinct.items()}
        blocked = {name: reason for name, reason in own.items() if reason}
        if self.outsiders:
            return {name: blocked.get(name) or f"tied to {self.outsiders[0]}" for name in own}
        if not blocked:
            return {}
        culprit = next(iter(blocked))
        return {name: reason or f"tied to {_shown(culprit)}" for name, reason in own.items()}

    def pruned_supports(self) -> list[Support]:
        """Return for each layer its mask of torch.nn.utils.prune, else where it is not zero."""
        masks = []
        for layer in self.distinct.values():
            pruned = is_pruned(layer)
            kept = layer.get_buffer("weight_mask") if pruned else effective_weight(layer)
            masks.append(kept.ne(0))
        return [Support.from_mask(mask) for mask in masks]


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _shown(module: str) -> str:
    return module or "the model"


@torch.no_grad()
def mask_once(model: nn.Module, name: str, support: Support) -> None:
    """Zero a weight off a support; where it is pruned already, prune it further.

    Raises:
        ValueError: if a parametrization or a hook computes it.
    """
    layer = model.get_submodule(name.rpartition(".")[0])
    target = layer._buffers["weight_mask"] if is_pruned(layer) else layer._parameters.get("weight")
    if target is None:
        raise ValueError(
            f"masks[{name!r}] cannot be applied: the weight is computed by a parametrization or a "
            "hook; remove that first, or leave it out of masks"
        )
    target.mul_(support.to_mask().to(target.device))


def find_weights(model: nn.Module) -> list[WeightGroup]:
    """List the weights of two or more dimensions, sparsefl's own layers and norms left out."""
    groups: dict[int, WeightGroup] = defaultdict(WeightGroup)
    inside = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (StandIn, *_NORMS)):
            continue
        pruned = module._parameters["weight_orig"] if is_pruned(module) else None
        weight = getattr(module, "weight", None) if pruned is None else pruned
        if not isinstance(weight, Tensor) or not _is_matrix(weight):
            continue
        groups[id(weight if isinstance(weight, nn.Parameter) else module)].layers[name] = module
        inside.add(_join(name, "weight" if pruned is None else "weight_orig"))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in groups and name not in inside:
            groups[id(parameter)].outsiders.append(name)
    return list(groups.values())


def find_other_matrices(model: nn.Module, groups: Sequence[WeightGroup]) -> dict[str, str]:
    """Return why parameters of two or more dimensions that are no layer's ``weight`` stay dense.

    Args:
        model: The model.
        groups: Its weights; what is tied to one is not listed.

    Returns:
        Reasons by the name of the module where it is torch.nn's own (a ``torch.nn.LSTM``), else by
        the name of the parameter.
    """
    found = {}
    tied = {name for group in groups for name in group.outsiders}
    for name, module in model.named_modules():
        if isinstance(module, StandIn | parametrize.ParametrizationList):
            continue
        kind = type(module)
        for parameter, tensor in module._parameters.items():
            full = _join(name, parameter)
            skipped = tensor is None or parameter in _LISTED or full in tied
            if skipped or not _is_matrix(cast("Tensor", tensor)):
                continue
            if kind.__module__.startswith("torch.nn.") and not isinstance(module, _CONTAINERS):
                found[name] = f"{kind.__name__} unsupported"
            else:
                found[full] = f"a parameter of {kind.__name__}, not of a layer"
    return found


def stays_dense(model: nn.Module) -> dict[str, str]:
    """Return why layers and parameters stay dense in ``sparsify`` whatever their mask.

    The one home of this rule: ``sparsify``, pruning and the profile all ask here, so that no
    density is spent where nothing gets faster.

    Returns:
        Reasons by module, or parameter outside layers, in the model's order; norms do not count.
    """
    groups = find_weights(model)
    reasons = find_other_matrices(model, groups)
    for group in groups:
        reasons.update(group.obstacles(0))
    return in_model_order(model, reasons)


def in_model_order(model: nn.Module, reasons: Mapping[str, str]) -> dict[str, str]:
    """Return reasons by the name of a module, or of a parameter, in the order of the model."""
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    place = {name: index for index, name in enumerate(modules)}
    order = sorted(reasons, key=lambda name: place.get(name, place.get(name.rpartition(".")[0], 0)))
    return {name: reasons[name] for name in order}


def _is_lazy(layer: nn.Module) -> bool:
    return any(nn.parameter.is_lazy(p) for p in layer._parameters.values() if p is not None)


def _is_matrix(parameter: Tensor) -> bool:
    return nn.parameter.is_lazy(parameter) or parameter.dim() >= 2


def _obstacle(layer: nn.Module, min_numel: int) -> str | None:
    """Return why this layer cannot have a sparse weight, or None."""
    kind = type(layer).__name__
    if parametrize.is_parametrized(layer, "weight"):
        return _COMPUTED
    if not isinstance(layer, SUPPORTED) or type(layer) not in SUPPORTED:
        if _is_lazy(layer):
            return f"{kind} is uninitialised: run the model once first"
        return f"{kind} unsupported"
    return _changed_by_its_user(layer) or _unfit(layer, min_numel)


def _changed_by_its_user(layer: nn.Linear | nn.Conv2d) -> str | None:
    """Return what makes the layer compute something else than its type does, or None."""
    if "forward" in vars(layer):
        return "its forward is replaced"
    if not isinstance(layer.weight, nn.Parameter) and not is_pruned(layer):
        return _COMPUTED
    if layer.bias is not None and "bias" not in layer._parameters:
        return "its bias is computed by pruning, a parametrization or a hook"
    held = {**layer._parameters, **layer._buffers, **layer._modules}
    more = sorted(set(held) - {"weight", "bias", "weight_orig", "weight_mask"})
    return f"it holds more than weight and bias: {', '.join(more)}" if more else None


def _unfit(layer: nn.Linear | nn.Conv2d, min_numel: int) -> str | None:
    """Return which property of its numbers or sizes keeps the layer dense, or None."""
    if layer.weight.dtype != torch.float32:
        return f"{layer.weight.dtype} unsupported"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r} unsupported"
    if layer.weight.numel() < min_numel:
        return f"{layer.weight.numel()} weights, min_numel={min_numel}"
    return None


def match_masks(
    model: nn.Module, groups: list[WeightGroup], masks: Mapping[str, SupportLike]
) -> list[Support | None]:
    """Return the support that ``masks`` gives to each weight, None where it gives none.

    Raises:
        TypeError: if ``masks`` is no mapping, or a mask neither bool nor a support.
        KeyError: if the model has no parameter of a mask's name.
        ValueError: if a mask covers another shape than the weight, names a parameter that cannot
            be masked, or tied weights are given different masks.
    """
    if not isinstance(masks, Mapping):
        raise TypeError(
            f"masks must be a mapping from parameter names to bool tensors, got "
            f"{type(masks).__name__}"
        )
    home = {name: index for index, group in enumerate(groups) for name in group.names}
    _check_names(model, list(home), masks)
    supports: list[Support | None] = [None] * len(groups)
    for name, mask in masks.items():
        index = home[name]
        if groups[index].is_lazy:
            raise ValueError(
                f"masks[{name!r}]: the layer is uninitialised; run the model once first"
            )
        support = as_support(mask, groups[index].shape, f"masks[{name!r}]")
        if supports[index] not in (None, support):
            raise ValueError(f"masks differ for one tied weight: {', '.join(groups[index].names)}")
        supports[index] = support
    return supports


def _check_names(model: nn.Module, known: list[str], masks: Mapping[str, SupportLike]) -> None:
    """Refuse names of masks that are no weight of the model."""
    listed = ", ".join(known) or "none"
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in masks:
        if name in known:
            continue
        owner = modules.get(name.rpartition(".")[0])
        if isinstance(owner, StandIn):
            raise ValueError(
                f"masks[{name!r}]: the layer is a {type(owner).__name__} already; use its "
                "set_support, or densify the model first"
            )
        if name in parameters and _is_matrix(parameters[name]):
            raise ValueError(
                f"masks[{name!r}]: only a layer's weight can be masked, and "
                f"{type(owner).__name__} reads this parameter itself; leave it out of masks, or "
                "prune it with torch.nn.utils.prune"
            )
        if name in parameters:
            raise ValueError(
                f"masks[{name!r}] names no weight of two or more dimensions; there are: {listed}"
            )
        raise KeyError(f"model has no parameter {name!r} to mask; there are: {listed}")
