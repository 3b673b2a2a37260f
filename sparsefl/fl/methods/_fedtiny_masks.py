"""FedTiny's masks: which layers have one, the pool of candidates, and static ones for controls."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl import pruning
from sparsefl.fl.method import Task
from sparsefl.fl.methods._latents import support_layers
from sparsefl.nn import report as sparsity_report
from sparsefl.nn import sparsify
from sparsefl.pruning._densities import largest
from sparsefl.pruning._prunable import prunable_weights
from sparsefl.structure import Structure, parse
from sparsefl.support import Support

Masks = Mapping[str, Support]

CANDIDATES = "candidates"
# Masks that a client draws itself from the seed, without any weights.
SEEDED: Mapping[str, Callable[..., dict[str, Tensor]]] = {
    "random": pruning.random,
    "erk": pruning.erdos_renyi,
}
INITIAL = (CANDIDATES, *SEEDED, "magnitude", "synflow")
# The first layer is dense while it takes no more of the kept weights: the densities of the others
# are drawn from half of the wanted one up.
_FIRST_AT_MOST = 0.4


@dataclass(frozen=True)
class Masked:
    """Which layers of a model have masks.

    Attributes:
        names: Their weights, from input to output; those of a dense first layer are among them.
        first_dense: Whether the first one keeps all of its weights.
        output: Whether the last layer of the model is among them.
    """

    names: tuple[str, ...]
    first_dense: bool
    output: bool


def masked_layers(model: nn.Module, density: float) -> Masked:
    """Leave the output layer and, where the density allows it, the first layer dense.

    Args:
        model: Plain torch model.
        density: Share of weights kept in all layers but the output's.
    """
    sizes = {name: weight.numel() for name, weight in prunable_weights(model).items()}
    output = len(sizes) == 1
    names = tuple(sizes)[: len(sizes) - (not output)]
    budget = density * sum(sizes[name] for name in names)
    first_dense = len(names) > 1 and sizes[names[0]] <= _FIRST_AT_MOST * budget
    return Masked(names, first_dense, output)


def pool(model: nn.Module, task: Task, seed: int) -> Iterator[dict[str, Support]]:
    """Give the candidates of a pre-trained model; all layers have a support, full or not.

    Raises:
        ValueError: if no draw of layer densities comes near the density.
    """
    masked = masked_layers(model, task.density)
    drawn = pruning.candidates(
        model,
        task.density,
        pool_size(task.options, task.density),
        seed,
        task.options["candidate_kind"],
        first_dense=masked.first_dense,
        output=masked.output,
        structure=task.options["structure"],
    )
    return ({name: Support.from_mask(mask) for name, mask in masks.items()} for masks in drawn)


def pool_size(options: Mapping[str, Any], density: float) -> int:
    """Return the number of candidates; where the option is 0, ``0.1 / density``."""
    return int(options["pool_size"]) or max(1, round(0.1 / density))


def static_masks(model: nn.Module, task: Task, seed: int) -> dict[str, Support]:
    """Make the masks of a rule that looks at no client: the controls.

    The budget is that of the candidates: ``density`` of all weights but the output layer's, those
    of a dense first layer counted; SynFlow alone spends it over all layers of the model.
    """
    masked, rule = masked_layers(model, task.density), task.options["initial"]
    structure = task.options["structure"]
    names = masked.names[masked.first_dense :]
    weights = {name: model.get_parameter(name) for name in names}
    if rule == "synflow":
        steps = task.options["iterations"]
        masks = pruning.synflow(model, task.density, task.example_input, steps, structure=structure)
    else:
        total = sum(model.get_parameter(name).numel() for name in masked.names)
        free = sum(weight.numel() for weight in weights.values())
        share = (task.density * total - (total - free)) / free
        apart = nn.ModuleList(model.get_submodule(name.rpartition(".")[0]) for name in names)
        make = functools.partial(SEEDED[rule], seed=seed) if rule in SEEDED else pruning.magnitude
        masks = dict(zip(names, make(apart, share, structure=structure).values(), strict=True))
    grid = parse(structure)
    return {name: _not_empty(masks[name], weights[name], rule, seed, grid) for name in names}


def _not_empty(
    mask: Tensor, weight: nn.Parameter, rule: str, seed: int, grid: Structure | None
) -> Support:
    """Return the support of a mask; an empty one keeps a weight: the largest, or one at random.

    With a structure it keeps a rectangle, likewise.
    """
    support = Support.from_mask(mask)
    if support.nnz > 0:
        return support
    if rule in SEEDED:
        rectangles = support.numel if grid is None else math.prod(grid.grid(support.shape))
        return Support.random(support.shape, 1 / rectangles, seed, grid)
    return Support.from_mask(largest({"weight": weight}, {"weight": 1}, grid)["weight"])


def pruned(masks: Masks) -> dict[str, Support]:
    """Return the supports that leave weights out: what is kept whole stays a dense layer."""
    return {name: support for name, support in masks.items() if support.nnz < support.numel}


def sparse_model(model: nn.Module, supports: Masks) -> nn.Module:
    """Replace the pruned layers by sparse layers.

    Raises:
        ValueError: if one of them has to stay dense, or shares its weight with another.
    """
    if not supports:
        return model
    converted = sparsify(model, dict(supports))
    if set(support_layers(converted)) != set(supports):
        raise ValueError(f"fedtiny needs sparse layers everywhere: {sparsity_report(converted)}")
    return converted


def kept(weight: Tensor, support: Support) -> Tensor:
    """Return a dense weight's values at the kept positions, ``[nnz]``, row-major."""
    return weight.detach().flatten()[torch.tensor(support.indices)]


def spread(values: Tensor, support: Support) -> Tensor:
    """Return values in the shape of the weight, 0 elsewhere."""
    flat = values.new_zeros(support.numel)
    flat[torch.tensor(support.indices)] = values
    return flat.view(support.shape)
