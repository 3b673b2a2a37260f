"""The weights of the profiled network: which can be sparse, and why the others cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import prune

from sparsefl.nn._weights import WeightGroup, find_other_matrices
from sparsefl.profiling.network import Call
from sparsefl.profiling.verdict import DENSE, SPARSE, LayerTimes
from sparsefl.support import Support
from sparsefl.timing import Samples

ALONE = "alone"


@dataclass
class Weight:
    """One weight of the network, and what was found out about it.

    Attributes:
        group: The layers that use it.
        support: What its mask keeps; None without a mask.
        reason: Why it cannot be sparse; empty where it can.
        dense_calls: Calls of its layers in a step of the dense network.
        sparse_calls: The same in the all-sparse network.
        samples: Seconds of its layers, ``[parts, rounds]`` (forward, backward, optimizer, all), by
            ``dense``, ``sparse`` and ``alone``.
        use: Whether it is to be sparse.
    """

    group: WeightGroup
    support: Support | None = None
    reason: str = ""
    dense_calls: list[Call] = field(default_factory=list)
    sparse_calls: list[Call] = field(default_factory=list)
    samples: dict[str, Samples] = field(default_factory=dict)
    use: bool = False

    @property
    def names(self) -> list[str]:
        """Its layers, by their first names."""
        return list(self.group.distinct)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        weight = next(iter(self.group.layers.values())).weight
        assert isinstance(weight, Tensor)
        return tuple(weight.shape)

    @property
    def candidate(self) -> bool:
        """Whether it can be sparse."""
        return self.support is not None and not self.reason

    @property
    def alone_calls(self) -> list[Call]:
        """The sparse layers on what the dense ones got; empty where that is the same."""
        pairs = list(zip(self.sparse_calls, self.dense_calls, strict=True))
        if all(sparse.same_memory(dense) for sparse, dense in pairs):
            return []
        return [dense.of(sparse.layer) for sparse, dense in pairs]

    @property
    def times(self) -> LayerTimes:
        """Medians of the samples."""
        medians = {name: float(np.nanmedian(taken[-1])) for name, taken in self.samples.items()}
        alone_s = medians.get(ALONE, medians[SPARSE])
        return LayerTimes(medians[DENSE], medians[SPARSE], alone_s)


def without_pruning_hooks(model: nn.Module) -> nn.Module:
    """Make the masks of torch.nn.utils.prune permanent, in place: a client trains no masks."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return model


def obstacle(group: WeightGroup) -> str:
    """Return why a weight cannot be sparse whatever its mask, or nothing."""
    return next(iter(group.obstacles(0).values()), "")


def useless(support: Support | None, layer: str) -> str:
    """Return why there is nothing to gain by this support, or nothing."""
    if support is None:
        return "no mask given"
    if support.nnz == 0:
        return "its mask keeps no weight: sparse, only its bias would be left"
    if support.nnz == support.numel and layer == "sparse":
        return "its mask keeps every weight"
    return ""


def refusal(names: Sequence[str], refused: Mapping[str, str]) -> str:
    """Return why one of a weight's layers cannot be repeated alone, or nothing."""
    return next((refused[name] for name in names if name in refused), "")


def slower(weight: Weight) -> str:
    """Return in words why a layer that can be sparse should not be."""
    times = weight.times
    if times.sparse_s > times.dense_s:
        lost_ms = (times.sparse_s - times.dense_s) * 1e3
        return f"sparse it takes {times.sparse_s / times.dense_s:.2f}x as long, +{lost_ms:.3g} ms"
    if times.alone_s > times.dense_s:
        return "faster sparse only between sparse layers, which pay no conversions"
    return "faster sparse alone, but not in the whole step"


def without_weight(model: nn.Module, weights: Sequence[Weight]) -> list[tuple[str, str]]:
    """Name the other modules with matrices among their own parameters, LSTMs for example."""
    return list(find_other_matrices(model, [weight.group for weight in weights]).items())


def nothing_to_do(kind: str, weights: Sequence[Weight], model: nn.Module) -> str:
    """Return the message for a network without a layer that can be sparse."""
    found = [(weight.names[0], weight.reason) for weight in weights]
    found += without_weight(model, weights)
    listed = ", ".join(f"{name or 'the model'} ({reason})" for name, reason in found)
    return (
        f"no layer of {kind} can be sparse: it needs a torch.nn.Linear or Conv2d in float32; "
        f"it has: {listed or 'no weights'}"
    )
