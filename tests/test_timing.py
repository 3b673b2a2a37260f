"""Interleaving: who is timed when, and after what."""

import math

import numpy as np
import pytest

from sparsefl.timing import Effort, StepTime, crossover, interleave, paired_ratio, stopwatch


def logged(name, log, seconds=1.0):
    def run():
        log.append(name)
        return 0.5 * seconds, seconds

    return run


def test_every_round_starts_with_another_step():
    log = []
    runs = {name: logged(name, log) for name in "abc"}
    times = interleave(runs, Effort(warmup=0, timed=3, slow_s=math.inf))
    assert "".join(log) == "aaabbbccc" + "abcbcacab"
    assert times["a"].tolist() == [[0.5] * 3, [1.0] * 3]


def test_warmup_is_not_timed():
    log = []
    times = interleave({"a": logged("a", log)}, Effort(warmup=4, timed=2, slow_s=math.inf))
    assert times["a"].shape == (2, 2)
    assert len(log) == 3 + 4 + 2  # three runs tell how long a step takes


def test_a_short_step_follows_one_of_its_own_kind():
    log = []
    runs = {"a": logged("a", log, 0.009), "b": logged("b", log, 0.011)}
    interleave(runs, Effort(warmup=0, timed=2))
    assert "".join(log[6:]) == "aab" + "baa"


@pytest.mark.parametrize("timed", [5, 11])
def test_a_slow_step_takes_part_in_every_fifth_round(timed):
    times = interleave({"slow": logged("slow", [], 0.2)}, Effort(warmup=0, timed=timed))
    assert np.isfinite(times["slow"][-1]).sum() == len(range(0, timed, 5))


def test_a_stopwatch_reads_seconds():
    calls = []
    (seconds,) = stopwatch(lambda: calls.append(1))()
    assert calls == [1]
    assert 0 <= seconds < 60


def test_quartiles_and_ratios_leave_out_rounds_that_were_sat_out():
    assert StepTime.of([1.0, 2.0, math.nan, 3.0]) == StepTime(2.0, 1.5, 2.5)
    # The second round was slow for both: medians of each alone would give 3 / 2.
    assert paired_ratio([2.0, 90.0, 3.0, 8.0], [1.0, 10.0, 2.0, math.nan]) == 2.0


@pytest.mark.parametrize("effort", [{"warmup": -1}, {"timed": 0}])
def test_impossible_efforts_are_named(effort):
    with pytest.raises(ValueError, match=next(iter(effort))):
        Effort(**effort)


def test_crossover_is_between_the_densities_around_one():
    crossing = crossover([(0.01, 16.0), (0.1, 4.0), (0.4, 0.25)])
    assert crossing == pytest.approx(math.sqrt(0.1 * 0.4))


def test_a_disturbed_point_is_no_crossover():
    crossing = crossover([(0.01, 2.0), (0.05, 0.9), (0.1, 4.0), (0.4, 0.25)])
    assert crossing == pytest.approx(math.sqrt(0.1 * 0.4))


@pytest.mark.parametrize("ratios", [(3.0, 2.0), (0.5, 0.4)], ids=["always-faster", "never-faster"])
def test_no_crossover_on_one_side(ratios):
    assert crossover([(0.1, ratios[0]), (0.5, ratios[1])]) is None
