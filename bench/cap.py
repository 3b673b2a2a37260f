"""What a sparse ResNet-18's training step could reach: the step without its convolutions.

Norm, ReLU and residual stream the activations at any density, and pool, head, loss and optimizer
stay; their time is the cap of the table ``resnet18_step``. It is measured twice:

- ``free``: every convolution gives a tensor that lies there already, and so does its backward;
- ``one_weight``: every layer keeps one weight, so that the kernels still write all of their outputs
  and input gradients, and the backward still computes the norms' outputs again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsefl.nn import SparseConv2d, sparsify
from sparsefl.nn.fused import fuse_norms, unfuse
from sparsefl.ops import batch_last
from sparsefl.timing import Effort, stopwatch

from .markdown import markdown
from .networks import (
    BATCH,
    median,
    network_row,
    resnet18,
    seconds_of,
    time_figures,
    train_step,
)
from .rows import BASELINE, OURS, Row

CAP = "resnet18_cap"
PROVIDER, VARIANTS = "cap", ("free", "one_weight")
DENSITIES = (0.1, 0.01)
EFFORT = Effort(warmup=1, timed=7, probes=1, slow_s=np.inf)


class FreeConv2d(nn.Module):
    """Stands for a convolution that costs nothing: its results are drawn once and given again."""

    def __init__(self, conv: SparseConv2d) -> None:
        """Take the place of a layer, whose shapes it learns at its first call."""
        super().__init__()
        self.conv: list[SparseConv2d] = [conv]
        self.y: torch.Tensor | None = None
        self.grad_x: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[N, out_channels, OH, OW]`` that does not depend on ``x``."""
        if self.y is None:
            with torch.no_grad():
                shape = self.conv[0](x).shape
            self.y, self.grad_x = (batch_last(torch.randn(s)) for s in (shape, x.shape))
        y: torch.Tensor = _Given.apply(x, self.y, self.grad_x)
        return y


class _Given(torch.autograd.Function):
    """Gives ``y``, and ``grad_x`` for the gradient of ``x``; reads and writes nothing."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, grad_x: torch.Tensor) -> torch.Tensor:
        ctx.grad_x = grad_x
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.grad_x, None, None


def one_weight(dense: nn.Module) -> nn.Module:
    """Return a sparse model that keeps one weight a layer."""
    masks = {}
    for name, parameter in dense.named_parameters():
        if parameter.dim() > 1:
            mask = torch.zeros(parameter.shape, dtype=torch.bool)
            # The middle of a kernel, which no padding hides.
            mask[(0, 0, *(size // 2 for size in parameter.shape[2:]))] = True
            masks[name] = mask
    return sparsify(dense, masks)


def without_convolutions(model: nn.Module) -> nn.Module:
    """Make the convolutions of a sparse model cost nothing, in place; return it."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SparseConv2d):
                setattr(module, name, FreeConv2d(child))
    # What is fused depends on the types of a module's children.
    unfuse(model)
    fuse_norms(model)
    return model


def rows(described: Row) -> list[Row]:
    """Time the cap beside dense, in two memory formats, and sparse steps."""
    dense = functools.partial(resnet18, 1.0)
    steps: dict[tuple[str, str, float], Callable[[], None]] = {
        (BASELINE, "nchw", 1.0): train_step(dense()),
        (BASELINE, "channels_last", 1.0): train_step(dense(), channels_last=True),
        (PROVIDER, VARIANTS[0], 0.0): train_step(without_convolutions(one_weight(dense()))),
        (PROVIDER, VARIANTS[1], 0.0): train_step(one_weight(dense())),
    }
    for density in DENSITIES:
        steps[OURS, "batch_last", density] = train_step(resnet18(density))
    times = seconds_of({key: stopwatch(step) for key, step in steps.items()}, EFFORT)
    plain = min((key for key in times if key[0] == BASELINE), key=lambda key: median(times[key]))
    measured = []
    for (provider, variant, density), taken in times.items():
        row = network_row(CAP, "resnet18", BATCH, density, provider, variant, described)
        measured.append({**row, **time_figures(taken, {BASELINE: times[plain]}, provider)})
    return measured


def table(measured: Sequence[Row]) -> str:
    """Make the table of the cap, and of what is reached of it."""
    found = [row for row in measured if row["table"] == CAP and row["provider"] != BASELINE]
    if not found:
        return "Not measured yet.\n"
    caps = {row["variant"]: row["ratio_to_dense"] for row in found if row["provider"] == PROVIDER}
    labels = {
        (PROVIDER, VARIANTS[0]): "convolutions that cost nothing",
        (PROVIDER, VARIANTS[1]): "one kept weight a layer",
    }

    def line(row: Row) -> list[str]:
        label = labels.get((row["provider"], row["variant"]), f"density {row['density']:g}")
        ratio = row["ratio_to_dense"]
        shares = [f"{ratio / caps[variant]:.2f}" for variant in VARIANTS]
        return [label, f"{row['median_us'] / 1e3:,.0f}", f"{ratio:.2f}x", *shares]

    head = ["ResNet-18's step, batch 64", "ms", "faster than dense"]
    head += ["share of the first", "of the second"]
    return markdown(head, map(line, found)) + f"\nCommit {found[0]['commit'][:12]}.\n"
