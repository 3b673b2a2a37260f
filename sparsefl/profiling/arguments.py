"""What every measurement of a network asks of its arguments, and its surroundings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsefl.measuring import torch_threads
from sparsefl.pruning._prunable import check_density


def check_model(model: object) -> None:
    """Refuse what is no network on the CPU.

    Raises:
        TypeError: if it is no module.
        ValueError: if it has parameters elsewhere.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, got {type(model).__name__}"
            + (": call it first" if callable(model) else "")
        )
    elsewhere = {str(p.device) for p in model.parameters() if p.device.type != "cpu"}
    if elsewhere:
        raise ValueError(
            f"profile times the CPU, the model is on {', '.join(sorted(elsewhere))}: use .cpu()"
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        ValueError: if it is none.
    """
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def ascending(densities: Sequence[float]) -> tuple[float, ...]:
    """Return the densities to compare in order, each once.

    Raises:
        TypeError: if they are no sequence of numbers.
        ValueError: if one is outside (0, 1], or there are not two.
    """
    if isinstance(densities, str) or not isinstance(densities, Sequence):
        raise TypeError(f"densities must be a sequence, got {type(densities).__name__}")
    for density in densities:
        check_density(density, "densities")
    distinct = sorted({float(density) for density in densities})
    if len(distinct) < 2:
        raise ValueError(f"densities must be two or more different ones, got {list(densities)}")
    return tuple(distinct)


def silent(stage: str, share: float) -> None:
    """Show nothing."""


def check_amounts(batch_size: object, threads: object, seconds: object) -> None:
    """Refuse numbers that measure nothing.

    Raises:
        TypeError: if one is of another type.
        ValueError: if one is not positive.
    """
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if name == "threads" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"seconds must be a number, got {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")


def make_inputs(
    input_shape: tuple[int, ...] | None,
    example_input: Tensor | tuple[Any, ...] | None,
    batch_size: int,
) -> tuple[Any, ...]:
    """Return the arguments of forward.

    Raises:
        TypeError: if one is of another type.
        ValueError: unless exactly one is given, and if a size is not positive.
    """
    if (input_shape is None) == (example_input is None):
        raise ValueError(
            "give either input_shape (one sample's, (1, 28, 28) for example) or example_input (the "
            "arguments of forward)"
        )
    if isinstance(example_input, Tensor):
        return (example_input,)
    if example_input is not None:
        if not isinstance(example_input, tuple):
            raise TypeError(
                f"example_input must be a tensor or the tuple of forward's arguments, got "
                f"{type(example_input).__name__}"
            )
        return example_input
    assert input_shape is not None
    sizes = tuple(input_shape)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"input_shape must hold positive ints, got {sizes}")
    return (torch.randn(batch_size, *sizes),)


@contextmanager
def surroundings(threads: int | None, seed: int) -> Iterator[None]:
    """Set threads and random state for a while, with gradients on."""
    with torch_threads(threads), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        yield
