"""Small federations on random images, whose messages and local steps the claims measure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl import models
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.method import Method, Task, load_method
from sparsefl.fl.training import local_step

SEED = 0


def federate(
    method: str | Method,
    factory: Callable[[], nn.Module],
    image: tuple[int, ...],
    classes: int,
    *,
    density: float = 1.0,
    options: Mapping[str, Any] | None = None,
    batch: int = 2,
    steps: int = 1,
    tokens: int | None = None,
) -> Federation:
    """Begin a federation of one client with random images; no round is played yet.

    Args:
        method: Its name, or the method.
        factory: Builds the model.
        image: Shape of a sample.
        classes: Number of labels.
        density: For methods that prune.
        options: Of the method.
        batch: Examples a step.
        steps: Local steps of a round, each on other samples.
        tokens: Samples are texts of ``image[-1]`` numbers below it, where it is given, and each
            number has a label.
    """
    chosen = load_method(method) if isinstance(method, str) else method
    generator = torch.Generator().manual_seed(SEED)
    count = steps * batch
    if tokens is None:
        labelled: tuple[int, ...] = (count,)
        inputs = torch.randn(count, *image, generator=generator)
    else:
        labelled = (count, image[-1])
        inputs = torch.randint(tokens, labelled, generator=generator)
    data = TensorDataset(inputs, torch.randint(classes, labelled, generator=generator))
    given = chosen.with_defaults(options or {})
    task = Task(factory, torch.zeros_like(inputs[:1]), SEED, density, given)
    return Federation(chosen, task, [data], Schedule(batch_size=batch, local_steps=steps))


def network(
    name: str, image: tuple[int, int, int], classes: int, **options: Any
) -> Callable[[], nn.Module]:
    """Return what builds a named model."""
    return functools.partial(models.build, name, image, classes, **options)


def client_step(federation: Federation) -> Callable[[], object]:
    """Return one local step of a fresh client on a fixed batch, optimizer included."""
    client = federation.probe()
    return model_step(
        client.model,
        federation.method.optimizer(client, 1),
        federation.datasets[0].tensors,
        federation.schedule.batch_size,
    )


def model_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Any, batch: int
) -> Callable[[], object]:
    """Return one local step on the first examples."""
    inputs, labels = (tensor[:batch] for tensor in tensors)
    return lambda: local_step(model.train(), optimizer, inputs, labels)
