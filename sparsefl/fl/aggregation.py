"""The server's optimizers, and conversions between tensors and updates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl.codec import Dense, Update

Tensors: TypeAlias = Mapping[str, Tensor]
Kind: TypeAlias = Literal["sgd", "momentum", "adam"]
KINDS: tuple[str, ...] = get_args(Kind)

# The options of a method whose server steps along the mean change; its defaults take them in. The
# defaults are plain averaging; beta_2 and tau are those of Reddi et al. 2021.
SERVER_DEFAULTS: Mapping[str, Any] = {
    "server_optimizer": "sgd",
    "server_lr": 1.0,
    "server_momentum": 0.9,
    "server_beta2": 0.99,
    "server_tau": 1e-3,
}
SERVER_CHOICES: Mapping[str, tuple[str, ...]] = {"server_optimizer": KINDS}


def as_tensor(values: object) -> Tensor:
    """Copy what an update holds (array or tensor) into a tensor that owns its memory."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    return torch.from_numpy(np.array(values))


def dense_entries(tensors: Mapping[str, Tensor]) -> dict[str, Dense]:
    """Wrap tensors as dense entries of an update."""
    return {name: Dense(tensor.detach()) for name, tensor in tensors.items()}


def dense_tensors(update: Update) -> dict[str, Tensor]:
    """Return the dense entries of an update as tensors, by name.

    They share the update's memory where that is writable: they are not to be changed in place.
    """
    return {name: _view(entry.values) for name, entry in update.items() if isinstance(entry, Dense)}


def _view(values: object) -> Tensor:
    if isinstance(values, np.ndarray) and values.flags.writeable:
        return torch.from_numpy(values)
    return values.detach() if isinstance(values, Tensor) else as_tensor(values)


def cast_like(tensors: Tensors, values: Tensors) -> dict[str, Tensor]:
    """Return values in the dtypes of the tensors of their names.

    Integer tensors (batch norm's counter of batches) take the nearest.
    """
    return {
        name: (values[name] if tensor.is_floating_point() else values[name].round()).to(
            tensor.dtype
        )
        for name, tensor in tensors.items()
    }


def add_change(tensors: Tensors, change: Tensors, rate: float = 1.0) -> dict[str, Tensor]:
    """Return ``tensors + rate * change``, added in float64 and rounded once.

    Args:
        tensors: The server's tensors.
        change: The clients' mean change of each, float64.
        rate: The server's learning rate.
    """
    moved = {name: tensor.double() + rate * change[name] for name, tensor in tensors.items()}
    return cast_like(tensors, moved)


@dataclass(frozen=True)
class ServerOptimizer:
    """The server's step along the clients' mean change ``D = sum_k p_k D_k``.

    ::

        sgd        x += lr * D
        momentum   m = momentum * m + D;    x += lr * m
        adam       m = momentum * m + (1 - momentum) * D
                   v = beta2 * v + (1 - beta2) * D^2, from v = tau^2
                   x += lr * m / (sqrt(v) + tau)

    Attributes:
        kind: "sgd", "momentum" or "adam".
        lr: Learning rate of the server; 1 and "sgd" are plain averaging.
        momentum: Of the first moment.
        beta2: Of the second moment.
        tau: Degree of adaptivity: the larger, the less.
        first: First moments by name, float64; empty before the first step.
        second: Second moments.

    Source: Reddi et al. 2021, "Adaptive federated optimization", arXiv 2003.00295, algorithm 2
    (FedAdam); momentum as in Hsu et al. 2019, arXiv 1909.06335 (FedAvgM).
    """

    kind: str = "sgd"
    lr: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: ValueError: if there is no such optimizer, or a number is out of its range."""
        if self.kind not in KINDS:
            raise ValueError(f"server_optimizer must be one of {', '.join(KINDS)}: {self.kind!r}")
        if self.lr <= 0 or self.tau <= 0:
            raise ValueError(
                f"server_lr and server_tau must be positive, got {self.lr} and {self.tau}"
            )
        if not (0 <= self.momentum < 1 and 0 <= self.beta2 < 1):
            raise ValueError(
                "server_momentum and server_beta2 must be at least 0 and below 1, got "
                f"{self.momentum} and {self.beta2}"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ServerOptimizer":
        """Read a method's options, ``SERVER_DEFAULTS`` among them."""
        keys = ("server_optimizer", "server_lr", "server_momentum", "server_beta2", "server_tau")
        return cls(*(options[key] for key in keys))

    @property
    def averages(self) -> bool:
        """Whether a step is the plain mean of the clients."""
        return self.kind == "sgd" and self.lr == 1.0

    def step(self, tensors: Tensors, mean: Tensors) -> tuple[dict[str, Tensor], "ServerOptimizer"]:
        """Take one step.

        Args:
            tensors: The server's tensors, floating-point.
            mean: The clients' mean change ``sum_k p_k D_k`` of each, float64.

        Returns:
            The new tensors, and the optimizer with its new moments.
        """
        if self.kind == "sgd":
            return add_change(tensors, mean, self.lr), self
        zeros = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in tensors.items()}
        fresh = 1.0 if self.kind == "momentum" else 1 - self.momentum
        first = {n: self.momentum * self.first.get(n, zeros[n]) + fresh * mean[n] for n in tensors}
        if self.kind == "momentum":
            return add_change(tensors, first, self.lr), replace(self, first=first)
        start = self.tau**2
        second = {
            n: self.beta2 * self.second.get(n, zeros[n] + start) + (1 - self.beta2) * mean[n] ** 2
            for n in tensors
        }
        steps = {n: first[n] / (second[n].sqrt() + self.tau) for n in tensors}
        stepped = add_change(tensors, steps, self.lr)
        return stepped, replace(self, first=first, second=second)


def step_trained(
    server: ServerOptimizer, tensors: Tensors, trained: Iterable[str], change: Tensors
) -> tuple[dict[str, Tensor], ServerOptimizer]:
    """Take the server's step along the clients' mean change; all that is not trained moves by it.

    Integers and bools come as values, and are the nearest to their mean.

    Args:
        server: The server's optimizer.
        tensors: The server's tensors.
        trained: Names of those that the optimizer steps on; the rest is averaged plainly.
        change: ``sum_k p_k D_k`` of each, float64; of integers and bools ``sum_k p_k x_k``.

    Returns:
        The new tensors, in their order, and the optimizer with its new moments.
    """
    stepped_on = {name: tensors[name] for name in trained}
    others = {name: value for name, value in tensors.items() if name not in stepped_on}
    floating = {name: value for name, value in others.items() if value.is_floating_point()}
    stepped, server = server.step(stepped_on, change)
    moved = {**cast_like(others, change), **add_change(floating, change), **stepped}
    return {name: moved[name] for name in tensors}, server


def load_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], needed: Iterable[str] = ()
) -> None:
    """Copy tensors into a model's parameters and buffers by name: all of them, or none.

    Args:
        model: Changed in place.
        tensors: By name.
        needed: Names that must be among them.

    Raises:
        ValueError: if one that is needed is missing, or the model has none of a name, or one of
            another shape; nothing is copied.
    """
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"received no tensor for {', '.join(missing)}")
    held = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if name not in held or held[name].shape != tensor.shape:
            has = tuple(held[name].shape) if name in held else "none of that name"
            raise ValueError(f"received {name} of shape {tuple(tensor.shape)}, the model has {has}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            held[name].copy_(tensor)
