"""Local training and evaluation: the loops that every method shares."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsefl.fl.batches import Dataset, Reader, batch_indices, concatenated
from sparsefl.fl.device import HOST, computing_on, device_of

# Large enough to fill the threads, small enough that a cnn's activations stay in the caches: 500
# examples at once take it 1.8 times as long each.
EVALUATION_BATCH = 64

Item = TypeVar("Item")

# ``(outputs, labels) -> scalar``.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# Gives what is entered around the passes of a local step.
Watch: TypeAlias = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class LocalWork:
    """What a client did in one round.

    Attributes:
        steps: Optimizer steps made.
        examples: Examples that the client owns, its weight in the average.
        loss: Mean training loss over the steps.
        train_s: Seconds of the steps, batches included.
    """

    steps: int
    examples: int
    loss: float
    train_s: float


def local_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    loss: Loss = nn.functional.cross_entropy,
    watch: Watch = contextlib.nullcontext,
) -> Tensor:
    """Make one step of a loss, and return it; ``watch()`` is entered around both passes."""
    optimizer.zero_grad(set_to_none=True)
    with watch():
        value = loss(model(inputs), labels)
        value.backward()
    optimizer.step()
    return value.detach()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and python for a while, then put them back.

    Models draw weights and dropout from them, torch's of each device in use among them, and
    datasets that augment draw from any.

    Args:
        seed: ``0 <= seed < 2**64``; numpy's takes its lower 32 bits.
    """
    kept = random.getstate()
    # The generators that users' datasets draw from are the global ones.
    numpy_kept = np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(numpy_kept)  # noqa: NPY002


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    generator: np.random.Generator,
    loss: Loss = nn.functional.cross_entropy,
    last_step: Watch = contextlib.nullcontext,
) -> LocalWork:
    """Train ``model`` in place on a client's data, on the device where it is.

    Args:
        model: The client's model; put in training mode.
        optimizer: Holds the model's parameters.
        dataset: The client's examples.
        batch_size: Examples a step.
        epochs: Passes over the data.
        max_steps: Most steps, or ``None``.
        generator: Source of the order, and of the seed of dropout and augmentation.
        loss: Of the model's outputs and the labels, a scalar.
        last_step: Gives what is entered around forward and backward pass of the last step.

    Raises:
        ValueError: if the client owns no example, or the loss is not finite.
    """
    if len(dataset) == 0:
        raise ValueError("the client has no training example")
    _enter_training(model, len(dataset))
    started = time.perf_counter()
    reader, device = Reader(dataset, floating_dtype(model)), device_of(model)
    losses: list[Tensor] = []
    with seeded(int(generator.integers(2**62))):
        batches = batch_indices(len(dataset), batch_size, epochs, max_steps, generator)
        for indices, is_last in _with_last(batches):
            inputs, labels = (part.to(device) for part in reader.take(indices))
            watch = last_step if is_last else contextlib.nullcontext
            losses.append(local_step(model, optimizer, inputs, labels, loss, watch))
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise ValueError("local training diverged: the loss is not finite")
    return LocalWork(len(losses), len(dataset), mean, time.perf_counter() - started)


def _with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Yield each item, and whether it is the last."""
    rest = iter(items)
    for held in rest:
        for item in rest:
            yield held, False
            held = item
        yield held, True


def _enter_training(model: nn.Module, examples: int) -> None:
    """Put a model in training mode.

    A client that owns a single example has no batch to normalise by: its batch norm uses the
    running statistics that came with the global model, and leaves them as they are.
    """
    model.train()
    if examples == 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.eval()


def autocast_forward(model: nn.Module) -> None:
    """Let a model compute in bfloat16 where torch.autocast does; outputs come as float32.

    Parameters, their gradients and the optimizer stay as they are. In place.
    """
    computed = model.forward

    def forward(*arguments: Any) -> Any:
        with torch.autocast(device_of(model).type, dtype=torch.bfloat16):
            outputs = computed(*arguments)
        return outputs.float()

    model.forward = forward  # type: ignore[method-assign]


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's first floating-point parameter, else torch's default."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def accuracy(model: nn.Module, dataset: Dataset, device: torch.device = HOST) -> float:
    """Return the share of labels at which the largest output is; NaN without examples.

    The model computes on ``device`` and is on the CPU before and after.

    An example has one label, or one a position of its sequence, which count alike.

    Whatever a dataset draws at random is the same in every evaluation.
    """
    if len(dataset) == 0:
        return math.nan
    was_training = model.training
    model.eval()
    correct, count = 0, 0
    with seeded(0), torch.no_grad(), computing_on(device, model):
        for inputs, labels in concatenated(dataset, EVALUATION_BATCH, floating_dtype(model)):
            found = model(inputs.to(device)).argmax(dim=1)
            correct += int((found == labels.to(device)).sum())
            count += labels.numel()
    model.train(was_training)
    return correct / count


def seeded_model(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model from the global generators seeded with ``seed``, which are left as they were.

    Raises:
        TypeError: if the factory gives no ``nn.Module``.
    """
    with seeded(seed):
        model = factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a factory of nn.Module, it gave {type(model).__name__}")
    return model
