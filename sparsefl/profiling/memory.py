"""Memory of a step, counted tensor by tensor from tensors that exist after it was made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.measuring import saved_bytes


@dataclass(frozen=True)
class Memory:
    """Bytes that a layer, or a network, holds while it trains.

    Counted exactly, but not the process's peak: scratch, the allocator and code come on top.

    Attributes:
        parameters_bytes: Parameters and buffers.
        gradients_bytes: Gradients after a step.
        optimizer_bytes: State of the optimizer after a step.
        activations_bytes: What autograd saves for the backward pass, parameters and batch left out.
            What two layers share counts for both, and once in the network's sum.
        index_bytes: What the sparse kernels know of the supports; 0 for dense layers.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    index_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        return sum(vars(self).values())


def count(
    modules: Iterable[nn.Module],
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], object],
    batch: Iterable[Any],
) -> Memory:
    """Count the memory of modules after a step.

    Args:
        modules: What is counted, children included, tied parameters once.
        optimizer: What trained them.
        forward: Their forward pass, for what it saves.
        batch: The network's inputs, which are there in any case.
    """
    parts = list(modules)
    parameters = _distinct(p for part in parts for p in part.parameters())
    buffers = _distinct(b for part in parts for b in part.buffers())
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    inside = {id(m): m for part in parts for m in part.modules()}.values()
    return Memory(
        parameters_bytes=_bytes([*parameters, *buffers]),
        gradients_bytes=_bytes(parameter.grad for parameter in parameters),
        optimizer_bytes=_bytes(value for state in states for value in state.values()),
        activations_bytes=saved_bytes(forward, [*parameters, *buffers, *batch]),
        index_bytes=sum(_plan_bytes(getattr(module, "plan", None)) for module in inside),
    )


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _bytes(values: Iterable[Any]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def _plan_bytes(plan: object) -> int:
    """Count the tensors of a plan of the kernels, and the bitmap of its support."""
    if plan is None:
        return 0
    total = 0
    for value in vars(plan).values():
        total += _bytes(value if isinstance(value, tuple) else [value])
    return total + int(vars(plan)["support"].packed.nbytes)
