"""Which weights the profiled network keeps: by a rule of :mod:`sparsefl.pruning`, or the user's."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparsefl import pruning
from sparsefl.messages import one_line
from sparsefl.names import MASK_RULES, MaskRule
from sparsefl.nn._support_layer import SupportLike
from sparsefl.nn._weights import WeightGroup, match_masks
from sparsefl.support import Support

# Characters of an error's message that are quoted.
MOST_WORDS = 300
# One iteration collapses layers; the original takes 100.
_LEAST_ITERATIONS, _MOST_ITERATIONS = 5, 100


def supports_by_rule(
    model: nn.Module,
    groups: Sequence[WeightGroup],
    free: Sequence[bool],
    masks: MaskRule | Mapping[str, SupportLike] | None,
    density: float,
    inputs: tuple[Any, ...],
    seconds: float,
    seed: int,
) -> tuple[list[Support | None], str]:
    """Return the support of each weight, None where it has none, and how they came about.

    Args:
        model: The dense network; left as it is.
        groups: Its weights.
        free: Which of them can be sparse.
        masks: A rule; ``"own"``: masks of torch.nn.utils.prune, else the weights' zeros; masks by
            parameter name; None: SynFlow where it can prune this network and leaves every free
            layer a weight, else Erdos-Renyi.
        density: Share of weights kept, for all rules but ``"own"``.
        inputs: Arguments of the network's forward.
        seconds: What SynFlow may take.
        seed: Seed of random masks.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a rule is unknown, or cannot be applied to this network.
        KeyError: if ``masks`` names a parameter that the model lacks.
    """
    if isinstance(masks, Mapping):
        return match_masks(model, list(groups), masks), "given masks"
    if masks not in (None, *MASK_RULES):
        raise ValueError(f"masks must be one of {', '.join(MASK_RULES)}, or masks, got {masks!r}")
    if masks == "own":
        return _own(groups), "the model's own masks or zeros"
    if masks is None:
        return _synflow_or_not(model, groups, free, density, inputs, seconds, seed)
    if masks == "synflow":
        try:
            found, said = _synflow(model, density, inputs, seconds)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"SynFlow cannot prune this network, {one_line(error, MOST_WORDS)}: choose masks "
                "erdos_renyi"
            ) from error
        return _matched(groups, found), said
    if masks == "magnitude":
        return _matched(groups, pruning.magnitude(model, density)), masks
    rule = pruning.random if masks == "random" else pruning.erdos_renyi
    return _matched(groups, rule(model, density, seed)), str(masks)


def _synflow_or_not(
    model: nn.Module,
    groups: Sequence[WeightGroup],
    free: Sequence[bool],
    density: float,
    inputs: tuple[Any, ...],
    seconds: float,
    seed: int,
) -> tuple[list[Support | None], str]:
    """Prune by SynFlow, or by Erdos-Renyi and say why."""
    try:
        found, said = _synflow(model, density, inputs, seconds)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = f"SynFlow cannot prune this network, {one_line(error, MOST_WORDS)}"
    else:
        supports = _matched(groups, found)
        emptied = [
            group.names[0]
            for group, support, can in zip(groups, supports, free, strict=True)
            if can and support is not None and support.nnz == 0
        ]
        if not emptied:
            return supports, said
        reason = f"SynFlow leaves no weight of {', '.join(emptied)}"
    return _matched(groups, pruning.erdos_renyi(model, density, seed)), f"erdos_renyi, as {reason}"


def _synflow(
    model: nn.Module, density: float, inputs: tuple[Any, ...], seconds: float
) -> tuple[dict[str, Tensor], str]:
    """Prune in as many iterations as the time allows; the first, thrown away, tells its length."""
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
        raise TypeError("it needs one floating tensor as input")
    example = inputs[0][:1]
    started = time.perf_counter()
    masks = pruning.synflow(model, density, example, iterations=1)
    one_s = max(time.perf_counter() - started, 1e-6)
    iterations = int((seconds - one_s) / one_s)
    iterations = max(_LEAST_ITERATIONS, min(iterations, _MOST_ITERATIONS))
    if density < 1:
        masks = pruning.synflow(model, density, example, iterations)
    return masks, f"synflow, {iterations} iterations"


def _own(groups: Sequence[WeightGroup]) -> list[Support | None]:
    supports: list[Support | None] = []
    for group in groups:
        blocked = group.obstacles(0)
        own = [] if blocked else group.pruned_supports()
        supports.append(own[0] if own and all(one == own[0] for one in own) else None)
    return supports


def _matched(groups: Sequence[WeightGroup], masks: Mapping[str, Tensor]) -> list[Support | None]:
    """Return each weight's support; a rule names a tied weight once."""
    supports: list[Support | None] = []
    for group in groups:
        named = [masks[name] for name in group.names if name in masks]
        supports.append(Support.from_mask(named[0]) if named else None)
    return supports
