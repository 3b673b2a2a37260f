"""Moving numbers from one support to another, in a layer and in its optimizer."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl.ops import Conv2dPlan, LinearPlan
from sparsefl.support import Support

Plan: TypeAlias = LinearPlan | Conv2dPlan
Carry: TypeAlias = Callable[[Tensor], Tensor]


class RetiredParameter(nn.Parameter):
    """A parameter that ``set_support`` has replaced; whoever still uses it is told so.

    Without this, an optimizer that holds it would step a tensor that no layer reads, a layer that
    is tied to it would train numbers that no optimizer steps, and neither would say anything.
    """

    successor: nn.Parameter
    support: Support
    plan: Plan

    @classmethod
    def __torch_function__(
        cls, func: object, types: object, args: object = (), kwargs: object = None
    ) -> Any:
        """Refuse every use: ``grad`` is what an optimizer hits first.

        Raises:
            RuntimeError: always, but for what a debugger prints.
        """
        if func is Tensor.__repr__:
            return "RetiredParameter()"
        raise RuntimeError(
            "this parameter was replaced by set_support: pass set_support(..., optimizer=optimizer)"
            " or build a new optimizer; a layer tied to it needs set_support with the same support"
        )


def retire(old: nn.Parameter, successor: nn.Parameter, support: Support, plan: Plan) -> None:
    """Make every further use of ``old`` raise, and remember what has taken its place."""
    old.__class__ = RetiredParameter
    assert isinstance(old, RetiredParameter)
    old.successor, old.support, old.plan = successor, support, plan


def successor_of(old: RetiredParameter) -> tuple[nn.Parameter, Support, Plan]:
    """Return the parameter that is now in the place of ``old``, its support and its plan."""
    while isinstance(old.successor, RetiredParameter):
        old = old.successor
    return old.successor, old.support, old.plan


def carry_between(old: Support, old_plan: Plan, new: Support, new_plan: Plan) -> Carry:
    """Return the map from numbers of the old support to the new one, both in stored order.

    Returns:
        A function from ``[old.nnz]`` to ``[new.nnz]``: a position that both supports keep takes its
        number along, a new one gets 0.
    """
    _, old_ranks, new_ranks = np.intersect1d(
        old.indices, new.indices, assume_unique=True, return_indices=True
    )
    old_places = _stored_places(old_plan)[torch.from_numpy(old_ranks)]
    new_places = _stored_places(new_plan)[torch.from_numpy(new_ranks)]

    def carry(stored: Tensor) -> Tensor:
        kept = stored.index_select(0, old_places.to(stored.device))
        return stored.new_zeros(new.nnz).scatter(0, new_places.to(stored.device), kept)

    return carry


def _stored_places(plan: Plan) -> Tensor:
    """Return where each row-major rank is stored: the inverse of ``plan.order``, ``[nnz]``."""
    order = plan.order.cpu()
    return torch.empty_like(order).scatter(0, order, torch.arange(order.numel()))


def optimizer_slots(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter
) -> list[tuple[list[nn.Parameter], int]]:
    """Return where the optimizer holds the parameter, as (list of its group, index)."""
    return [
        (group["params"], index)
        for group in optimizer.param_groups
        for index, held in enumerate(group["params"])
        if held is parameter
    ]


def carry_state(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, carry: Carry
) -> None:
    """Hand the optimizer's state of ``old`` to ``new``, with what has its shape carried over."""
    if old not in optimizer.state:
        return
    optimizer.state[new] = {
        key: carry(value) if isinstance(value, Tensor) and value.shape == old.shape else value
        for key, value in optimizer.state.pop(old).items()
    }
