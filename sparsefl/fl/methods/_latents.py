"""Layers with a support, by the name of their dense weight, and the numbers that they train."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsefl.nn._support_layer import SupportLayer
from sparsefl.pruning._prunable import prunable_weights


def support_layers(model: nn.Module) -> dict[str, SupportLayer]:
    """List the layers of a model that hold a support."""
    return {
        f"{name}.{layer.dense_name}" if name else layer.dense_name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, SupportLayer)
    }


def untied(model: nn.Module, method: str) -> nn.Module:
    """Return the model, of which no two masked layers share a weight.

    Raises:
        ValueError: if two do, tied weights or one layer under two names; the message has both.
    """
    masked, first = prunable_weights(model), dict[int, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name and (name in masked or other in masked):
            raise ValueError(
                f"{method} gives every layer a mask of its own, and the model has one weight as "
                f"{other} and {name}: take a model without shared layers or tied weights"
            )
    return model


def load_latents(layers: Mapping[str, SupportLayer], numbers: Mapping[str, Tensor]) -> None:
    """Write row-major values or scores, ``[nnz]``, into layers, in the order that each stores."""
    with torch.no_grad():
        for name, layer in layers.items():
            layer.get_parameter(layer.latent_name).copy_(layer.from_row_major(numbers[name]))


def row_major_latents(model: nn.Module) -> dict[str, Tensor]:
    """Return the values or scores of every such layer, row-major, as tensors of their own."""
    return {
        name: layer.row_major(layer.get_parameter(layer.latent_name).detach()).clone()
        for name, layer in support_layers(model).items()
    }
