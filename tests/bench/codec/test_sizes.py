"""The table of lengths: what it sends, and that a row says what was seen."""

import dataclasses

import pytest

from sparsefl import codec
from sparsefl.bench.codec import QUICK_NUMEL, inputs, sizes
from sparsefl.bench.rows import point_of
from sparsefl.codec import Update

CASES = [
    pytest.param(case, id=f"{case.op}-{case.density:g}-{case.changes}")
    for case in sizes.cases(QUICK_NUMEL)
]


def test_points_differ():
    points = [point_of(case.point) for case in sizes.cases()]
    assert len(set(points)) == len(points)


@pytest.mark.parametrize("case", CASES)
def test_case_is_sent_and_comes_back(case):
    rows = sizes.rows_of(case, {"commit": "c"})
    ours = {row["variant"]: row for row in rows if row["provider"] == "sparsefl"}
    assert all(row["correct"] for row in rows)
    assert set(ours) == {"rans", "plain"}
    assert ours["rans"]["bytes"] <= ours["plain"]["bytes"] + 16
    assert ours["rans"]["ratio"] == pytest.approx(
        ours["rans"]["bytes"] / ours["rans"]["bound_bytes"], rel=0.01
    )
    assert all(row["code_ratio"] < row["ratio"] for row in ours.values())


def test_a_code_is_what_its_descriptors_and_chunks_frame():
    numel = 1 << 23
    content = of(numel)
    data = codec.encode(content.update, content.schema)
    # A random bitmap of density 1/2 takes a bit a position.
    assert sizes.code_bytes(data) == numel // 8


def test_row_says_whether_the_aim_is_reached():
    row = next(iter(sizes.rows_of(sizes.Case("support", 0.5, 1 << 20, lambda: of(1 << 20)), {})))
    assert (row["aim"], row["reached"]) == (1.005, True)
    row = next(iter(sizes.rows_of(sizes.Case("support", 0.5, 64, lambda: of(64)), {})))
    assert (row["aim"], row["reached"]) == (1.005, False)


def of(numel: int) -> inputs.Content:
    return inputs.random_support(numel, 0.5)


def test_wrong_result_is_said(monkeypatch):
    monkeypatch.setattr(sizes, "decode", lambda data, schema, base=None: Update({}))
    rows = sizes.rows_of(sizes.Case("support", 0.5, 64, lambda: of(64)), {})
    assert [row["correct"] for row in rows] == [False, False]


def test_points_that_are_done_are_left_out():
    first, second, *_ = sizes.cases(QUICK_NUMEL)
    rows = next(sizes.measure({}, {point_of(first.point)}, QUICK_NUMEL))
    assert point_of(rows[0]) == point_of(second.point)


def test_message_knows_its_share_of_the_dense_tensor():
    case = next(c for c in sizes.cases(QUICK_NUMEL) if c.op == "message_normal")
    row = sizes.rows_of(dataclasses.replace(case, rivals=lambda content: iter(())), {})[0]
    assert row["dense_share"] == pytest.approx(row["bytes"] / (4 * QUICK_NUMEL), abs=1e-5)
    assert row["dense_share_reached"] == (row["dense_share"] <= 0.034)
