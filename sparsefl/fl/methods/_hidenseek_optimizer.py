"""The optimizers of HideNseek's clients: one for scores, one for weights, stepped as one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Together(torch.optim.Optimizer):
    """Steps several optimizers as one, each on its own parameters."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        """Gather the parameter groups of ``parts``, and give all of them one state."""
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Step every part.

        Raises:
            ValueError: if there is a ``closure``: parts would each call it.
        """
        if closure is not None:
            raise ValueError("closure must be None: each optimizer would evaluate the loss anew")
        for part in self.parts:
            part.step()


def open_optimizer(
    scores: Sequence[Tensor],
    weights: Sequence[Tensor],
    lr: float,
    dense_lr: float,
    momentum: float,
) -> torch.optim.Optimizer:
    """Open Adam on scores and SGD on weights.

    Adam's steps are of one size in every layer, which one flip rate and one scale a layer want;
    fresh every round it moves dense weights by ``dense_lr`` from its first step on, however small
    their gradients are, and the clients' outer layers drift apart.

    Args:
        scores: Scores of the sign layers.
        weights: Every other parameter that trains; may be empty.
        lr: Learning rate of the scores.
        dense_lr: Learning rate of the weights.
        momentum: Of the weights.
    """
    adam = torch.optim.Adam(scores, lr=lr)
    if not weights:
        return adam
    return Together(adam, torch.optim.SGD(weights, lr=dense_lr, momentum=momentum))
