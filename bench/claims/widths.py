"""Widths of the narrow controls: at another row's bytes, those of its replies or its step time."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from sparsefl import models
from sparsefl.fl.engine import Federation, Schedule
from sparsefl.fl.experiment import Problem
from sparsefl.fl.method import Task, load_method
from sparsefl.fl.training import local_step
from sparsefl.timing import Effort, interleave, paired_ratio, stopwatch

from .study import Row
from .trial import SEED

WIDTHS = tuple(round(0.01 * step, 2) for step in range(1, 101))


def factory(row: Row, problem: Problem) -> Callable[[], nn.Module]:
    """Return what builds a row's model for a problem."""
    assert problem.in_shape is not None
    assert problem.classes is not None
    options = {} if row.model == "linear" else {"norm": row.norm, "width": row.width}
    return functools.partial(models.build, row.model, problem.in_shape, problem.classes, **options)


def at_bytes(row: Row, problem: Problem, budget_bytes: float) -> float:
    """Return the largest width whose dense exchange, down and up, is within ``budget_bytes``.

    Raises:
        ValueError: if there is none.
    """
    models_of = {width: factory(replace(row, width=width), problem) for width in WIDTHS}
    fitting = [w for w, model in models_of.items() if 2 * _state_bytes(model()) <= budget_bytes]
    if not fitting:
        raise ValueError(f"{row.name}: no width has an exchange of {budget_bytes} bytes")
    return fitting[-1]


def at_uplink(row: Row, like: Row, problem: Problem, schedule: Schedule) -> float:
    """Return the largest width whose reply takes at most the bytes that another row's does.

    Replies grow with the width: the interval of widths is halved.

    Raises:
        ValueError: if there is none.
    """
    budget = reply_bytes(like, problem, schedule)
    fitting = bisect.bisect_right(
        WIDTHS, budget, key=lambda width: reply_bytes(replace(row, width=width), problem, schedule)
    )
    if not fitting:
        raise ValueError(f"{row.name}: no width has a reply of {budget} bytes, {like.name}'s")
    return WIDTHS[fitting - 1]


def reply_bytes(row: Row, problem: Problem, schedule: Schedule) -> int:
    """Return the bytes of the first client's message after a round, options at their defaults."""
    method, data = load_method(row.method), problem.clients[0][0]
    alone = replace(schedule, clients_per_round=None)
    options, rounds = method.with_defaults({}), 1
    task = Task(
        factory(row, problem), data[0][0][None], SEED, row.density, options, rounds, problem.public
    )
    return Federation(method, task, [data], alone).play(1).uplink_bytes


def at_time(row: Row, dense: Row, problem: Problem, factor: float, batch_size: int) -> float:
    """Return the largest width whose local step is ``factor`` times as fast as the dense row's.

    Halves the interval of widths by timing; with a ``factor`` of 1 or less it is the full width.
    """
    low, high = 0, len(WIDTHS) - 1
    if factor <= 1:
        return WIDTHS[high]
    while low < high:
        middle = (low + high + 1) // 2
        narrow = replace(row, width=WIDTHS[middle])
        if step_factor(narrow, dense, problem, batch_size) >= factor:
            low = middle
        else:
            high = middle - 1
    return WIDTHS[low]


def step_factor(row: Row, dense: Row, problem: Problem, batch_size: int) -> float:
    """Return how many times as fast as the dense row's a row's step of plain torch is, in turns."""
    runs = {
        "dense": stopwatch(_step(factory(dense, problem)(), problem, batch_size)),
        "ours": stopwatch(_step(factory(row, problem)(), problem, batch_size)),
    }
    times = interleave(runs, Effort())
    return paired_ratio(times["dense"][-1], times["ours"][-1])


def _state_bytes(model: nn.Module) -> int:
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def _step(model: nn.Module, problem: Problem, batch_size: int) -> Callable[[], object]:
    assert problem.in_shape is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = torch.randn(batch_size, *problem.in_shape)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    return lambda: local_step(model, optimizer, inputs, labels)
