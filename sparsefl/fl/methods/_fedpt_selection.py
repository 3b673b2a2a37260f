"""Which weights FedPT freezes: by pattern, all but a pattern, or the largest up to a share."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

# Comma-separated shell patterns, or a sequence of them.
Patterns: TypeAlias = str | Sequence[str]


def frozen_names(
    model: nn.Module,
    frozen: Patterns | None = None,
    trained: Patterns | None = None,
    fraction: float = 0.0,
) -> tuple[str, ...]:
    """Choose the frozen weights.

    Args:
        model: The dense model.
        frozen: Patterns of weights ("fc1.weight", "features.*") or of their layers ("fc1"): these.
        trained: Patterns of the same kind: all but these.
        fraction: The largest layers, as few as hold this share of all parameters, in [0, 1).

    Returns:
        Their names, in the model's order; without any choice, the largest linear layer.

    Raises:
        TypeError: if patterns are no text.
        ValueError: if more than one choice is made, a pattern matches no layer that can be frozen,
            or no other weight is left to train.
    """
    layers = freezable(model)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    given = [k for k, v in _choices(frozen, trained, fraction).items() if v]
    if len(given) > 1:
        raise ValueError(f"fedpt takes one of {' and '.join(given)}, not both")
    if frozen is not None:
        chosen = _matching(model, layers, "frozen", frozen)
    elif trained is not None:
        chosen = set(layers) - _matching(model, layers, "trained", trained)
    elif fraction:
        chosen = _largest(sizes, fraction, sum(p.numel() for p in model.parameters()))
    else:
        linear = {name: n for name, n in sizes.items() if isinstance(layers[name], nn.Linear)}
        chosen = _largest(linear or sizes, 0.0, 1)
    others = [n for n, p in model.named_parameters() if n not in layers and p.requires_grad]
    if len(chosen) >= len(layers) and not any(model.get_parameter(n).dim() > 1 for n in others):
        raise ValueError(
            f"fedpt needs a layer left to train, frozen would be all of {list(layers)}"
        )
    return tuple(name for name in layers if name in chosen)


def frozen_at(sizes: Mapping[str, int], total: int, capability: float | None) -> frozenset[str]:
    """Choose what a client freezes that can train the share ``c`` of all parameters.

    The largest layers, as few as hold ``1 - c``: the stronger the client, the fewer of the same
    layers; none at 1.

    Args:
        sizes: Elements of each layer that can be frozen, in the model's order.
        total: Parameters of the model.
        capability: c, in (0, 1]; ``None`` is nothing.

    Raises:
        ValueError: if the layers hold less than that, or none would be left to train.
    """
    if capability is None or capability >= 1:
        return frozenset()
    chosen = _largest(sizes, 1 - capability, total)
    if len(chosen) == len(sizes):
        raise ValueError(
            f"a client of capability {capability} would freeze all of {list(sizes)}: fedpt needs "
            "a layer left to train"
        )
    return frozenset(chosen)


def frozen_of(
    model: nn.Module, options: Mapping[str, Any], capability: float | None
) -> tuple[str, ...]:
    """Choose by FedPT's options, or at a client of a capability, where there are any.

    Raises:
        ValueError: as :func:`frozen_names` and :func:`frozen_at`, or if there are both.
    """
    keys = ("frozen", "trained", "frozen_fraction")
    chosen = tuple(options[key] for key in keys)
    if capability is None:
        return frozen_names(model, *chosen)
    if any(chosen):
        raise ValueError(f"fedpt takes capabilities or one of {', '.join(keys)}, not both")
    frozen = frozen_at(*layer_sizes(model), capability)
    return tuple(name for name in freezable(model) if name in frozen)


def layer_sizes(model: nn.Module) -> tuple[dict[str, int], int]:
    """Return the elements of each layer that can be frozen, and those of all parameters."""
    sizes = {name: layer.weight.numel() for name, layer in freezable(model).items()}
    return sizes, sum(parameter.numel() for parameter in model.parameters())


def _choices(
    frozen: Patterns | None, trained: Patterns | None, fraction: float
) -> dict[str, object]:
    check_fraction(fraction)
    return {
        "frozen": frozen is not None,
        "trained": trained is not None,
        "frozen_fraction": fraction,
    }


def check_fraction(fraction: float) -> None:
    """Refuse a share of the parameters that is none, or all.

    Raises:
        ValueError: if it is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"frozen_fraction must be at least 0 and below 1, got {fraction}")


def freezable(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """List the layers that can be frozen, by the name of their weight.

    Left out are subclasses, which may compute something else, convolutions whose padding is not
    zeros, and weights that other modules share.
    """
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d)
        and isinstance(module, nn.Linear | nn.Conv2d)
        and getattr(module, "padding_mode", "zeros") == "zeros"
        and owners[id(module.weight)] == 1
    }


def _matching(
    model: nn.Module, layers: Mapping[str, nn.Module], option: str, patterns: Patterns
) -> set[str]:
    """Return the weights that one of the patterns matches, by their name or their layer's."""
    chosen: set[str] = set()
    if not isinstance(patterns, Sequence):
        raise TypeError(f"{option} must be patterns of names, got {patterns!r}")
    for pattern in patterns.split(",") if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{option} must be patterns of names, got {pattern!r}")
        shape = pattern.strip()
        hits = {name for name in layers if _matches(name, shape)}
        if not hits:
            others = [name for name, _ in model.named_parameters() if _matches(name, shape)]
            but = f": {others} cannot be frozen" if others else ""
            raise ValueError(
                f"{option}: no layer matches {shape!r}{but}; there are: {list(layers)}"
            )
        chosen |= hits
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(
        name.rpartition(".")[0], pattern
    )


def _largest(sizes: Mapping[str, int], fraction: float, total: int) -> set[str]:
    """Return the largest layers, at least one, that hold ``fraction`` of ``total`` elements."""
    chosen: set[str] = set()
    # Of equals the first: sorting is stable.
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        chosen.add(name)
        if sum(sizes[n] for n in chosen) >= fraction * total:
            return chosen
    if sizes:
        most = sum(sizes.values()) / total
        raise ValueError(f"frozen_fraction {fraction} is more than the layers hold, {most:.3f}")
    return chosen
