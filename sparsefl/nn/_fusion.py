"""Finds norms with what follows them in the forward of a module, by torch.fx."""

import copy
import inspect
import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer

from sparsefl.nn.batch_last import NORMS


class Unfusable(Exception):  # noqa: N818 (it is no error: it says why a module stays as it is)
    """A module whose forward cannot be replaced safely."""


@dataclass(frozen=True)
class FusionPlan:
    """A module's forward with its norms fused, and what it was traced under.

    It holds no module: copies of a module share it.

    Attributes:
        run: The forward, of the module and one argument.
        traced: The function that was traced.
        children: Names and types of the module's children then.
        attributes: Its plain attributes then, those of its class that it reads included.
        size: The number of its attributes then.
        norms: Names of the norms that compute what follows them.
        fused: Names of all children whose own call is gone or changed.
    """

    run: Callable[[nn.Module, Tensor], Any]
    traced: Callable[..., Any]
    children: tuple[tuple[str, type], ...]
    attributes: tuple[tuple[str, Any], ...]
    size: int
    norms: tuple[str, ...]
    fused: tuple[str, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusionPlan":
        """Return itself: nothing in it belongs to one module."""
        return self


def plan_fusion(module: nn.Module) -> FusionPlan | None:
    """Return how the module's forward is fused, or None where it has nothing to fuse.

    Raises:
        Unfusable: if it has norms, but a forward that depends on more than its one argument, its
            children and its plain attributes, or that torch.fx cannot trace.
    """
    norms = {n for n, child in module.named_children() if type(child) in NORMS}
    if not norms:
        return None
    traced = _check_forward(module)
    read = _Reads(type(module))
    read.follow(traced)
    attributes = dict(_plain_attributes(module))
    graph = _trace_steadily(module, attributes)
    patterns = list(_patterns(graph, module))
    if not patterns:
        return None
    if any(node.op == "call_module" and "." in str(node.target) for node in graph.nodes):
        raise Unfusable("its forward calls layers inside its children")
    for pattern in patterns:
        pattern.fuse(graph)
    graph.lint()
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, f"<fused {type(module).__name__}>", "exec"), names)
    return FusionPlan(
        run=names["forward"],
        traced=traced,
        children=tuple((name, type(child)) for name, child in module._modules.items()),
        attributes=tuple({**read.class_attributes, **attributes}.items()),
        size=count_attributes(module),
        norms=tuple(dict.fromkeys(str(p.norm.target) for p in patterns)),
        fused=tuple(dict.fromkeys(name for p in patterns for name in p.modules())),
    )


@dataclass(frozen=True)
class _Pattern:
    """A norm, the addition to its output or none, and the ReLU."""

    norm: Node
    addition: Node | None
    residual: Node | None
    relu: Node

    def modules(self) -> Iterator[str]:
        """Yield the names of the children that it holds."""
        for node in (self.norm, self.relu):
            if node.op == "call_module":
                yield str(node.target)

    def fuse(self, graph: Graph) -> None:
        """Put one call of the norm in its place."""
        with graph.inserting_before(self.relu):
            arguments = (self.norm.args[0], self.residual, True)
            one = graph.call_module(str(self.norm.target), arguments)
        self.relu.replace_all_uses_with(one)
        for node in (self.relu, self.addition, self.norm):
            if node is not None:
                graph.erase_node(node)


_RELUS = (F.relu, torch.relu, torch.relu_, F.relu_)
_ADDITIONS = (operator.add, torch.add)
_IN_PLACE = (operator.iadd,)


def _patterns(graph: Graph, module: nn.Module) -> Iterator[_Pattern]:
    for relu in graph.nodes:
        if not _is_relu(relu, module) or not isinstance(relu.args[0], Node):
            continue
        before = relu.args[0]
        if len(before.users) != 1:
            continue
        if _is_norm(before, module):
            if before.next is relu or len(_input_of(before).users) == 1:
                yield _Pattern(before, None, None, relu)
        elif before.next is relu:
            norm, residual = _added(before, module)
            if norm is not None:
                yield _Pattern(norm, before, residual, relu)


