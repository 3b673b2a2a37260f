"""Paired statistics of providers' times, in microseconds."""

import numpy as np
import pytest
import torch

from sparsefl.bench import timing
from sparsefl.bench.problem import Gradients, Step
from sparsefl.bench.timing import Effort, Timing, interleave, paired_ratio


def timed(full: list[float]) -> Timing:
    return Timing({"full": np.array(full)})


def recording_step(name: str, log: list[str]) -> Step:
    def forward() -> torch.Tensor:
        log.append(name)
        return torch.zeros(1)

    empty = Gradients(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    return Step(lambda: None, forward, lambda out: None, lambda: empty)


def test_ratio_is_the_median_of_paired_ratios():
    # The second round was slow for both: medians of each alone would give 3 / 2.
    dense, ours = timed([2.0, 90.0, 3.0]), timed([1.0, 10.0, 2.0])
    assert paired_ratio(dense, ours, "full") == 2.0


def test_rounds_sat_out_do_not_count():
    dense, ours = timed([2.0, 8.0, 2.0]), timed([1.0, np.nan, 1.0])
    assert paired_ratio(dense, ours, "full") == 2.0
    assert ours.steps == 2
    assert ours.quantile("full", 0.5) == 1.0


def test_every_round_starts_with_another_step():
    log: list[str] = []
    steps = {name: recording_step(name, log) for name in ("a", "b", "c")}
    interleave(steps, Effort(warmup=0, timed=3, short_s=0.0))
    assert "".join(log[-9:]) == "abcbcacab"


def test_warmup_is_not_timed():
    log: list[str] = []
    times = interleave({"a": recording_step("a", log)}, Effort(warmup=4, timed=2, short_s=0.0))
    assert times["a"].steps == 2
    assert len(log) == 3 + 4 + 2  # three runs tell how long a step takes


def test_short_steps_follow_one_of_their_own_kind():
    log: list[str] = []
    steps = {name: recording_step(name, log) for name in ("a", "b")}
    times = interleave(steps, Effort(warmup=0, timed=2))
    assert "".join(log[-8:]) == "aabbbbaa"
    assert times["a"].steps == 2


@pytest.mark.parametrize("timed_rounds", [5, 11])
def test_slow_steps_take_part_in_every_fifth_round(monkeypatch, timed_rounds):
    log: list[str] = []
    steps = {name: recording_step(name, log) for name in ("slow", "fast")}

    def run(step):
        step.forward()
        return 1.0, 1.0, 9.0 if log[-1] == "slow" else 1.0

    monkeypatch.setattr(timing, "run", run)
    times = interleave(steps, Effort(warmup=0, timed=timed_rounds, slow_s=5.0))
    assert times["fast"].steps == timed_rounds
    assert times["slow"].steps == len(range(0, timed_rounds, 5))
