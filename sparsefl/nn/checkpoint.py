"""Taking over the supports of a checkpoint before its values are loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sparsefl.nn._carry import optimizer_slots
from sparsefl.nn._state import has_support, read_support
from sparsefl.nn._support_layer import SupportLayer


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

    Args:
        model: The model with the layers.
        state_dict: A state_dict of such a model; layers that it lacks keep their support.
        optimizer: The optimizer that trains the model, if any.

    Raises:
        ValueError: if a support in ``state_dict`` is malformed or covers another shape than the
            layer's weight, or ``optimizer`` does not hold the latent of a trained layer.
    """
    layers = {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, SupportLayer)
    }
    found = {
        prefix: read_support(state_dict, prefix)
        for prefix in layers
        if has_support(state_dict, prefix)
    }
    # A frozen layer may be one that the optimizer was not given. Asked before the first change,
    # which retires the parameter of tied layers.
    unheld = {
        prefix
        for prefix in found
        if optimizer is not None
        and not layers[prefix]._latent.requires_grad
        and not optimizer_slots(optimizer, layers[prefix]._latent)
    }
    for prefix, support in found.items():
        layers[prefix].set_support(support, None if prefix in unheld else optimizer)
