"""Copying a model with other modules in the place of some."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import prune

from sparsefl.nn._stand_in import effective_weight

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def copy_replacing(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return a deep copy of ``model`` with other modules in the place of some.

    The replacement takes over hooks, what the user has set on the module, and its bias's ties. It
    stands wherever the copy refers to the module: in lists, dicts and attributes too, not only
    where it is registered.

    Args:
        model: The model; it is left as it is.
        replacements: What comes in the place of which module of ``model``.
    """
    memo: dict[int, Any] = {id(old): new for old, new in replacements.items()}
    for old, new in replacements.items():
        bias = old._parameters["bias"]
        if bias is not None:
            # A bias that other layers share stays shared.
            new._parameters["bias"] = memo.setdefault(id(bias), new._parameters["bias"])
    for module in model.modules():
        for value in vars(module).values():
            # deepcopy refuses tensors that are no leaves of the graph, such as pruned weights.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    for old, new in replacements.items():
        _carry_attributes(old, new, memo)
    for module in twin.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                _apply_pruning(module, hook)
    return twin


def _carry_attributes(source: nn.Module, target: nn.Module, memo: dict[int, Any]) -> None:
    """Copy hooks, those of torch.nn.utils.prune left out, and attributes that the user has set."""
    for name in _HOOKS:
        for key, hook in vars(source)[name].items():
            if not isinstance(hook, prune.BasePruningMethod):
                vars(target)[name][key] = copy.deepcopy(hook, memo)
    vars(target)["_is_full_backward_hook"] = vars(source).get("_is_full_backward_hook")
    known = set(vars(nn.Module()))
    for kind in (*type(source).__mro__, *type(target).__mro__):
        known.update(inspect.get_annotations(kind))
    for name, value in vars(source).items():
        if name not in known:
            vars(target)[name] = copy.deepcopy(value, memo)


def _apply_pruning(module: nn.Module, hook: prune.BasePruningMethod) -> None:
    """Compute a pruned tensor anew, as a leaf, so that the module can be copied again.

    The copy is of the last forward; the weight may have been trained since.
    """
    name = hook._tensor_name
    original = module.get_parameter(f"{name}_orig")
    pruned = effective_weight(module, name)
    setattr(module, name, pruned.requires_grad_(original.requires_grad))
