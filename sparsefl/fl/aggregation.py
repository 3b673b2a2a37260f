"""Means over the cohort, and the conversions between state_dicts and updates."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl.codec import Dense, Sparse, Update


def as_tensor(values: object) -> Tensor:
    """Copy what an update holds (array or tensor) into a tensor that owns its memory."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    return torch.from_numpy(np.array(values))


def dense_entries(tensors: Mapping[str, Tensor]) -> dict[str, Dense]:
    """Wrap tensors as dense entries of an update."""
    return {name: Dense(tensor.detach()) for name, tensor in tensors.items()}


def dense_tensors(update: Update) -> dict[str, Tensor]:
    """Return the dense entries of an update as tensors, by name."""
    return {
        name: as_tensor(entry.values) for name, entry in update.items() if isinstance(entry, Dense)
    }


def add_mean_change(
    tensors: Mapping[str, Tensor],
    changes: Iterable[tuple[float, Mapping[str, Tensor]]],
    rate: float = 1.0,
) -> dict[str, Tensor]:
    """Return ``tensors + rate * sum_k p_k change_k``, summed in float64 in the cohort's order.

    Integer tensors (batch norm's counter of batches) take the mean rounded to nearest.

    Args:
        tensors: The server's tensors.
        changes: ``(p_k, change of each tensor)`` for each client; the ``p_k`` sum to 1.
        rate: The server's learning rate.
    """
    total = {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
    for weight, change in changes:
        for name in total:
            total[name] = total[name] + rate * weight * change[name].to(torch.float64)
    return {
        name: (value if tensor.is_floating_point() else value.round()).to(tensor.dtype)
        for (name, tensor), value in zip(tensors.items(), total.values(), strict=True)
    }


def is_finite(update: Update) -> bool:
    """Tell whether every value of an update is finite; the codec refuses scales that are not."""
    return all(
        bool(np.isfinite(entry.values).all())
        for entry in update.values()
        if isinstance(entry, Dense | Sparse) and np.issubdtype(entry.values.dtype, np.inexact)
    )


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model's parameters and buffers by name: all of them, or none.

    Raises:
        ValueError: if the model has no such tensor, or one of another shape; nothing is copied.
    """
    held = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if name not in held or held[name].shape != tensor.shape:
            has = tuple(held[name].shape) if name in held else "none of that name"
            raise ValueError(f"received {name} of shape {tuple(tensor.shape)}, the model has {has}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            held[name].copy_(tensor)
