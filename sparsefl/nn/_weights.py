"""The weights of a plain torch.nn model that could become sparse, and the masks meant for them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparsefl.nn._support_layer import SupportLike, as_support
from sparsefl.support import Support

SUPPORTED = (nn.Linear, nn.Conv2d)
_NORMS = (nn.LayerNorm, nn.RMSNorm)


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
    def weight(self) -> Tensor:
        """The effective weight, pruning masks applied."""
        weight = next(iter(self.layers.values())).weight
        assert isinstance(weight, Tensor)
        return weight

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
            mask = layer._buffers.get("weight_mask")
            weight = layer.weight
            assert isinstance(weight, Tensor)
            masks.append((weight if mask is None else mask) != 0)
        return [Support.from_mask(mask) for mask in masks]

    @torch.no_grad()
    def mask_once(self, support: Support) -> None:
        """Zero the weight off a support; where it is pruned already, prune it further.

        Raises:
            ValueError: if a parametrization or a hook computes it.
        """
        mask = support.to_mask().to(self.weight.device)
        for name, layer in self.layers.items():
            target = layer._buffers.get("weight_mask", layer._parameters.get("weight"))
            if target is None:
                raise ValueError(
                    f"masks[{_join(name, 'weight')!r}] cannot be applied: the weight is computed "
                    "by a parametrization or a hook"
                )
            target.mul_(mask)


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _shown(module: str) -> str:
    return module or "the model"


def find_weights(model: nn.Module) -> list[WeightGroup]:
    """List the weights of two or more dimensions, sparsefl's own layers and norms left out."""
    groups: dict[int, WeightGroup] = defaultdict(WeightGroup)
    inside = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "dense_state_shapes") or isinstance(module, _NORMS):
            continue
        pruned = module._parameters.get("weight_orig") if _is_pruned(module) else None
        weight = getattr(module, "weight", None) if pruned is None else pruned
        if not isinstance(weight, Tensor):
            continue
        if not nn.parameter.is_lazy(weight) and weight.dim() < 2:
            continue
        groups[id(weight if isinstance(weight, nn.Parameter) else module)].layers[name] = module
        inside.add(_join(name, "weight" if pruned is None else "weight_orig"))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in groups and name not in inside:
            groups[id(parameter)].outsiders.append(name)
    return list(groups.values())


def _is_pruned(module: nn.Module) -> bool:
    return "weight_mask" in module._buffers


def _obstacle(layer: nn.Module, min_numel: int) -> str | None:
    """Return why this layer cannot have a sparse weight, or None."""
    if not isinstance(layer, SUPPORTED) or type(layer) not in SUPPORTED:
        return f"{type(layer).__name__} unsupported"
    if not isinstance(layer.weight, nn.Parameter) and not _is_pruned(layer):
        return "its weight is computed by a parametrization or a hook"
    if layer.bias is not None and "bias" not in layer._parameters:
        return "its bias is computed by pruning, a parametrization or a hook"
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
        shape = tuple(groups[index].weight.shape)
        support = as_support(mask, shape, f"masks[{name!r}]")
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
        if owner is not None and hasattr(owner, "dense_state_shapes"):
            raise ValueError(
                f"masks[{name!r}]: the layer is a {type(owner).__name__} already; use its "
                "set_support, or densify the model first"
            )
        if name in parameters:
            raise ValueError(
                f"masks[{name!r}] names no weight of two or more dimensions; there are: {listed}"
            )
        raise KeyError(f"model has no parameter {name!r} to mask; there are: {listed}")
