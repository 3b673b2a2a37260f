"""``gate``: per-sample channel gates on the convolutions of a plain model, found by torch.fx."""

import copy
import logging
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node, Tracer

from sparsefl.nn._fusion import first_line
from sparsefl.nn._tracing import undisturbed
from sparsefl.nn.gated import GatedConvBN2d, Stats, why_not_gated

_logger = logging.getLogger(__name__)

_REPORT = "_sparsefl_gate_report"
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
# What leaves a channel of zeros a channel of zeros, and takes each by itself.
_CHANNELWISE = (
    *(nn.ReLU, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)
_CHANNELWISE_FUNCTIONS = (F.relu, torch.relu, torch.relu_, F.relu_)


@dataclass(frozen=True)
class GateReport:
    """What :func:`gate` did.

    Attributes:
        gated: Names of the convolutions that now have gates.
        left: Name and reason of each convolution that has not.
        handed: Names of the gated layers that get the gates of the layer before.
        gate_sigmoid: Whether the gates see the sigmoid of the means.
    """

    gated: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    handed: tuple[str, ...]
    gate_sigmoid: bool

    def __str__(self) -> str:
        """Say it in a sentence."""
        text = f"gated {len(self.gated)} of {len(self.gated) + len(self.left)} convolutions"
        if self.left:
            text += "; left as they are: " + ", ".join(f"{n} ({why})" for n, why in self.left)
        return text


def gate(
    model: nn.Module,
    density: float = 0.7,
    stats: Stats = "active",
    *,
    gate_sigmoid: bool | None = None,
) -> nn.Module:
    """Return a copy of ``model`` whose convolutions keep their largest gates, sample by sample.

    Every chain convolution, batch norm (, ReLU) that torch.fx finds becomes one
    :class:`GatedConvBN2d` in the convolution's place, ``nn.Identity`` in that of the others. The
    first convolution, shortcuts with a convolution of their own and whatever is no such chain stay;
    :func:`gate_report` and the log say which. Where a layer's input is another one's output, but
    for pooling, it gets its gates. The gates are drawn from torch's generator, in the order of the
    forward; all else is copied. :func:`sparsefl.densify` gives the same outputs in plain torch.

    Args:
        model: A plain model that torch.fx can trace; left as it is.
        density: Share of the output channels that a sample keeps, over 0 and at most 1.
        stats: The batch statistics, as of :class:`GatedConvBN2d`.
        gate_sigmoid: Whether the gates see the sigmoid of the channels' means. None: as in the
            authors' code, in plain chains (their VGG), not where something is added (their ResNet).

    Raises:
        TypeError: if ``model`` is no ``nn.Module``.
        ValueError: if torch.fx cannot trace it, it has nothing to gate, or an argument is out of
            range.

    Source: adaptive dynamic pruning, arXiv 2106.06921, and its authors' code of 2021.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    twin = copy.deepcopy(model)
    graph = _trace(twin)
    if gate_sigmoid is None:
        gate_sigmoid = not any(node.target in _ADDITIONS for node in graph.nodes)
    left: dict[str, str] = {}
    layers: dict[Node, GatedConvBN2d] = {}
    names: dict[GatedConvBN2d, str] = {}
    handed: list[str] = []
    # All are found before the first is replaced: the graph is of the model as it was.
    for chain in list(_chains(graph, twin, left)):
        before = _producer(chain.conv, twin, layers)
        conv = cast("nn.Conv2d", twin.get_submodule(str(chain.conv.target)))
        norm = cast("nn.BatchNorm2d", twin.get_submodule(str(chain.norm.target)))
        if obstacle := why_not_gated(conv, norm):
            left[str(chain.conv.target)] = obstacle
            continue
        layer = GatedConvBN2d(
            *(conv, norm, density, stats),
            relu=chain.relu is not None,
            gate_sigmoid=gate_sigmoid,
            previous=before,
        )
        name = names[layer] = str(chain.conv.target)
        layers[chain.norm] = layer
        handed.extend([name] if before is not None else [])
        chain.replace(twin, layer.train(conv.training))
    report = GateReport(tuple(names.values()), tuple(left.items()), tuple(handed), gate_sigmoid)
    if not layers:
        raise ValueError(
            f"model: {type(model).__name__} has nothing to gate: expected a convolution after the "
            f"first with a batch norm right behind it (for ours norm='batch'); {report}"
        )
    vars(twin)[_REPORT] = report
    _logger.info("%s", report)
    return twin


def gate_report(model: nn.Module) -> GateReport:
    """Return what :func:`gate` did to make ``model``.

    Raises:
        ValueError: if ``gate`` did not make it.
    """
    found = vars(model).get(_REPORT)
    if not isinstance(found, GateReport):
        raise ValueError(f"this {type(model).__name__} was not made by gate: it has no report")
    return found


@dataclass(frozen=True)
class _Chain:
    """A convolution, its batch norm, and the ReLU that follows, if any."""

    conv: Node
    norm: Node
    relu: Node | None

    def replace(self, model: nn.Module, layer: GatedConvBN2d) -> None:
        model.set_submodule(str(self.conv.target), layer)
        for node in (self.norm, self.relu):
            if node is not None:
                model.set_submodule(str(node.target), nn.Identity())


def _trace(model: nn.Module) -> Graph:
    tracer = Tracer()
    try:
        with undisturbed(model):
            return tracer.trace(model)
    except Exception as error:
        # A user's forward may raise anything when it meets a proxy.
        raise ValueError(
            f"model: torch.fx cannot trace the forward of {type(model).__name__}, so that its "
            f"convolutions cannot be found: {first_line(error)}"
        ) from error
    finally:
        # The graph's cycles would keep the module until they are collected.
        vars(tracer).clear()


def _module(node: object, model: nn.Module) -> nn.Module | None:
    if isinstance(node, Node) and node.op == "call_module":
        return model.get_submodule(str(node.target))
    return None


def _chains(graph: Graph, model: nn.Module, left: dict[str, str]) -> Iterator[_Chain]:
    """Yield what can be gated, in the order of the forward; note why other convolutions cannot."""
    calls = Counter(_module(node, model) for node in graph.nodes)
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    first = True
    for node in graph.nodes:
        if not isinstance(_module(node, model), nn.Conv2d):
            continue
        chain = _chain(node, model, calls)
        if first:
            why = "the first convolution"
        elif calls[_module(node, model)] > 1 or str(node.target) in read:
            why = "it is used more than once"
        elif chain is None:
            why = "no batch norm follows it alone"
        else:
            why = "it is a shortcut" if _is_shortcut(chain) else ""
        first = False
        if why or chain is None:
            left[str(node.target)] = why
        else:
            yield chain


def _chain(conv: Node, model: nn.Module, calls: Counter[nn.Module | None]) -> _Chain | None:
    def only_user(node: Node, kind: type[nn.Module]) -> Node | None:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        module = _module(user, model)
        return user if type(module) is kind and calls[module] == 1 else None

    norm = only_user(conv, nn.BatchNorm2d)
    return None if norm is None else _Chain(conv, norm, only_user(norm, nn.ReLU))


def _is_shortcut(chain: _Chain) -> bool:
    """Tell whether its result is added to what its input becomes on another way."""
    source = chain.conv.args[0]
    added = all(user.target in _ADDITIONS for user in chain.norm.users)
    return added and isinstance(source, Node) and len(source.users) > 1


def _producer(
    conv: Node, model: nn.Module, layers: dict[Node, GatedConvBN2d]
) -> GatedConvBN2d | None:
    """Return the gated layer whose output, but for pooling, a convolution's input is."""
    node = conv.args[0]
    while isinstance(node, Node) and node not in layers:
        functional = node.op == "call_function" and node.target in _CHANNELWISE_FUNCTIONS
        # The modules of chains that were replaced are identities by now.
        if not functional and type(_module(node, model)) not in _CHANNELWISE:
            return None
        node = node.args[0]
    return layers[node] if isinstance(node, Node) else None
