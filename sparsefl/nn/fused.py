"""Blocks of layers that run as one: a norm, the addition of a residual, and the ReLU.

A module whose forward holds such a pattern keeps its class, its children and their names. It gets
another forward beside its own: the graph that torch.fx finds, with one call of the norm in the
pattern's place. Its own forward runs whenever anything is not as it was traced.
"""

import copy
import logging
import weakref
from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.nn.modules.module import _has_any_global_hook

from sparsefl.nn._fusion import FusionPlan, Unfusable, count_attributes, plan_fusion
from sparsefl.nn.batch_last import COUNTERPARTS
from sparsefl.nn.relu import BitReLU

_logger = logging.getLogger(__name__)


class FusedForward:
    """Takes the place of a module's forward, as an attribute of the module.

    It refers to its module weakly, so that no cycle keeps a discarded model in memory; copies and
    pickles of the module hold one of their own.

    Args:
        owner: The module.
        plan: What of it is fused.
    """

    def __init__(self, owner: nn.Module, plan: FusionPlan) -> None:
        """Take the place of no forward yet."""
        self._owner = weakref.ref(owner)
        self._plan: FusionPlan | None = plan
        self._given_up = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's forward, fused where it is called as it was traced."""
        owner = self._owner()
        assert owner is not None
        if len(args) == 1 and not kwargs and not isinstance(args[0], Proxy):
            plan = self._current_plan(owner)
            if plan is not None and holds(plan, owner):
                return plan.run(owner, args[0])
        return type(owner).forward(owner, *args, **kwargs)

    def _current_plan(self, owner: nn.Module) -> FusionPlan | None:
        """Return the plan; one that was not pickled is made again."""
        if self._plan is None and not self._given_up:
            try:
                self._plan = plan_fusion(owner)
            except Unfusable as reason:
                _logger.info("%s no longer runs fused: %s", type(owner).__name__, reason)
            self._given_up = self._plan is None
        return self._plan

    def __deepcopy__(self, memo: dict[int, Any]) -> "FusedForward":
        """Return one for the copy of the module, which shares the plan."""
        twin = FusedForward.__new__(FusedForward)
        twin._plan, twin._given_up = self._plan, self._given_up
        memo[id(self)] = twin
        owner = copy.deepcopy(self._owner(), memo)
        assert owner is not None
        twin._owner = weakref.ref(owner)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: the plan, which is code, is not."""
        return {"owner": self._owner()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled."""
        self._owner = weakref.ref(state["owner"])
        self._plan, self._given_up = None, False


def holds(plan: FusionPlan, module: nn.Module) -> bool:
    """Tell whether the module is still as it was traced, without hooks on what is fused."""
    children = module._modules
    if type(module).forward is not plan.traced or count_attributes(module) != plan.size:
        return False
    if len(children) != len(plan.children) or any(
        type(children.get(name)) is not kind for name, kind in plan.children
    ):
        return False
    if any(getattr(module, name, plan) != value for name, value in plan.attributes):
        return False
    return not (_has_any_global_hook() or any(has_hooks(children[name]) for name in plan.fused))


def has_hooks(module: nn.Module | None) -> bool:
    """Tell whether the module has hooks around its forward or backward."""
    return module is not None and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def fuse_norms(model: nn.Module) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Fuse what can be fused, in place.

    Returns:
        The norms that now compute what follows them, and the modules that hold norms and were left
        as they are, with the reason.
    """
    fused: list[str] = []
    left: list[tuple[str, str]] = []
    for name, module in model.named_modules():
        if "forward" in vars(module):
            continue  # the user's own
        try:
            plan = plan_fusion(module)
        except Unfusable as reason:
            left.append((name, str(reason)))
            continue
        if plan is not None:
            vars(module)["forward"] = FusedForward(module, plan)
            fused.extend(f"{name}.{norm}" if name else norm for norm in plan.norms)
    return tuple(fused), tuple(left)


def unfuse(model: nn.Module) -> None:
    """Give the modules their own forward back, in place."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), FusedForward):
            del vars(module)["forward"]


def restore_torch(model: nn.Module) -> None:
    """Make what stands for layers without weights plain torch.nn again, in place."""
    unfuse(model)
    plain = {ours: theirs for theirs, ours in COUNTERPARTS.items()} | {BitReLU: nn.ReLU}
    for module in model.modules():
        vars(module).pop("to_batch_last", None)
        module.__class__ = plain.get(type(module), type(module))
