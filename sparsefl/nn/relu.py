"""A ReLU that keeps a bit an element, and its place: in front of layers that keep no input."""

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from sparsefl import ops
from sparsefl.nn._stand_in import in_transform
from sparsefl.nn._tracing import call_whole, undisturbed
from sparsefl.nn.frozen import FrozenConv2d, FrozenLinear

# Layers that keep nothing of their input for backward: those of frozen weights, and views.
_FROZEN = (FrozenConv2d, FrozenLinear)
_VIEWS = (nn.Flatten, nn.Identity)


class BitReLU(nn.ReLU):
    """Compute ``max(x, 0)``; the backward pass keeps one bit an element instead of the output.

    What that spares is the output's memory, and only where the next layer does not keep it either:
    see :func:`use_bit_relu`. It has no state, and the values and gradients of ``torch.nn.ReLU``.
    Where no gradient is asked for, within ``torch.func``, on another device, and in dtypes other
    than float32 and float64 it is that.

    Shapes:
        Any; the output has the shape and dtype of the input. It is never in place.
    """

    def __init__(self) -> None:
        """Create the layer."""
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return ``max(x, 0)`` for ``x`` of any shape."""
        if isinstance(x, fx.Proxy):
            return call_whole(self, x)  # type: ignore[no-any-return]
        return ops.relu(x) if _has_kernel(x) else torch.relu(x)


def use_bit_relu(model: nn.Module) -> tuple[str, ...]:
    """Replace each ``nn.ReLU`` by :class:`BitReLU`, in place, where that spares memory.

    It does where every use of its output is, views aside, a frozen layer, which keeps no input. How
    outputs are used is read from the graph that torch.fx traces; a model that it cannot trace stays
    as it is.

    Args:
        model: Changed in place; its ``state_dict`` is not.

    Returns:
        The names of the layers replaced.
    """
    try:
        with undisturbed(model):
            graph = _Tracer().trace(model)
    except Exception:  # torch.fx raises what the model's own code raises at a proxy
        return ()
    calls: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and type(model.get_submodule(node.target)) is nn.ReLU:
            calls.setdefault(str(node.target), []).append(node)
    fitting = tuple(n for n, nodes in calls.items() if all(_keeps_nothing(model, c) for c in nodes))
    for name in fitting:
        model.set_submodule(name, BitReLU().train(model.get_submodule(name).training))
    return fitting


def _has_kernel(x: Tensor) -> bool:
    return (
        x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.layout is torch.strided
        and not in_transform()
    )


class _Tracer(fx.Tracer):
    """Takes the project's layers whole, like torch.nn's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith("sparsefl.nn")
        return ours or super().is_leaf_module(m, module_qualified_name)


def _keeps_nothing(model: nn.Module, node: Node) -> bool:
    """Tell whether all that use a node's output keep none of it for backward."""
    for user in node.users:
        if user.op != "call_module":
            return False
        layer = model.get_submodule(str(user.target))
        if isinstance(layer, _FROZEN):
            continue
        if type(layer) not in _VIEWS or not _keeps_nothing(model, user):
            return False
    return bool(node.users)
