"""A local step of a network that nobody has seen before, and what passes through its layers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OptimizerName: TypeAlias = Literal["sgd", "adam"]

# It costs what any learning rate costs, and the weights stay what they are however often a step is
# repeated.
_LR = 0.0
_MOMENTUM = 0.9


def open_optimizer(
    parameters: Iterable[nn.Parameter], name: OptimizerName
) -> torch.optim.Optimizer | None:
    """Open SGD with momentum 0.9, or Adam, on what is trainable; None where nothing is."""
    distinct = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}
    trainable = list(distinct.values())
    if not trainable:
        return None
    if name == "adam":
        return torch.optim.Adam(trainable, lr=_LR)
    return torch.optim.SGD(trainable, lr=_LR, momentum=_MOMENTUM)


def loss_of(output: Any) -> Tensor:
    """Return a scalar to train by, since the labels of an unknown network are unknown.

    Cross-entropy with label 0 for an output ``[N, C]`` with ``C > 1``; the mean of squares for a
    tensor of any other shape; for tuples, lists and mappings the sum over their tensors.

    Raises:
        ValueError: if the output holds no tensor that can be differentiated.
    """
    tensors = [t for t in _tensors(output) if t.requires_grad and t.is_floating_point()]
    if not tensors:
        raise ValueError(
            "the model's output holds no tensor that depends on a trainable weight: return it from "
            "forward"
        )
    return torch.stack([_scalar(tensor) for tensor in tensors]).sum()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, Sequence) and not isinstance(output, str | bytes):
        for part in output:
            yield from _tensors(part)


def _scalar(output: Tensor) -> Tensor:
    if output.dim() == 2 and output.shape[1] > 1:
        labels = torch.zeros(output.shape[0], dtype=torch.long, device=output.device)
        return nn.functional.cross_entropy(output, labels)
    return output.square().mean()


@dataclass
class LocalStep:
    """One local step on a fixed batch: gradients forgotten, forward, backward, optimizer.

    Attributes:
        model: The network, in training mode.
        optimizer: Holds its parameters.
        inputs: The arguments of its forward.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: tuple[Any, ...]

    @classmethod
    def of(cls, model: nn.Module, optimizer: OptimizerName, inputs: tuple[Any, ...]) -> "LocalStep":
        """Prepare a step of ``model``, which is put in training mode.

        Raises:
            ValueError: if nothing of it trains.
        """
        opened = open_optimizer(model.parameters(), optimizer)
        if opened is None:
            raise ValueError("the model has no trainable parameter: set requires_grad on its own")
        return cls(model.train(), opened, inputs)

    def forward(self) -> Tensor:
        """Return the loss."""
        return loss_of(self.model(*self.inputs))

    def __call__(self) -> None:
        """Make the step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()


@dataclass(frozen=True)
class Call:
    """One call of one layer in a step, so that it can be repeated alone.

    Attributes:
        layer: The layer.
        x: Its input as it lay in memory; requires a gradient where the network needed one.
        grad: Gradient of its output as it lay in memory; None where the output needs none.
    """

    layer: nn.Module
    x: Tensor
    grad: Tensor | None

    def of(self, layer: nn.Module) -> "Call":
        """Return the same call of another layer."""
        return Call(layer, self.x, self.grad)

    def same_memory(self, other: "Call") -> bool:
        """Tell whether both calls find their tensors in the same memory order."""
        mine, theirs = (_strides(self), _strides(other))
        return mine == theirs


def _strides(call: Call) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    return call.x.stride(), None if call.grad is None else call.grad.stride()


@dataclass
class _Seen:
    x: Tensor
    grad: Tensor | None = None

    def keep(self, grad: Tensor) -> None:
        self.grad = grad.detach()


@dataclass
class Recording:
    """What :func:`record` saw.

    Attributes:
        calls: The calls of each layer by its name, in order; layers in the order of their first.
        refused: Why a layer's calls cannot be repeated alone.
    """

    calls: dict[str, list[Call]]
    refused: dict[str, str]


def record(step: LocalStep, layers: Mapping[str, nn.Module]) -> Recording:
    """Make one step and keep what every layer got, forward and backward.

    Args:
        step: The step.
        layers: The layers to listen to, by name.
    """
    seen: dict[str, list[_Seen]] = {}
    refused: dict[str, str] = {}
    with _listening(layers, seen, refused):
        step()
    calls = {
        name: [Call(layers[name], one.x, one.grad) for one in found]
        for name, found in seen.items()
        if name not in refused
    }
    for name in layers:
        if name not in seen and name not in refused:
            refused[name] = "not called in the forward pass"
    return Recording(calls, refused)


@contextmanager
def _listening(
    layers: Mapping[str, nn.Module], seen: dict[str, list[_Seen]], refused: dict[str, str]
) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    for name, layer in layers.items():

        def listen(
            layer: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            output: Any,
            name: str = name,
        ) -> Tensor | None:
            given = [*args, *kwargs.values()]
            if len(given) != 1 or not isinstance(given[0], Tensor):
                refused[name] = "takes other inputs than one tensor"
            elif not isinstance(output, Tensor):
                refused[name] = "gives another output than one tensor"
            else:
                x = given[0].detach().requires_grad_(given[0].requires_grad)
                one = _Seen(x)
                seen.setdefault(name, []).append(one)
                if output.requires_grad:
                    # torch.nn.Linear gives a view for inputs [N, T, in], and a view's hook is lost
                    # where the next layer works in place; a copy's is not. It has the same memory
                    # order.
                    copied = output.clone()
                    copied.register_hook(one.keep)
                    return copied
            return None

        handles.append(layer.register_forward_hook(listen, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
