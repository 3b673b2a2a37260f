"""From which density on each layer of a network is faster dense.

>>> from sparsefl.profiling import profile_crossover
>>> crossover = profile_crossover(model, (1, 28, 28), batch_size=32)
>>> print(crossover.table())
>>> crossover.plot("crossover.png")
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from sparsefl.defaults import DENSITIES, PROFILE_S
from sparsefl.profiling import arguments, crossover_plot, table
from sparsefl.profiling.assemble import circumstances
from sparsefl.profiling.measure import Budget
from sparsefl.profiling.result import Factor
from sparsefl.profiling.sweep import Sweep
from sparsefl.profiling.weights import Weight, without_weight
from sparsefl.timing import Samples, StepTime, crossover

# Of the JSON; raised when a key changes its meaning or goes.
SCHEMA_VERSION = 1

_NOTES = (
    "Factor: dense / sparse, run by run, the median; above 1x sparse is faster. A layer's time is "
    "its forward and backward pass alone, on the inputs and output gradients that it had in the "
    "dense and in the all-sparse network.",
    "dense from: the density at which the factor falls through 1, linear between the logarithms of "
    "the two densities around it; with > or < it lies beyond those measured.",
    "Masks are random: each layer keeps this share of its weights, drawn uniformly. Other masks of "
    "the same density take about as long.",
    "A - stands where such a mask would keep no weight of a layer, or every one.",
)


@dataclass(frozen=True)
class Point:
    """A layer at one density.

    Attributes:
        density: Share of its weights that was asked for.
        kept: Weights kept.
        time: Forward and backward pass of its calls in one step.
        factor: Dense time over this one, paired.
    """

    density: float
    kept: int
    time: StepTime
    factor: Factor


@dataclass(frozen=True)
class LayerCrossover:
    """One weight, with the layer (or the tied layers) that use it, over densities.

    Attributes:
        name: Name of the layer, or of the first that shares the weight.
        weight: Parameter name of the weight.
        kind: Class of the layer.
        shape: Shape of the dense weight.
        dense_time: Forward and backward pass of its calls in one dense step.
        points: The same at each density, ascending.
        repetitions: Timed runs of each.
    """

    name: str
    weight: str
    kind: str
    shape: tuple[int, ...]
    dense_time: StepTime
    points: tuple[Point, ...]
    repetitions: int

    @property
    def numel(self) -> int:
        """Weights of the dense layer."""
        return int(np.prod(self.shape))

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Density and factor of each point."""
        return [(point.density, point.factor.median) for point in self.points]

    @property
    def density(self) -> float | None:
        """The density from which on dense is faster; None where it lies beyond those measured."""
        return crossover(self.curve)

    @property
    def dense_from(self) -> str:
        """The same in words: ``"0.31"``, ``"> 0.5"``, ``"< 0.01"``."""
        if self.density is not None:
            return f"{self.density:.2g}"
        last = self.points[-1]
        beyond = last.factor.median >= 1
        return f"> {last.density:g}" if beyond else f"< {self.points[0].density:g}"


