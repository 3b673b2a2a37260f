"""Taking over the supports of a checkpoint before its values are loaded."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsefl.nn._carry import RetiredParameter, optimizer_slots, successor_of
from sparsefl.nn._state import BITMAP, has_support, read_support
from sparsefl.nn._support_layer import SupportLayer, as_support
from sparsefl.support import Support


def load_supports(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give every sparse layer the support that it has in ``state_dict``, as ``set_support`` does.

    ``load_state_dict`` refuses a checkpoint with other supports than the model's. Call this first
    where they are meant to change; it loads no values::

        sparsefl.nn.load_supports(model, state_dict)
        model.load_state_dict(state_dict)

    Where it raises, no layer has changed.

    Args:
        model: The model with the layers.
        state_dict: A state_dict of such a model; layers that it lacks keep their support, those
            tied to one that it has take that one's.
        optimizer: The optimizer that trains the model, if any.

    Raises:
        ValueError: if a support in ``state_dict`` is malformed or covers another shape than the
            layer's weight, tied layers have different ones, or ``optimizer`` does not hold the
            latent of a trained layer.
    """
    changes = []
    for tied in _tied_layers(model):
        support = _common_support(tied, state_dict)
        if support is None:
            continue
        for prefix, layer in _owners_first(tied):
            # A frozen layer may be one that the optimizer was not given.
            held = optimizer
            if optimizer is not None and not isinstance(layer._latent, RetiredParameter):
                unheld = not optimizer_slots(optimizer, layer._latent)
                held = None if unheld and not layer._latent.requires_grad else optimizer
                layer._slots(held, prefix)
            changes.append((layer, support, held))
    for layer, support, held in changes:
        layer.set_support(support, held)


def _tied_layers(model: nn.Module) -> list[dict[str, SupportLayer]]:
    """Return the layers by the prefix of their entries, those that share a latent together."""
    tied: defaultdict[int, dict[str, SupportLayer]] = defaultdict(dict)
    for name, module in model.named_modules():
        if isinstance(module, SupportLayer):
            latent = module._latent
            live = successor_of(latent)[0] if isinstance(latent, RetiredParameter) else latent
            tied[id(live)][f"{name}." if name else ""] = module
    return list(tied.values())


def _owners_first(tied: Mapping[str, SupportLayer]) -> list[tuple[str, SupportLayer]]:
    """Return the layers with those last that a change of a tied one has left behind."""
    return sorted(tied.items(), key=lambda item: isinstance(item[1]._latent, RetiredParameter))


def _common_support(
    tied: Mapping[str, SupportLayer], state_dict: Mapping[str, Any]
) -> Support | None:
    """Return the one support that tied layers have in ``state_dict``, None if they have none.

    Raises:
        ValueError: if it is malformed, covers another shape, differs between the layers, or they
            cannot share it.
    """
    found = {
        prefix: as_support(
            read_support(state_dict, prefix), tuple(layer.support.shape), prefix + BITMAP
        )
        for prefix, layer in tied.items()
        if has_support(state_dict, prefix)
    }
    if not found:
        return None
    support = next(iter(found.values()))
    if any(other != support for other in found.values()):
        names = ", ".join(prefix + BITMAP for prefix in found)
        raise ValueError(f"state_dict has different supports for one tied weight: {names}")
    (_, first), *others = _owners_first(tied)
    if isinstance(first._latent, RetiredParameter):
        first._check_successor(first._latent, support)
    if others and support != first.support:
        order = first._make_plan(support).order
        for prefix, layer in others:
            if not torch.equal(layer._make_plan(support).order, order):
                raise ValueError(
                    f"{prefix}{BITMAP} makes the layer store its {layer.latent_name} in another "
                    "order than the layer that it is tied to: densify the model and untie them"
                )
    return support
