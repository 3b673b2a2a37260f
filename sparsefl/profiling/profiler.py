"""The entry: arguments, the surroundings of a measurement, and what it is called."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsefl.defaults import PROFILE_S
from sparsefl.names import MaskRule
from sparsefl.nn._support_layer import SupportLike
from sparsefl.profiling.assemble import assemble
from sparsefl.profiling.measure import Budget
from sparsefl.profiling.network import OptimizerName
from sparsefl.profiling.result import Profile
from sparsefl.profiling.study import Study


def profile(
    model: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    *,
    example_input: Tensor | tuple[Any, ...] | None = None,
    density: float = 0.1,
    batch_size: int = 32,
    layer: Literal["sparse", "sign"] = "sparse",
    masks: MaskRule | Mapping[str, SupportLike] | None = None,
    optimizer: OptimizerName = "sgd",
    threads: int | None = None,
    seconds: float = PROFILE_S,
    seed: int = 0,
    on_progress: Callable[[str, float], None] | None = None,
) -> Profile:
    """Time a network's local step dense, sparse, and with only those layers sparse that pay.

    Every layer is timed alone, on the inputs and output gradients that it had in the dense and in
    the all-sparse network, memory order included. From that follow the verdicts, and the whole step
    is timed with them, against dense and against all sparse; where either is the faster, it is the
    verdict. All comparisons are interleaved in one process. Speed does not ask what the weights
    are, so a network at its initialisation will do; accuracy is not looked at.

    The step is made of random inputs (or ``example_input``), forward in training mode, a loss,
    backward, and an optimizer step. The loss is cross-entropy with label 0 for an output
    ``[N, C]``, ``C > 1``, else the mean of squares, summed over all outputs.

    Args:
        model: Any network on the CPU; left untouched, and so is torch's random state.
        input_shape: Shape of one sample, without the batch; normal random inputs are drawn.
        example_input: A batch to use instead: a tensor, or the tuple of forward's arguments.
        density: Share of weights kept, in (0, 1].
        batch_size: Samples a step; of ``example_input`` its own.
        layer: ``"sparse"`` for real weights, ``"sign"`` for sign supermasks.
        masks: Which weights are kept: ``"synflow"`` (in as many of its 100 iterations as a sixth of
            the time allows), ``"erdos_renyi"``, ``"random"``, ``"magnitude"``; ``"own"``: the masks
            of torch.nn.utils.prune, else the zeros in the weights; or masks by parameter name.
            None: SynFlow where it can be applied, else Erdos-Renyi. Layers that stay dense keep
            all their weights whatever their mask.
        optimizer: ``"sgd"`` with momentum 0.9, or ``"adam"``, the same for all forms.
        threads: Threads of torch; None leaves them as they are.
        seconds: What it may take; how often each time was taken is said. A network of seconds a
            step takes longer.
        seed: Of random masks and inputs.
        on_progress: Called with the stage and the share of ``seconds`` that has passed.

    Returns:
        The verdicts, all times and sizes, and masks for :func:`sparsefl.sparsify`.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if an argument is out of range, the network does not train on these inputs, or
            none of its layers can be sparse.
        KeyError: if ``masks`` names a parameter that the model lacks.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, got {type(model).__name__}"
            + (": call it first" if callable(model) else "")
        )
    _check_choices(layer, optimizer, density)
    _check_amounts(batch_size, threads, seconds)
    elsewhere = {str(p.device) for p in model.parameters() if p.device.type != "cpu"}
    if elsewhere:
        raise ValueError(
            f"profile times the CPU, the model is on {', '.join(sorted(elsewhere))}: use .cpu()"
        )
    with _surroundings(threads, seed):
        inputs = _inputs(input_shape, example_input, batch_size)
        budget = Budget(seconds, on_progress or _silent)
        study = Study(model, inputs, layer, optimizer, budget)
        study.choose_masks(masks, density, seed)
        study.run()
        return assemble(study)


def _silent(stage: str, share: float) -> None:
    """Show nothing."""


def _check_choices(layer: object, optimizer: object, density: object) -> None:
    if layer not in ("sparse", "sign"):
        raise ValueError(f"layer must be 'sparse' or 'sign', got {layer!r}")
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer must be 'sgd' or 'adam', got {optimizer!r}")
    if isinstance(density, bool) or not isinstance(density, int | float):
        raise TypeError(f"density must be a number, got {type(density).__name__}")
    if not 0 < density <= 1:
        raise ValueError(f"density must be within (0, 1], got {density}")


def _check_amounts(batch_size: object, threads: object, seconds: object) -> None:
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


def _inputs(
    input_shape: tuple[int, ...] | None,
    example_input: Tensor | tuple[Any, ...] | None,
    batch_size: int,
) -> tuple[Any, ...]:
    """Return the arguments of forward."""
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
def _surroundings(threads: int | None, seed: int) -> Iterator[None]:
    """Set threads and random state for a while, with gradients on."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
