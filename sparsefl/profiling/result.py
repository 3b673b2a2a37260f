"""What a profile found: a table, JSON, and masks to go on with."""

import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sparsefl.profiling import table
from sparsefl.profiling.memory import Memory
from sparsefl.timing import StepTime

Verdict: TypeAlias = Literal["use it", "stay dense"]

# Of the JSON; raised when a key changes its meaning or goes.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Factor:
    """Median and quartiles over the rounds of ``dense / ours``; above 1 ours is faster."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, dense: npt.NDArray[np.float64], ours: npt.NDArray[np.float64]) -> "Factor":
        """Summarise the ratios of two samples taken in turns, ``[rounds]`` each."""
        lower, median, upper = np.nanquantile(dense / ours, (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper))


@dataclass(frozen=True)
class Parts:
    """Medians of what a layer's time is made of, seconds."""

    forward_s: float
    backward_s: float
    optimizer_s: float

    @classmethod
    def of(cls, samples: npt.NDArray[np.float64]) -> "Parts":
        """Summarise ``[parts, rounds]``; what comes after these three is left out."""
        forward_s, backward_s, optimizer_s = (float(np.nanmedian(part)) for part in samples[:3])
        return cls(forward_s, backward_s, optimizer_s)


@dataclass(frozen=True)
class LayerProfile:
    """One weight, with the layer (or the tied layers) that use it.

    Attributes:
        name: Name of the layer, or of the first that shares the weight.
        weight: Parameter name of the weight.
        kind: Class of the layer.
        shape: Shape of the dense weight.
        verdict: ``"use it"`` or ``"stay dense"``.
        reason: Why it stays dense; empty where it does not.
        density: Share of the weights that the mask keeps; None without a mask.
        dense_parameters: Weights and biases of the dense layer.
        kept_parameters: Those of the sparse one; None where there is none, like all below.
        dense_time: Its forward and backward pass in a step and the optimizer's step on it.
        sparse_time: The same, sparse, in the memory order of the network where all layers are.
        alone_time: The same between dense layers, conversions included.
        dense_parts: What ``dense_time`` is made of.
        sparse_parts: What ``sparse_time`` is made of.
        factor: ``dense_time / sparse_time``, paired.
        dense_memory: Counted memory of the dense layer.
        sparse_memory: Of the sparse one.
        dense_uplink_bytes: What the dense layer adds to a client's message.
        sparse_uplink_bytes: What the sparse one adds.
        setup_bytes: Its support, sent once.
        repetitions: Timed runs of each.
        layout: What the sparse layer computes with in the network where all layers are sparse, and
            why; between dense ones it may be another.
    """

    name: str
    weight: str
    kind: str
    shape: tuple[int, ...]
    verdict: Verdict
    reason: str
    density: float | None
    dense_parameters: int
    kept_parameters: int | None
    dense_time: StepTime
    sparse_time: StepTime | None
    alone_time: StepTime | None
    dense_parts: Parts
    sparse_parts: Parts | None
    factor: Factor | None
    dense_memory: Memory
    sparse_memory: Memory | None
    dense_uplink_bytes: int
    sparse_uplink_bytes: int | None
    setup_bytes: int | None
    repetitions: int
    layout: str | None


@dataclass(frozen=True)
class StepProfile:
    """The whole local step, optimizer included, of one form of the network.

    Attributes:
        time: Of a step.
        factor: Dense step over this one, paired; None for the dense one.
        parameters: Trained and fixed parameters.
        memory: Counted memory of the network.
        uplink_bytes: A client's message.
        setup_bytes: Supports, sent once.
        repetitions: Timed steps.
    """

    time: StepTime
    factor: Factor | None
    parameters: int
    memory: Memory
    uplink_bytes: int
    setup_bytes: int
    repetitions: int


@dataclass(frozen=True)
class Profile:
    """Whether, and where, sparsity pays for a network.

    Attributes:
        settings: What was asked for, and the machine.
        layers: Every weight that could be listened to, in the order of the calls.
        unmeasured: Name and reason of other modules with weights; they stay dense.
        dense: The step of the dense network.
        sparse: With every layer sparse that can be.
        recommended: With the layers sparse whose verdict is ``"use it"``.
        notes: What to know when reading the numbers.
        masks: Masks of the recommended layers: ``sparsify(model, profile.masks)``.
        all_masks: Masks of every layer that can be sparse.
    """

    settings: Mapping[str, Any]
    layers: tuple[LayerProfile, ...]
    unmeasured: tuple[tuple[str, str], ...]
    dense: StepProfile
    sparse: StepProfile
    recommended: StepProfile
    notes: tuple[str, ...]
    masks: Mapping[str, Tensor]
    all_masks: Mapping[str, Tensor]

    @property
    def keep_dense(self) -> dict[str, str]:
        """Names of the layers that should stay dense, each with the reason."""
        measured = {la.name: la.reason for la in self.layers if la.verdict == "stay dense"}
        return measured | dict(self.unmeasured)

    def table(self) -> str:
        """Return the profile as text: a line a layer, the whole step, what stays dense and why."""
        return table.render(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the masks as plain data; seconds and bytes by the names above."""
        found = asdict(
            Profile(**{**vars(self), "masks": {}, "all_masks": {}, "settings": dict(self.settings)})
        )
        del found["masks"], found["all_masks"]
        return {"schema_version": SCHEMA_VERSION, **found, "keep_dense": self.keep_dense}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON."""
        pathlib.Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")
