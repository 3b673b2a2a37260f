"""From a plain torch.nn model to one with sparse layers, and back."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsefl.nn._support_layer import SupportLayer, SupportLike
from sparsefl.nn._weights import WeightGroup, find_weights, match_masks
from sparsefl.nn.batch_last import COUNTERPARTS
from sparsefl.nn.sign import Magnitude, SignConv2d, SignLinear
from sparsefl.nn.sparse import SparseConv2d, SparseLinear
from sparsefl.support import Support

_logger = logging.getLogger(__name__)

_REPORT = "_sparsefl_report"
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Densifiable(Protocol):
    """A sparsefl layer that stands for a torch.nn layer."""

    def dense_state_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shapes and dtypes of that layer's state_dict."""

    def to_dense(self) -> nn.Module:
        """Return that layer, with the same outputs."""


@dataclass(frozen=True)
class SparsifyReport:
    """What :func:`sparsify` did.

    Attributes:
        sparsified: Names of the layers that became sparse.
        left_dense: Name and reason of each layer with a weight that did not.
        batch_last: Names of the norm and pooling layers that now stay in batch-last memory.
    """

    sparsified: tuple[str, ...]
    left_dense: tuple[tuple[str, str], ...]
    batch_last: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a sentence."""
        total = len(self.sparsified) + len(self.left_dense)
        text = f"sparsified {len(self.sparsified)} of {total} layers"
        if self.left_dense:
            text += f"; left dense: {_listed(dict(self.left_dense))}"
        return text


def _listed(reasons: Mapping[str, str]) -> str:
    return ", ".join(f"{name or 'the model'} ({reason})" for name, reason in reasons.items())


@dataclass(frozen=True)
class _Choice:
    """What the weights become."""

    layer: Literal["sparse", "sign"]
    magnitude: Magnitude | Mapping[str, Magnitude]
    seed: int

    def build(self, dense: nn.Module, support: Support, weight_name: str) -> SupportLayer:
        """Return the sparse layer in place of ``dense``, which shares its bias with it."""
        assert isinstance(dense, nn.Linear | nn.Conv2d)
        sparse = self._convert(dense, support, weight_name)
        # The Parameter itself, not a copy: a bias that other layers share stays shared.
        sparse._parameters["bias"] = dense._parameters["bias"]
        _carry_hooks(dense, sparse)
        return sparse

    def _convert(
        self, dense: nn.Linear | nn.Conv2d, support: Support, weight_name: str
    ) -> SupportLayer:
        if self.layer == "sparse":
            if isinstance(dense, nn.Linear):
                return SparseLinear.from_dense(dense, support)
            return SparseConv2d.from_dense(dense, support)
        magnitude = self.magnitude
        if isinstance(magnitude, Mapping):
            if weight_name not in magnitude:
                raise KeyError(f"magnitude has no {weight_name!r}; it has: {', '.join(magnitude)}")
            magnitude = magnitude[weight_name]
        if isinstance(dense, nn.Linear):
            return SignLinear.from_dense(
                dense, support, magnitude, seed=self.seed, name=weight_name
            )
        return SignConv2d.from_dense(dense, support, magnitude, seed=self.seed, name=weight_name)


def sparsify(
    model: nn.Module,
    masks: Mapping[str, SupportLike] | None = None,
    layer: Literal["sparse", "sign"] = "sparse",
    min_numel: int = 0,
    *,
    magnitude: Magnitude | Mapping[str, Magnitude] = "signed_const",
    seed: int = 0,
) -> nn.Module:
    """Return a copy of ``model`` whose masked layers store and compute only the kept weights.

    ``torch.nn.Linear`` and ``torch.nn.Conv2d`` (not their subclasses) become sparse; every other
    layer with a weight stays dense and is named in :func:`report` and in the log. Tied weights stay
    tied, hooks and frozen parameters are kept. With ``layer="sparse"`` the outputs are those of the
    masked model; with ``"sign"`` only the weights' signs are. Where a convolution became sparse,
    batch norm and pooling are swapped for the classes of :mod:`sparsefl.nn.batch_last`. The
    original, and torch's random state, are left untouched.

    Which layers: with ``masks``, those that it names, a mask of nothing but true included (its
    layer can be pruned later). Without, those with a mask of ``torch.nn.utils.prune``, else with
    zeros in their weight; a weight without any stays dense, where dense is faster. A mask of a
    layer that must stay dense (another type, tied to one, less than ``min_numel``) is applied to
    its weight once, with a warning: training may fill the zeros again.

    Args:
        model: A plain model; it may hold sparsefl layers already, which stay as they are.
        masks: ``{parameter name: bool tensor or Support}``, each of the weight's shape.
        layer: ``"sparse"``: real weights; ``"sign"``: :class:`SignLinear` and :class:`SignConv2d`.
        min_numel: Layers with fewer weights (pruned ones included) stay dense.
        magnitude: For sign layers: what their constructor takes, for all, or
            ``{parameter name: ...}``.
        seed: For ``magnitude="kaiming"``; the stream's name is the parameter's.

    Returns:
        The new model, on the same device and in the same training mode.

    Raises:
        TypeError: if an argument, or a mask, is of another type.
        KeyError: if ``masks`` names a parameter that the model lacks; the message lists those it
            has.
        ValueError: if a mask covers another shape than its weight, names a bias or a norm, or
            differs between tied weights; if ``layer`` or ``min_numel`` is out of range.
    """
    _check_arguments(model, layer, min_numel)
    twin = _copy_model(model)
    groups = find_weights(twin)
    given = [None] * len(groups) if masks is None else match_masks(twin, groups, masks)
    choice = _Choice(layer, magnitude, seed)
    replaced: dict[int, nn.Module] = {}
    sparsified: list[str] = []
    left_dense: list[tuple[str, str]] = []
    for group, explicit in zip(groups, given, strict=True):
        reasons = group.obstacles(min_numel)
        support = explicit
        if not reasons and support is None:
            support, reasons = _own_support(group, given_masks=masks is not None)
        if not reasons and support is not None:
            layers, reasons = _convert_group(group, support, choice)
            replaced.update(layers)
        if reasons and explicit is not None:
            group.mask_once(explicit)
            _logger.warning("masked once, training may undo it: %s", _listed(reasons))
        left_dense.extend(reasons.items())
        sparsified.extend(() if reasons else group.distinct)
    twin = _replace_modules(twin, replaced)
    swapped = _swap_batch_last(twin)
    result = SparsifyReport(tuple(sparsified), tuple(left_dense), swapped)
    vars(twin)[_REPORT] = result
    _logger.log(logging.INFO if sparsified else logging.WARNING, "%s", result)
    return twin


def report(model: nn.Module) -> SparsifyReport:
    """Return what :func:`sparsify` did to make ``model``.

    Raises:
        ValueError: if ``sparsify`` did not make it.
    """
    found = vars(model).get(_REPORT)
    if not isinstance(found, SparsifyReport):
        raise ValueError(f"this {type(model).__name__} was not made by sparsify: it has no report")
    return found


def densify(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in plain torch.nn, with the same outputs.

    Every sparsefl layer becomes the torch.nn layer that it stands for, with zeros off its support;
    no sparsefl module is left, and ``torch.export`` works on the result. ``model`` is untouched.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    twin = _copy_model(model)
    vars(twin).pop(_REPORT, None)
    plain = {ours: theirs for theirs, ours in COUNTERPARTS.items()}
    tied: dict[int, nn.Parameter] = {}
    replaced: dict[int, nn.Module] = {}
    for module in twin.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
        elif hasattr(module, "dense_state_shapes"):
            dense = cast("Densifiable", module).to_dense()
            dense._parameters["bias"] = module._parameters["bias"]
            if isinstance(module, SupportLayer):
                weight = cast("nn.Parameter", dense.weight)
                shared = tied.setdefault(id(module._latent), weight)
                if torch.equal(shared, weight):
                    dense.weight = shared
            _carry_hooks(module, dense)
            replaced[id(module)] = dense
    return _replace_modules(twin, replaced)


def _check_arguments(model: object, layer: object, min_numel: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if layer not in ("sparse", "sign"):
        raise ValueError(f"layer must be 'sparse' or 'sign', got {layer!r}")
    if not isinstance(min_numel, int) or isinstance(min_numel, bool):
        raise TypeError(f"min_numel must be an int, got {type(min_numel).__name__}")
    if min_numel < 0:
        raise ValueError(f"min_numel must not be negative, got {min_numel}")


def _copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of modules whose weight a pruning or norm hook computes."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            # deepcopy refuses tensors that are no leaves of the graph.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for hook in module._forward_pre_hooks.values():
            # The copy is of the last forward; the weight may have been trained since.
            if isinstance(hook, prune.BasePruningMethod):
                _apply_pruning(module, hook)
    return twin


def _apply_pruning(module: nn.Module, hook: prune.BasePruningMethod) -> None:
    """Compute a pruned tensor anew, as a leaf, so that the module can be copied again."""
    name = hook._tensor_name
    original = module.get_parameter(f"{name}_orig")
    pruned = original.detach() * module.get_buffer(f"{name}_mask")
    setattr(module, name, pruned.requires_grad_(original.requires_grad))


def _own_support(group: WeightGroup, given_masks: bool) -> tuple[Support | None, dict[str, str]]:
    """Return the support that a weight without an explicit mask has, or why it has none."""
    if given_masks:
        return None, dict.fromkeys(group.distinct, "no mask given")
    supports = group.pruned_supports()
    if any(support != supports[0] for support in supports):
        return None, dict.fromkeys(group.distinct, "tied weights are pruned differently")
    if supports[0].nnz == supports[0].numel:
        return None, dict.fromkeys(group.distinct, "no pruned weight")
    return supports[0], {}


def _convert_group(
    group: WeightGroup, support: Support, choice: _Choice
) -> tuple[dict[int, nn.Module], dict[str, str]]:
    """Return the sparse layers by the id of the dense ones, or why there are none."""
    made = [
        (dense, choice.build(dense, support, group.names[0])) for dense in group.distinct.values()
    ]
    first = made[0][1]
    if any(not torch.equal(first.plan.order, other.plan.order) for _, other in made[1:]):
        # Tied convolutions of different geometry may want their weights in different orders.
        return {}, dict.fromkeys(group.distinct, "tied to a layer with another order of weights")
    for _, other in made[1:]:
        other._parameters[other.latent_name] = first._latent
    return {id(dense): sparse for dense, sparse in made}, {}


def _carry_hooks(source: nn.Module, target: nn.Module) -> None:
    """Copy a module's hooks, those of torch.nn.utils.prune left out."""
    for name in _HOOKS:
        for key, hook in getattr(source, name, {}).items():
            if not isinstance(hook, prune.BasePruningMethod):
                getattr(target, name)[key] = hook
    vars(target)["_is_full_backward_hook"] = vars(source).get("_is_full_backward_hook")


def _replace_modules(model: nn.Module, replaced: dict[int, nn.Module]) -> nn.Module:
    """Put modules in the places of those whose ids are given; return the model."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in replaced:
                parent._modules[name] = replaced[id(child)]
    return replaced.get(id(model), model)


def _swap_batch_last(model: nn.Module) -> tuple[str, ...]:
    """Swap norms and pools for batch-last ones where there is a sparse convolution to feed them."""
    if not any(isinstance(module, SparseConv2d | SignConv2d) for module in model.modules()):
        return ()
    swapped = []
    for name, module in model.named_modules():
        if type(module) in COUNTERPARTS:
            # The counterpart has the same attributes and differs in forward alone.
            module.__class__ = COUNTERPARTS[type(module)]
            swapped.append(name)
    return tuple(swapped)