def _is_relu(node: Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return type(module._modules.get(str(node.target))) is nn.ReLU and len(node.args) == 1
    if node.op == "call_function":
        return node.target in _RELUS and len(node.args) == 1
    return node.op == "call_method" and node.target in ("relu", "relu_") and len(node.args) == 1


def _is_norm(node: object, module: nn.Module) -> bool:
    return (
        isinstance(node, Node)
        and node.op == "call_module"
        and type(module._modules.get(str(node.target))) in NORMS
        and len(node.args) == 1
        and not node.kwargs
        and isinstance(node.args[0], Node)
    )


def _input_of(norm: Node) -> Node:
    source = norm.args[0]
    assert isinstance(source, Node)
    return source


def _added(node: Node, module: nn.Module) -> tuple[Node | None, Node | None]:
    """Return the norm that an addition adds to, and what it adds, or None twice."""
    plain = node.op == "call_function" and node.target in _ADDITIONS
    plain = plain or (node.op == "call_method" and node.target == "add")
    in_place = node.op == "call_function" and node.target in _IN_PLACE
    in_place = in_place or (node.op == "call_method" and node.target == "add_")
    if not (plain or in_place) or len(node.args) != 2 or node.kwargs:
        return None, None
    first, second = node.args
    pairs = [(first, second)] if in_place else [(first, second), (second, first)]
    for norm, other in pairs:
        if (
            _is_norm(norm, module)
            and isinstance(norm, Node)
            and isinstance(other, Node)
            and norm is not other
            and len(norm.users) == 1
            and len(_input_of(norm).users) == 1
        ):
            return norm, other
    return None, None


class _Tracer(Tracer):
    """Takes every child whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module) -> Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(module)
    finally:
        # The graph's cycles would keep the module until they are collected.
        vars(tracer).clear()


def _trace_steadily(module: nn.Module, attributes: dict[str, Any]) -> Graph:
    """Return the module's graph, which is the same in training and evaluation.

    Raises:
        Unfusable: if it is not, or tracing it fails, draws random numbers or changes the module.
    """
    twin = copy.copy(module)
    vars(twin).pop("forward", None)
    vars(twin).update(copy.deepcopy(attributes))
    state = torch.get_rng_state(), random.getstate()
    graphs: list[Graph] = []
    try:
        for training in (module.training, not module.training):
            for grad in (torch.is_grad_enabled(), not torch.is_grad_enabled()):
                vars(twin)["training"] = training
                with torch.set_grad_enabled(grad):
                    graphs.append(_trace(twin))
    except Exception as error:
        # A user's forward may raise anything when it meets a proxy.
        raise Unfusable(f"torch.fx cannot trace its forward: {first_line(error)}") from error
    drew = not torch.equal(state[0], torch.get_rng_state()) or state[1] != random.getstate()
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    if drew:
        raise Unfusable("its forward draws random numbers")
    if len({str(graph) for graph in graphs}) != 1:
        raise Unfusable("its forward depends on training or no_grad beyond its layers")
    if dict(_plain_attributes(twin)) != attributes:
        raise Unfusable("its forward changes its attributes")
    return graphs[0]


def first_line(error: Exception) -> str:
    """Return an error's class and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


# What torch.nn.Module itself sets.
_INTERNAL = frozenset(vars(nn.Module())) | {"forward"}
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_CALLABLE = (FunctionType, BuiltinFunctionType, type, ModuleType)


def count_attributes(module: nn.Module) -> int:
    """Count a module's attributes but for those that sparsefl sets."""
    own = vars(module)
    return len(own) - ("forward" in own) - ("_sparsefl_report" in own)


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield copies of the attributes that are neither parameters nor children.

    Raises:
        Unfusable: if one may change without being seen to.
    """
    for name, value in vars(module).items():
        if name in _INTERNAL or name.startswith("_sparsefl"):
            continue
        if not _is_simple(value):
            raise Unfusable(f"its attribute {name} is a {type(value).__name__}")
        yield name, copy.deepcopy(value)


def _is_simple(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_simple(item) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list | set | frozenset):
        return all(_is_simple(item) for item in value)
    return type(value) in _SIMPLE or isinstance(value, _CALLABLE)


# What a proxy answers otherwise than a tensor does.
_ASKS_FOR_TYPES = {"isinstance", "type", "hasattr", "getattr", "issubclass", "callable", "id"}


def _check_forward(module: nn.Module) -> FunctionType:
    """Return the forward of the module's class.

    Raises:
        Unfusable: if it takes other than one tensor.
    """
    forward = type(module).forward
    if not isinstance(forward, FunctionType):
        raise Unfusable("its forward is no Python function")
    _, *parameters = inspect.signature(forward).parameters.values()
    if len(parameters) != 1 or parameters[0].kind is not parameters[0].POSITIONAL_OR_KEYWORD:
        raise Unfusable("its forward takes other than one argument")
    if parameters[0].default is not parameters[0].empty:
        raise Unfusable("its forward has an optional argument")
    if type(module).__call__ is not nn.Module.__call__:
        raise Unfusable("its class has a __call__ of its own")
    return forward


class _Reads:
    """What a forward reads by name, the functions that it calls included, but for torch's.

    Attributes:
        class_attributes: Those of the module's class, which an instance or an assignment to the
            class may change.
    """

    def __init__(self, owner: type[nn.Module]) -> None:
        self._owner = owner
        self._seen: set[int] = set()
        self.class_attributes: dict[str, Any] = {}

    def follow(self, function: FunctionType) -> None:
        """Note what a function reads.

        Raises:
            Unfusable: if it asks for types, or reads a variable that is no function, class or
                module, or a property.
        """
        if id(function) in self._seen or function.__module__.split(".")[0] == "torch":
            return
        self._seen.add(id(function))
        free = inspect.getclosurevars(function)
        for name, value in {**free.globals, **free.nonlocals}.items():
            if not isinstance(value, _CALLABLE):
                raise Unfusable(f"its forward reads the variable {name}")
            if isinstance(value, FunctionType):
                self.follow(value)
        for name in _names(function.__code__):
            if name in _ASKS_FOR_TYPES:
                raise Unfusable(f"its forward calls {name}")
            self._note(name)

    def _note(self, name: str) -> None:
        value = inspect.getattr_static(self._owner, name, None)
        value = getattr(value, "__func__", value)
        if isinstance(value, FunctionType):
            self.follow(value)
        elif _is_simple(value):
            if hasattr(self._owner, name):
                self.class_attributes[name] = copy.deepcopy(value)
        else:
            raise Unfusable(f"its forward reads the {type(value).__name__} {name}")


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
