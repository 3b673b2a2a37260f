"""The table of speeds: every step is checked, and wrong ones are not timed."""

from functools import partial

import numpy as np
import pytest
import torch

from sparsefl.bench.codec import speed, steps
from sparsefl.bench.codec.speed import Case
from sparsefl.bench.codec.steps import Step
from sparsefl.bench.goals import speed_goal
from sparsefl.bench.rows import point_of

NUMEL = 1 << 18
CASES = [pytest.param(case, id=f"{case.op}-{case.density:g}") for case in speed.cases(NUMEL)]


def test_points_differ():
    points = [point_of(case.point) for case in speed.cases()]
    assert len(set(points)) == len(points)


@pytest.mark.parametrize("case", CASES)
def test_case_is_checked_and_timed(case):
    rows = speed.rows_of(case, {"commit": "c"}, speed.QUICK)
    assert all(row["correct"] for row in rows)
    assert all(row["median_us"] > 0 for row in rows)
    modes = {row["mode"] for row in rows if row["provider"] == "sparsefl"}
    assert modes == {"fwd"} or modes >= {"encode", "decode"}
    if modes == {"fwd"}:  # whose peers are always there
        assert all("faster" in row for row in rows if row["provider"] == "sparsefl")


@pytest.mark.parametrize("op", ["pack_signs", "unpack_signs", "top_k", "majority_vote"])
def test_kernels_have_a_floor_and_an_aim_at_every_point(op):
    of_op = [case for case in speed.cases(NUMEL) if case.op == op]
    assert of_op
    for case in of_op:
        (ours,) = (step for step in case.steps() if step.provider == "sparsefl")
        goal = speed_goal(case.op, ours.variant, ours.mode, case.density)
        assert goal.figure == "faster"


@pytest.mark.parametrize("density", [0.1, 0.01])
def test_what_was_added_twice_is_seen(density):
    adding = [s for s in steps.update_steps(NUMEL, density) if s.mode == "accumulate"]
    assert adding
    for step in adding:
        step.run()
        step.run()
        assert not step.correct(None)


def test_symbols_are_bytes_of_the_wanted_number():
    for draw in steps.SYMBOLS.values():
        symbols = draw(NUMEL)
        assert (symbols.dtype, symbols.shape) == (np.uint8, (NUMEL,))


def case_of(run, ours: bool) -> Case:
    timed = [
        Step("memcpy", "", "copy", partial(sum, range(1000)), lambda _: True),
        Step("sparsefl", "plain", "decode", run, lambda _: ours),
    ]
    return Case("support", 0.1, 1000, lambda: timed, "memcpy", "indices")


def test_wrong_step_is_not_timed():
    runs = []
    (_, row) = speed.rows_of(case_of(partial(runs.append, 1), False), {}, speed.QUICK)
    assert not row["correct"]
    assert "median_us" not in row
    assert len(runs) == 1


def test_row_has_rate_ratio_and_verdict():
    copy, row = speed.rows_of(case_of(partial(sum, range(100_000)), True), {}, speed.QUICK)
    assert row["gindices_per_s"] == pytest.approx(100 / row["median_us"] / 1e3, abs=1e-4)
    assert row["slower"] > 10 > 0.1 > row["faster"]
    assert (row["figure"], row["floor"], row["verdict"]) == ("gindices_per_s", 2.2, "BELOW")
    assert not row["reached"]
    assert "slower" not in copy


def test_threads_are_as_before():
    before = torch.get_num_threads()
    points = speed.measure({}, (), NUMEL, speed.QUICK)
    next(points)
    assert torch.get_num_threads() == 1
    points.close()
    assert torch.get_num_threads() == before
