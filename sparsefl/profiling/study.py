"""One profile, from the network to its verdicts."""

import time
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from sparsefl import pruning
from sparsefl.messages import one_line
from sparsefl.names import MaskRule
from sparsefl.nn import densify, report, sparsify
from sparsefl.nn._support_layer import SupportLike
from sparsefl.nn._weights import find_weights
from sparsefl.profiling import verdict
from sparsefl.profiling.masks import MOST_WORDS, supports_by_rule
from sparsefl.profiling.measure import Budget, layer_run, measure, round_seconds
from sparsefl.profiling.network import LocalStep, OptimizerName, open_optimizer, record
from sparsefl.profiling.verdict import DENSE, RECOMMENDED, SPARSE
from sparsefl.profiling.weights import (
    ALONE,
    Weight,
    nothing_to_do,
    obstacle,
    refusal,
    useless,
    without_pruning_hooks,
)
from sparsefl.timing import Run, Samples, stopwatch

# Shares of the time: SynFlow's, and the least that is left for the whole steps.
_MASKS_SHARE, _STEPS_SHARE = 1 / 6, 0.35
# Runs of each whole step that must fit, or the layers get less time.
_STEPS_LEAST = 8


class Study:
    """The dense network, its sparse forms, and what was measured of them.

    Attributes:
        weights: Its weights, in the order of the calls.
        steps: The local step of each form: ``dense``, ``sparse``, ``recommended``.
        samples: Seconds of each form's step, ``[rounds]``, taken in turns.
        notes: What came up on the way.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        layer: Literal["sparse", "sign"],
        optimizer: OptimizerName,
        budget: Budget,
    ) -> None:
        """Copy the model and make a first step.

        Raises:
            ValueError: if it does not train on these inputs, or has no layer that can be sparse.
        """
        budget.enter("first step")
        self.inputs, self.layer, self.optimizer, self.budget = inputs, layer, optimizer, budget
        self.kind = type(model).__name__
        self.dense = without_pruning_hooks(densify(model))
        groups = find_weights(self.dense)
        self.weights = [Weight(g, reason=obstacle(g)) for g in groups]
        if all(weight.reason for weight in self.weights):
            raise ValueError(nothing_to_do(self.kind, self.weights, self.dense))
        self.steps = {DENSE: self._step(self.dense)}
        self._make_step(DENSE)
        self.samples: dict[str, Samples] = {}
        self.notes: list[str] = []
        self._listen(DENSE)
        if all(weight.reason for weight in self.weights):
            raise ValueError(nothing_to_do(self.kind, self.weights, self.dense))

    def choose_masks(
        self, masks: MaskRule | Mapping[str, SupportLike] | None, density: float, seed: int
    ) -> None:
        """Give each weight its support; see :func:`sparsefl.profile`."""
        self.budget.enter("masks")
        groups = [weight.group for weight in self.weights]
        free = [not weight.reason for weight in self.weights]
        seconds = self.budget.seconds * _MASKS_SHARE
        supports, self.masks_said = supports_by_rule(
            self.dense, groups, free, masks, density, self.inputs, seconds, seed
        )
        self.density = density
        spared = pruning.left_dense(self.dense)
        for weight, support in zip(self.weights, supports, strict=True):
            if not weight.reason:
                weight.support = support
                why = useless(support, self.layer)
                weight.reason = spared.get(weight.names[0], why) if support is None else why

    def run(self) -> None:
        """Measure everything; ``weights``, ``steps`` and ``samples`` hold what was found."""
        self.budget.enter("recording")
        begin = time.perf_counter()
        self.steps[DENSE]()
        dense_s = time.perf_counter() - begin
        begin = time.perf_counter()
        self._build_sparse()
        sparse_s = time.perf_counter() - begin if SPARSE in self.steps else 0.0
        least_s = _STEPS_LEAST * (dense_s + 2 * sparse_s)
        self._time_layers(max(least_s, self.budget.seconds * _STEPS_SHARE))
        self._choose()
        self._time_steps()
        self._settle()

    def _step(self, model: nn.Module) -> LocalStep:
        return LocalStep.of(model, self.optimizer, self.inputs)

    def _make_step(self, form: str) -> None:
        """Make a step of a form of the network.

        Raises:
            ValueError: if it fails, with what to do.
        """
        try:
            self.steps[form]()
        # Whatever a stranger's forward raises, it is these inputs, or layers, that it cannot take.
        except Exception as error:
            shapes = [str(list(i.shape)) for i in self.inputs if isinstance(i, Tensor)]
            advice = (
                "check one sample's shape (input_shape), give other arguments as example_input "
                "(--example), and more than one sample where it normalises over the batch"
                if form == DENSE
                else "the dense one can: use .reshape() where it has .view() on the outputs of "
                "its layers, or give masks that leave out the layers concerned"
            )
            raise ValueError(
                f"the {form} {self.kind} cannot make a training step on inputs of shape "
                f"{', '.join(shapes)}: {one_line(error, MOST_WORDS)}; {advice}"
            ) from error

    def _listen(self, form: str) -> None:
        """Record the calls of every layer in one step."""
        model = self.steps[form].model
        layers = {name: model.get_submodule(name) for w in self.weights for name in w.names}
        seen = record(self.steps[form], layers)
        for weight in self.weights:
            calls = [call for name in weight.names for call in seen.calls.get(name, [])]
            if form == DENSE:
                weight.dense_calls = calls
                weight.reason = weight.reason or refusal(weight.names, seen.refused)
            else:
                weight.sparse_calls = calls
        if form == DENSE:
            order = {name: place for place, name in enumerate(seen.calls)}
            last = len(order)
            self.weights.sort(key=lambda w: min(order.get(name, last) for name in w.names))

    def _build_sparse(self) -> None:
        """Make the network sparse wherever it can be, and record its calls."""
        self._drop_unbuildable()
        chosen = [weight for weight in self.weights if weight.candidate]
        if not chosen:
            return
        self.steps[SPARSE] = self._step(self._sparsified(chosen))
        self._make_step(SPARSE)
        self._listen(SPARSE)

    def _drop_unbuildable(self) -> None:
        """Let layers stay dense for which the kernels have no plan, or whose ties forbid it."""
        chosen = [weight for weight in self.weights if weight.candidate]
        left = self._left_dense(chosen)
        if left is None:
            for weight in chosen:
                alone = self._left_dense([weight])
                weight.reason = "the kernels cannot index it" if alone is None else ""
            left = {}
        for weight in chosen:
            weight.reason = weight.reason or left.get(weight.names[0], "")

    def _left_dense(self, weights: list[Weight]) -> dict[str, str] | None:
        """Return which of the weights ``sparsify`` leaves dense, or None where it refuses."""
        try:
            return dict(report(self._sparsified(weights)).left_dense) if weights else {}
        except ValueError:
            return None

    def _sparsified(self, weights: list[Weight]) -> nn.Module:
        masks = {w.group.names[0]: w.support for w in weights if w.support is not None}
        return sparsify(self.dense, masks, layer=self.layer)

    def _time_layers(self, reserve_s: float) -> None:
        """Time every layer alone, cheap ones first, so that what they leave goes to the others."""
        self.budget.enter("layers")
        groups = []
        for weight in self.weights:
            taken = self._layer_runs(weight)
            if taken:
                groups.append((round_seconds(taken), weight, taken))
                self.budget.tick()
        groups.sort(key=lambda group: group[0])
        for index, (round_s, weight, taken) in enumerate(groups):
            left_s = self.budget.seconds - reserve_s - self.budget.elapsed_s
            share_s = left_s / (len(groups) - index)
            weight.samples = measure(taken, self.budget, share_s, round_s)

    def _layer_runs(self, weight: Weight) -> dict[str, Run]:
        """Return the runs of a weight's layers, each form with an optimizer of its own."""
        forms = [(DENSE, {DENSE: weight.dense_calls})]
        if weight.candidate:
            forms.append((SPARSE, {SPARSE: weight.sparse_calls, ALONE: weight.alone_calls}))
        runs: dict[str, Run] = {}
        for form, lists in forms:
            layers = [self.steps[form].model.get_submodule(name) for name in weight.names]
            optimizer = open_optimizer(
                [parameter for layer in layers for parameter in layer.parameters()], self.optimizer
            )
            runs |= {name: layer_run(calls, optimizer) for name, calls in lists.items() if calls}
        return runs

    def _choose(self) -> None:
        chain = [weight for weight in self.weights if weight.candidate]
        for weight, use in zip(chain, verdict.choose([w.times for w in chain]), strict=True):
            weight.use = use

    def _time_steps(self) -> None:
        """Time the whole step of each form; forms that are the same share their times."""
        self.budget.enter("whole steps")
        candidates = [weight for weight in self.weights if weight.candidate]
        used = [weight for weight in candidates if weight.use]
        same = DENSE if not used else SPARSE if len(used) == len(candidates) else None
        if same is None:
            self.steps[RECOMMENDED] = self._step(self._sparsified(used))
            self._make_step(RECOMMENDED)
        runs = {name: stopwatch(step) for name, step in self.steps.items()}
        round_s = round_seconds(runs)
        left_s = self.budget.seconds - self.budget.elapsed_s
        samples = {k: v[-1] for k, v in measure(runs, self.budget, left_s, round_s).items()}
        samples.setdefault(SPARSE, samples[DENSE])
        samples.setdefault(RECOMMENDED, samples[same or RECOMMENDED])
        for form, twin in ((SPARSE, DENSE), (RECOMMENDED, same)):
            if form not in self.steps and twin is not None:
                self.steps[form] = self.steps[twin]
        self.samples = samples

    def _settle(self) -> None:
        """Let the whole step decide where it contradicts the layers alone."""
        decided = verdict.settle(self.samples)
        if decided == RECOMMENDED:
            return
        self.steps[RECOMMENDED] = self.steps[decided]
        self.samples[RECOMMENDED] = self.samples[decided]
        for weight in self.weights:
            weight.use = weight.candidate and decided == SPARSE
        self.notes.append(
            f"From the layers alone another choice followed; the whole step was faster {decided}, "
            "so that is the verdict."
        )
