"""The largest gradients of pruned weights, from the backward pass of one mini-batch.

What a client of FedTiny (Huang et al., ICDCS 2023, arXiv 2212.01977) uploads when masks are
adjusted: per layer, the ``a_l`` largest gradients where it is pruned, in memory of ``a_l``.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsefl.nn.sparse import SparseConv2d, SparseLinear
from sparsefl.ops import Call, Growth, LinearPlan, conv2d_growth, linear_growth
from sparsefl.ops._recompute import Recipe, keep

Watched = SparseLinear | SparseConv2d


@contextmanager
def watch_growth(model: nn.Module, counts: Mapping[str, int]) -> Iterator[dict[str, Growth]]:
    """Find the largest gradients of pruned weights in the backward pass that runs within.

    ::

        with sparsefl.pruning.watch_growth(model, {"fc.weight": 100}) as found:
            loss(model(x), y).backward()
        indices, gradients = found["fc.weight"]

    A layer's are found as soon as the gradient of its output is known, before its input is freed:
    nothing of the size of a dense weight is made, and no activation lives longer than without.
    Where a layer is used several times, or its weight is tied, gradients are summed. Under a
    ``GradScaler`` they are scaled as all others.

    Args:
        model: With sparse layers; run once, forward and backward, within the context, not compiled.
        counts: How many gradients of each layer, by the name of the dense weight.

    Yields:
        A dict that is filled during the backward pass: :class:`sparsefl.ops.Growth` by name, of
        ``counts[name]`` positions, increasing, of equal magnitudes those of the lowest index.

    Raises:
        TypeError: if a name is not of a SparseLinear or SparseConv2d.
        ValueError: if a count exceeds the pruned positions, or a gradient is not a number.
        RuntimeError: if no backward pass, or more than one, reaches a layer, or its input is
            changed in place before.
    """
    found: dict[str, Growth] = {}
    handles: list[RemovableHandle] = []
    try:
        for name, count in counts.items():
            handles += _watch(model, name, count, found)
        yield found
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in counts if name not in found]
    if missing:
        raise RuntimeError(f"no backward pass within watch_growth reached: {', '.join(missing)}")


def _watch(
    model: nn.Module, name: str, count: int, found: dict[str, Growth]
) -> list[RemovableHandle]:
    """Have ``found[name]`` filled; return the hooks."""
    layer = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, Watched) or not name.endswith("weight"):
        raise TypeError(f"counts[{name!r}] must name the weight of a SparseLinear or SparseConv2d")
    pruned = layer.support.numel - layer.support.nnz
    if not 0 <= count <= pruned:
        raise ValueError(f"counts[{name!r}] must be in [0, {pruned}], got {count}")
    watcher = _Watcher(name, layer, count, found)
    tied = [
        other
        for other in model.modules()
        if isinstance(other, Watched) and other.values is layer.values
    ]
    return [other.register_forward_hook(watcher.forward, with_kwargs=True) for other in tied]


class _Watcher:
    """Collects the uses of one weight, and finds its largest gradients when the last is known."""

    def __init__(self, name: str, layer: Watched, count: int, found: dict[str, Growth]) -> None:
        self.name, self.layer, self.count, self.found = name, layer, count, found
        self.uses = 0
        self.calls: list[Call] = []

    def forward(self, layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        """Wait for the gradient of an output."""
        # What a checkpoint runs again within a backward pass is no other use.
        again = self.uses > 0 and torch._C._current_graph_task_id() != -1
        if not output.requires_grad or again:
            return
        self.uses += 1
        # The hook lives as long as the graph: it is not to hold the input so long.
        kept = [_keep_input(args[0] if args else kwargs["x"])]
        output.register_hook(lambda grad: self.receive(kept, grad))

    def receive(self, kept: list[Callable[[], Tensor]], grad: Tensor) -> None:
        """Take the gradient of an output; of the last one, find what is wanted."""
        if self.name in self.found or not kept:
            raise RuntimeError(f"a second backward pass within watch_growth reached {self.name}")
        self.calls.append(self._as_call(kept.pop()().detach(), grad.detach()))
        if len(self.calls) < self.uses:
            return
        plan = self.layer.plan
        try:
            if isinstance(plan, LinearPlan):
                self.found[self.name] = linear_growth(self.calls, plan, self.count)
            else:
                self.found[self.name] = conv2d_growth(self.calls, plan, self.count)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.calls.clear()

    def _as_call(self, x: Tensor, grad: Tensor) -> Call:
        """Return an input and a gradient with one dimension for the batch."""
        if isinstance(self.layer, SparseLinear):
            return Call(x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]))
        return Call(x.unsqueeze(0), grad.unsqueeze(0)) if x.dim() == 3 else Call(x, grad)


def _keep_input(x: Tensor) -> Callable[[], Tensor]:
    """Return what gives a layer's input in its backward pass, kept as the layer itself keeps it."""
    saved, recipe, dish = keep(x)
    if saved is None:
        assert dish is not None
        return lambda: dish.cook(Recipe(*recipe))
    kept, version = saved.detach(), saved._version

    def take() -> Tensor:
        if kept._version != version:
            raise RuntimeError("the input of a watched layer was changed in place")
        return kept

    return take