@dataclass(frozen=True)
class Crossover:
    """From which density on each layer of a network is faster dense.

    Attributes:
        settings: What was asked for, and the machine.
        densities: Those measured, ascending.
        layers: Every layer that can be sparse, in the order of the calls.
        left_dense: Name and reason of the others that hold a weight matrix.
        notes: What to know when reading the numbers.
    """

    settings: Mapping[str, Any]
    densities: tuple[float, ...]
    layers: tuple[LayerCrossover, ...]
    left_dense: Mapping[str, str]
    notes: tuple[str, ...] = _NOTES

    def table(self) -> str:
        """Return the factors as text: a line a layer, a column a density, the crossover last."""
        head = ("layer", "kind", "weights", "dense ms", *(f"{d:g}" for d in self.densities))
        rows = [
            (
                layer.name or "the model",
                layer.kind,
                f"{layer.numel:,}",
                table.ms(layer.dense_time),
                *_cells(layer, self.densities),
                layer.dense_from,
                str(layer.repetitions),
            )
            for layer in self.layers
        ]
        parts = [
            f"{self.title}, times faster than dense by density of random masks",
            table.align((*head, "dense from", "runs"), rows),
            table.stay_dense(self.left_dense) if self.left_dense else "",
            "\n".join(f"- {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part)

    @property
    def title(self) -> str:
        """What was measured, in a line."""
        s = self.settings
        threads = f"{s['threads']} thread{'s' * (s['threads'] > 1)}"
        return f"{s['model']}, batch {s['batch_size']}, {s['layer']} layers, {threads}"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw factor against density, one line a layer, of the 12 largest; the rest is named.

        Args:
            path: Image file to write; the suffix chooses the format.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed.
            ValueError: if matplotlib writes no such format.
        """
        crossover_plot.draw(self, pathlib.Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; ``crossover_density`` is None beyond the densities."""
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": dict(self.settings),
            "densities": list(self.densities),
            "layers": [asdict(la) | {"crossover_density": la.density} for la in self.layers],
            "left_dense": dict(self.left_dense),
            "notes": list(self.notes),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON."""
        pathlib.Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")


def _cells(layer: LayerCrossover, densities: Sequence[float]) -> list[str]:
    factors = {density: f"{factor:.2f}x" for density, factor in layer.curve}
    return [factors.get(density, table.ABSENT) for density in densities]


def profile_crossover(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    densities: Sequence[float] = DENSITIES,
    example_input: Tensor | tuple[Any, ...] | None = None,
    batch_size: int = 32,
    layer: Literal["sparse", "sign"] = "sparse",
    threads: int | None = None,
    seconds: float = PROFILE_S,
    seed: int = 0,
    on_progress: Callable[[str, float], None] | None = None,
) -> Crossover:
    """Time every layer that can be sparse alone, at several densities of random masks, and dense.

    A layer's forward and backward passes, dense and at all densities, are interleaved in one
    process, on the inputs and output gradients that it had in the dense network and in the network
    where all layers are sparse, memory order included. The step they come from is that of
    :func:`sparsefl.profile`.

    Args:
        model: Any network on the CPU; left untouched, and so is torch's random state.
        input_shape: Shape of one sample, without the batch; normal random inputs are drawn.
        densities: Shares of weights kept, in (0, 1], two or more.
        example_input: A batch to use instead: a tensor, or the tuple of forward's arguments.
        batch_size: Samples a step; of ``example_input`` its own.
        layer: ``"sparse"`` for real weights, ``"sign"`` for sign supermasks.
        threads: Threads of torch; None leaves them as they are.
        seconds: What it may take; how often each time was taken is said. A network of seconds a
            step takes longer.
        seed: Of masks and inputs.
        on_progress: Called with the stage and the share of ``seconds`` that has passed.

    Returns:
        Factors and crossover densities, as a table, a plot or plain data.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range, the network does not train on these inputs, or
            none of its layers can be sparse.
    """
    arguments.check_model(model)
    arguments.check_choice("layer", layer, ("sparse", "sign"))
    arguments.check_amounts(batch_size, threads, seconds)
    ascending = arguments.ascending(densities)
    with arguments.surroundings(threads, seed):
        inputs = arguments.make_inputs(input_shape, example_input, batch_size)
        budget = Budget(seconds, on_progress or arguments.silent)
        sweep = Sweep(model, inputs, layer, "sgd", budget)
        sweep.record(ascending, seed)
        sweep.measure()
        return _assemble(sweep, ascending)


def _assemble(sweep: Sweep, densities: tuple[float, ...]) -> Crossover:
    triples = list(zip(sweep.weights, sweep.kept, sweep.taken, strict=True))
    layers = tuple(_one(sweep, weight, kept, taken) for weight, kept, taken in triples if taken)
    silent = {name: w.reason for w, _, taken in triples if not taken for name in w.names}
    if not layers:
        listed = ", ".join(f"{name or 'the model'} ({why})" for name, why in silent.items())
        raise ValueError(f"no layer can be sparse at densities {densities}: {listed}")
    return Crossover(
        settings={**circumstances(sweep), "masks": "random"},
        densities=densities,
        layers=layers,
        left_dense=silent | dict(without_weight(sweep.dense, sweep.weights)),
    )


def _one(
    sweep: Sweep, weight: Weight, kept: Mapping[float, int], taken: Mapping[float | None, Samples]
) -> LayerCrossover:
    # The last part is the whole.
    seconds = {density: samples[-1] for density, samples in taken.items()}
    dense = seconds[None]
    return LayerCrossover(
        name=weight.names[0],
        weight=weight.group.names[0],
        kind=type(sweep.dense.get_submodule(weight.names[0])).__name__,
        shape=weight.shape,
        dense_time=StepTime.of(dense),
        points=tuple(
            Point(at, nnz, StepTime.of(seconds[at]), Factor.of(dense, seconds[at]))
            for at, nnz in kept.items()
        ),
        repetitions=int(np.isfinite(dense).sum()),
    )
