"""From a plain torch.nn model to one with sparse layers, and back."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from sparsefl.nn._replace import copy_replacing
from sparsefl.nn._stand_in import StandIn
from sparsefl.nn._support_layer import SupportLayer, SupportLike
from sparsefl.nn._weights import (
    WeightGroup,
    find_other_matrices,
    find_weights,
    in_model_order,
    mask_once,
    match_masks,
)
from sparsefl.nn.batch_last import COUNTERPARTS, NORMS
from sparsefl.nn.fused import fuse_norms, restore_torch, unfuse
from sparsefl.nn.gated import GatedConvBN2d, to_plain
from sparsefl.nn.sign import Magnitude, SignConv2d, SignLinear
from sparsefl.nn.sparse import SparseConv2d, SparseLinear
from sparsefl.ops._dispatch import DENSE_ABOVE, layout
from sparsefl.support import Support

_logger = logging.getLogger(__name__)

_REPORT = "_sparsefl_report"


@dataclass(frozen=True)
class SparsifyReport:
    """What :func:`sparsify` did.

    Attributes:
        sparsified: Names of the layers that became sparse.
        left_dense: Name and reason of each layer with a weight that did not.
        batch_last: Names of the norm and pooling layers that now stay in batch-last memory.
        dense_inside: Names of the sparsified layers that compute in dense torch on a scratch
            weight, as their density is above the crossover; parameters, gradients and optimizer
            state are sparse all the same.
        fused: Names of the norms that compute the addition and the ReLU after them, too.
        left_unfused: Name and reason of each module that holds norms and runs as it is written.
    """

    sparsified: tuple[str, ...]
    left_dense: tuple[tuple[str, str], ...]
    batch_last: tuple[str, ...]
    dense_inside: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    left_unfused: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Say it in a sentence."""
        total = len(self.sparsified) + len(self.left_dense)
        text = f"sparsified {len(self.sparsified)} of {total} layers"
        if self.dense_inside:
            text += (
                f", {len(self.dense_inside)} of them dense inside (density above {DENSE_ABOVE}): "
                f"{', '.join(name or 'the model' for name in self.dense_inside)}"
            )
        if self.left_dense:
            text += f"; left dense: {_listed(dict(self.left_dense))}"
        if self.left_unfused:
            text += f"; norms not fused: {_listed(dict(self.left_unfused))}"
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
        """Return the sparse layer in place of ``dense``."""
        assert isinstance(dense, nn.Linear | nn.Conv2d)
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
    fuse: bool = True,
) -> nn.Module:
    """Return a copy of ``model`` whose masked layers store and compute only the kept weights.

    ``torch.nn.Linear`` and ``torch.nn.Conv2d`` (not their subclasses) become sparse; every other
    layer with a weight stays dense and is named in :func:`report` and in the log, and so are sparse
    ones so dense that dense torch computes them faster. Tied weights stay tied, hooks and frozen
    parameters are kept. With ``layer="sparse"`` the outputs are those of the masked model; with
    ``"sign"`` only the weights' signs are. Where a convolution became sparse, norms and pooling
    are swapped for the classes of :mod:`sparsefl.nn.batch_last`, and norms compute what
    follows them (:mod:`sparsefl.nn.fused`). The original, and torch's
    random state, are left untouched.

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
        fuse: Whether norms compute the ReLU, and the addition, that follow them (where torch.fx can
            trace the module that holds them; the report says where not).

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
    groups = find_weights(model)
    given = [None] * len(groups) if masks is None else match_masks(model, groups, masks)
    choice = _Choice(layer, magnitude, seed)
    replaced: dict[nn.Module, nn.Module] = {}
    sparsified: list[str] = []
    left_dense = find_other_matrices(model, groups)
    masked_once: list[tuple[WeightGroup, Support]] = []
    for group, explicit in zip(groups, given, strict=True):
        reasons = group.obstacles(min_numel)
        support = explicit
        if not reasons and support is None:
            support, reasons = _own_support(group, given_masks=masks is not None)
        if not reasons and support is not None:
            layers, reasons = _convert_group(group, support, choice)
            replaced.update(layers)
        if reasons and explicit is not None:
            masked_once.append((group, explicit))
        left_dense.update(reasons)
        sparsified.extend(() if reasons else group.distinct)
    twin = copy_replacing(model, replaced)
    unfuse(twin)
    _mask_once(twin, masked_once, left_dense)
    swapped = _swap_batch_last(twin)
    fused, left_unfused = fuse_norms(twin) if fuse else ((), ())
    ordered = tuple(in_model_order(model, left_dense).items())
    inside = tuple(name for name in sparsified if _is_dense_inside(twin.get_submodule(name)))
    result = SparsifyReport(
        tuple(sparsified), ordered, swapped, inside, fused=fused, left_unfused=left_unfused
    )
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
    Gated layers, for which torch.nn has none, become :class:`PlainGatedConvBN2d`.

    Raises:
        TypeError: if ``model`` is no ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    tied: dict[int, nn.Parameter] = {}
    replaced: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if not isinstance(module, StandIn):
            continue
        dense = replaced[module] = module.to_dense()
        if isinstance(module, SupportLayer):
            weight = cast("nn.Parameter", dense.weight)
            shared = tied.setdefault(id(module._latent), weight)
            if torch.equal(shared, weight):
                dense.weight = shared
    twin = copy_replacing(model, replaced)
    vars(twin).pop(_REPORT, None)
    restore_torch(twin)
    for module in twin.modules():
        if isinstance(module, GatedConvBN2d):
            to_plain(module)
    return twin


def _check_arguments(model: object, layer: object, min_numel: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if layer not in ("sparse", "sign"):
        raise ValueError(f"layer must be 'sparse' or 'sign', got {layer!r}")
    if not isinstance(min_numel, int) or isinstance(min_numel, bool):
        raise TypeError(f"min_numel must be an int, got {type(min_numel).__name__}")
    if min_numel < 0:
        raise ValueError(f"min_numel must not be negative, got {min_numel}")


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
) -> tuple[dict[nn.Module, nn.Module], dict[str, str]]:
    """Return the sparse layers by the dense ones, or why there are none."""
    made = {
        dense: choice.build(dense, support, group.names[0]) for dense in group.distinct.values()
    }
    first, *others = made.values()
    if any(not torch.equal(first.plan.order, other.plan.order) for other in others):
        # Tied convolutions of different geometry may want their weights in different orders.
        return {}, dict.fromkeys(group.distinct, "tied to a layer with another order of weights")
    for other in others:
        other._parameters[other.latent_name] = first._latent
    return dict(made), {}


def _mask_once(
    model: nn.Module, masked: Sequence[tuple[WeightGroup, Support]], reasons: Mapping[str, str]
) -> None:
    """Apply the masks of layers that stay dense, and say so."""
    for group, support in masked:
        for name in group.names:
            mask_once(model, name, support)
        stay = {name: reasons[name] for name in group.distinct}
        _logger.warning("masked once, training may undo it: %s", _listed(stay))


def _is_dense_inside(module: nn.Module) -> bool:
    return isinstance(module, SupportLayer) and layout(module.support) == "dense"


def _swap_batch_last(model: nn.Module) -> tuple[str, ...]:
    """Swap norms and pools for batch-last ones where there is a sparse convolution to feed them."""
    if not any(isinstance(module, SparseConv2d | SignConv2d) for module in model.modules()):
        return ()
    swapped = []
    waiting: list[nn.Module] = []
    for name, module in model.named_modules():
        if type(module) in COUNTERPARTS:
            # The counterpart has the same attributes and differs in forward alone.
            module.__class__ = COUNTERPARTS[type(module)]
            swapped.append(name)
        if isinstance(module, NORMS):
            waiting.append(module)
        elif isinstance(module, nn.Conv2d):
            waiting.clear()
        elif isinstance(module, SparseConv2d | SignConv2d):
            # What a norm gives goes to the next convolution, as far as the order of modules tells.
            for norm in waiting:
                vars(norm)["to_batch_last"] = True
            waiting.clear()
    return tuple(swapped)
