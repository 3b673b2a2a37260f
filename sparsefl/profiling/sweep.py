"""Every layer alone at several densities of random masks, and dense."""

from collections.abc import Sequence

from sparsefl.profiling.measure import layer_run, measure, round_seconds
from sparsefl.profiling.network import Call
from sparsefl.profiling.study import Study
from sparsefl.profiling.verdict import SPARSE
from sparsefl.timing import Run, Samples


class Sweep(Study):
    """A study of the layers alone, over densities.

    Attributes:
        calls: Of each weight, in the order of ``weights``, its layers' calls by density; a density
            is missing where the weight cannot be sparse.
        kept: Of each weight, how many weights each density keeps.
        taken: Seconds of each weight's layers, ``[parts, rounds]``, by density, ``None`` for dense.
    """

    calls: list[dict[float, list[Call]]]
    kept: list[dict[float, int]]
    taken: list[dict[float | None, Samples]]

    def record(self, densities: Sequence[float], seed: int) -> None:
        """Make the network sparse at each density, and keep what its layers got."""
        self.calls = [{} for _ in self.weights]
        self.kept = [{} for _ in self.weights]
        obstacles = [weight.reason for weight in self.weights]
        for density in densities:
            self.steps.pop(SPARSE, None)
            for weight, reason in zip(self.weights, obstacles, strict=True):
                weight.support, weight.reason = None, reason
            self.choose_masks("random", density, seed)
            self._build_sparse()
            for weight, known, kept in zip(self.weights, self.calls, self.kept, strict=True):
                if weight.candidate and weight.support is not None:
                    kept[density] = weight.support.nnz
                    earlier = [weight.dense_calls, *known.values()]
                    known[density] = _sharing(weight.sparse_calls, earlier)

    def measure(self) -> None:
        """Time every layer alone, forward and backward, cheap ones first."""
        self.budget.enter("layers")
        self.taken = [{} for _ in self.weights]
        groups = []
        for index, (weight, known) in enumerate(zip(self.weights, self.calls, strict=True)):
            if known:
                runs: dict[float | None, Run] = {None: layer_run(weight.dense_calls, None)}
                runs |= {density: layer_run(calls, None) for density, calls in known.items()}
                groups.append((round_seconds(runs), index, runs))
                self.budget.tick()
        groups.sort(key=lambda group: group[:2])
        for turn, (round_s, index, runs) in enumerate(groups):
            left_s = self.budget.seconds - self.budget.elapsed_s
            share_s = left_s / (len(groups) - turn)
            self.taken[index] = measure(runs, self.budget, share_s, round_s)


def _sharing(calls: Sequence[Call], earlier: Sequence[Sequence[Call]]) -> list[Call]:
    """Let calls use the tensors of earlier ones that lie alike, so that they are kept once."""
    return [
        next((old.of(call.layer) for old in olds if old.same_memory(call)), call)
        for call, *olds in zip(calls, *earlier, strict=True)
    ]
