"""The networks that HideNseek trains: which layers get signs, their masks, their first scores."""

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.fl.aggregation import load_tensors
from sparsefl.fl.method import Task
from sparsefl.fl.methods._latents import load_latents, support_layers, untied
from sparsefl.nn import SignConv2d, SignLinear, densify, sparsify
from sparsefl.nn import report as sparsity_report
from sparsefl.pruning import left_dense, synflow
from sparsefl.random import normal
from sparsefl.support import Support

FIRST, LAST = "first", "last"


def weighted_layers(model: nn.Module) -> dict[str, Any]:
    """List the linear and convolution layers that can be pruned, by the name of their weight.

    In module order; without those that pruning leaves dense, depthwise convolutions among them.
    """
    spared = left_dense(model)
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d) and name not in spared
    }


def signed_weights(model: nn.Module, dense_layers: str) -> dict[str, Any]:
    """List the layers that are pruned and get signs, by the name of their weight.

    Args:
        model: Plain torch model.
        dense_layers: Which layers keep real, unpruned weights: "first", "last" and patterns of
            layer names, separated by commas; empty for none. "first" and "last" spare the largest
            layer, so that a small network still has signs.

    Raises:
        ValueError: if a pattern matches no layer, or none is left for signs.
    """
    layers = weighted_layers(model)
    if not layers:
        spared = left_dense(model)
        raise ValueError(
            "hidenseek needs a linear or convolution layer that can be pruned, the model has none"
            f"{f'; it leaves dense: {spared}' if spared else ''}"
        )
    names = list(layers)
    largest = max(names, key=lambda name: layers[name].weight.numel())
    ends = {FIRST: names[0], LAST: names[-1]}
    dense: set[str] = set()
    for pattern in filter(None, (part.strip() for part in dense_layers.split(","))):
        if pattern in ends:
            dense |= {ends[pattern]} - {largest}
            continue
        hits = {
            name
            for name in names
            if fnmatch.fnmatchcase(name, pattern)
            or fnmatch.fnmatchcase(name.removesuffix(".weight"), pattern)
        }
        if not hits:
            raise ValueError(f"dense_layers: no layer matches {pattern!r}; there are: {names}")
        dense |= hits
    if len(dense) == len(names):
        raise ValueError(f"hidenseek needs a layer for signs, dense_layers are all of {names}")
    return {name: layer for name, layer in layers.items() if name not in dense}


def draw_kaiming(model: nn.Module, seed: int) -> None:
    """Draw all weights from N(0, 2 / fan_in), one stream of ``seed`` a parameter; biases are 0.

    SynFlow needs them: on constant magnitudes it ties, and drops whole layers.
    """
    with torch.no_grad():
        for name, layer in weighted_layers(model).items():
            std = math.sqrt(2.0 / layer.weight[0].numel())
            drawn = normal(seed, name, tuple(layer.weight.shape), std)
            layer.weight.copy_(torch.from_numpy(drawn))
            if layer.bias is not None:
                layer.bias.zero_()


def prune(model: nn.Module, task: Task) -> dict[str, Support]:
    """Choose the kept positions of the layers that get signs, by SynFlow at the task's density.

    Raises:
        ValueError: if two layers share a weight.
    """
    layers = signed_weights(model, task.options["dense_layers"])
    masks = synflow(
        untied(model, "hidenseek"),
        task.density,
        task.example_input,
        task.options["iterations"],
        structure=task.options["structure"],
    )
    return {name: Support.from_mask(masks[name]) for name in layers}


def first_scores(
    model: nn.Module, supports: Mapping[str, Support], std: float
) -> dict[str, Tensor]:
    """Take the weights that are kept as scores, scaled to a root mean square of ``std`` a layer."""
    layers = weighted_layers(model)
    scores = {}
    for name, support in supports.items():
        weight = layers[name].weight.detach().flatten()
        kept = weight[torch.tensor(support.indices)]  # [nnz]
        size = kept.square().mean().sqrt() if support.nnz else kept.new_tensor(1.0)
        scores[name] = kept * (std / size)
    return scores


def sign_model(model: nn.Module, supports: Mapping[str, Support]) -> nn.Module:
    """Replace the pruned layers by sign layers.

    Raises:
        ValueError: if one of them has to stay dense.
    """
    converted = sparsify(model, supports, layer="sign")
    if set(sign_layers(converted)) != set(supports):
        raise ValueError(f"hidenseek needs sign layers everywhere: {sparsity_report(converted)}")
    return converted


def sign_layers(model: nn.Module) -> dict[str, SignLinear | SignConv2d]:
    """List a model's sign layers by the name of their dense weight."""
    return {
        name: layer
        for name, layer in support_layers(model).items()
        if isinstance(layer, SignLinear | SignConv2d)
    }


def signed_model(
    task: Task,
    supports: Mapping[str, Support],
    scores: Mapping[str, Tensor],
    dense: Mapping[str, Tensor],
) -> nn.Module:
    """Return ``c * sgn(s)`` on the masks, 0 elsewhere, in plain torch.

    Args:
        task: As of the run.
        supports: The masks, by the name of the weight.
        scores: Of each, ``[nnz]``, row-major.
        dense: Every other parameter and buffer.
    """
    model = sign_model(task.new_model(), supports)
    load_tensors(model, dense)
    load_latents(sign_layers(model), scores)
    return densify(model)
