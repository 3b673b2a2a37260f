"""How often things are run; no time is asserted."""

import math

import pytest
import torch
from torch import nn

from sparsefl.profiling.measure import Budget, effort_within, layer_run, measure, round_seconds
from sparsefl.profiling.network import Call


@pytest.mark.parametrize(
    ("seconds", "round_s", "warmup", "timed"),
    [
        (100.0, 0.01, 20, 50),
        (10.0, 1.0, 2, 7),
        (1.0, 1.0, 0, 3),
        (-5.0, 1.0, 0, 3),
        (1.0, 0.0, 20, 50),
    ],
    ids=["standard", "tight", "least", "overdrawn", "no time at all"],
)
def test_what_is_long_is_run_less_often(seconds, round_s, warmup, timed):
    effort = effort_within(seconds, round_s)
    assert (effort.warmup, effort.timed) == (warmup, timed)
    assert math.isinf(effort.slow_s)


def test_a_round_counts_short_steps_twice():
    assert round_seconds({"short": lambda: (0.001,), "long": lambda: (0.5, 1.0)}) == pytest.approx(
        1.002
    )


def test_measuring_gives_every_part_of_every_run_and_tells_how_far_it_is():
    told = []
    budget = Budget(10.0, lambda stage, share: told.append((stage, share)))
    budget.enter("layers")
    samples = measure({"a": lambda: (1.0, 2.0, 3.0), "b": lambda: (4.0,)}, budget, 0.0, 1.0)
    assert samples["a"].tolist() == [[1.0] * 3, [2.0] * 3, [3.0] * 3]
    assert samples["b"].tolist() == [[4.0] * 3]
    assert {stage for stage, _ in told} == {"layers"}
    assert all(0 <= share <= 1 for _, share in told)


def test_a_layers_run_trains_it_by_all_of_its_calls():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    calls = [Call(layer, torch.ones(4, 3), torch.ones(4, 2)) for _ in range(2)]
    parts = layer_run(calls, torch.optim.SGD(layer.parameters(), lr=1.0))()
    assert len(parts) == 4
    assert parts[3] == pytest.approx(sum(parts[:3]))
    torch.testing.assert_close(layer.weight, before - 8)


def test_a_call_without_gradient_and_optimizer_runs_forward_alone():
    layer = nn.Linear(3, 2).requires_grad_(False)
    assert len(layer_run([Call(layer, torch.ones(4, 3), None)], None)()) == 4
