"""The summary of the tables: means, worst shapes, verdicts and what lags."""

import pytest

from sparsefl.bench import goals
from sparsefl.bench.goals import Goal


def row(ratio: float, **changes: object) -> dict[str, object]:
    base = {
        **{"table": "linear", "op": "sparse_linear", "provider": "sparsefl", "mode": "full"},
        **{"shape": {"batch": 4, "in_features": 8, "out_features": 9}, "density": 0.1},
        **{"threads": 2, "median_us": 1000.0, "ratios": {"torch_dense": ratio}, "correct": True},
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("seen", "less", "verdict"),
    [
        (2.0, False, "aim"),
        (1.5, False, "floor"),
        (0.5, False, "BELOW"),
        (0.3, True, "aim"),
        (0.5, True, "floor"),
        (0.7, True, "BELOW"),
    ],
)
def test_verdict(seen, less, verdict):
    goal = Goal(0.6, 0.45) if less else Goal(1.0, 2.0)
    assert goal.verdict(seen, less) == verdict


def test_cell_has_the_geometric_mean_and_names_the_worst_shape():
    wide = {"batch": 4, "in_features": 80, "out_features": 9}
    (cell,) = goals.cells([row(9.0), row(4.0, shape=wide), row(1.0, threads=1)])
    assert (cell.mean, cell.worst, cell.shapes) == (pytest.approx(6.0), 4.0, 2)
    assert cell.worst_shape == "80x9, batch 4"
    assert cell.uneven
    assert cell.goal == Goal(5, 8)
    assert cell.verdict == "floor"


@pytest.mark.parametrize("table", ["linear", "conv"])
def test_kernels_have_the_goals_of_layers(table):
    (cell,) = goals.cells([row(4.0, table=f"{table}_kernels")])
    (layer,) = goals.cells([row(4.0, table=table)])
    assert cell.goal is not None
    assert cell.goal == layer.goal
    assert (cell.table, cell.verdict) == (f"{table}_kernels", "BELOW")


def test_memory_is_the_better_the_smaller():
    memory = {"table": goals.MEMORY, "op": "resnet18", "shape": {"batch": 64}, "mode": "memory"}
    (cell,) = goals.cells([row(0.4, **memory)])
    assert cell.verdict == "aim"
    assert not list(goals.lagging([row(0.4, **memory)]))


@pytest.mark.parametrize(
    ("ratio", "median_us", "listed"),
    [(0.5, 1000.0, True), (0.97, 9000.0, False), (0.5, 60.0, False), (2.0, 1000.0, False)],
    ids=["behind", "within 5 %", "within 40 us", "ahead"],
)
def test_lagging_points_are_listed(ratio, median_us, listed):
    assert bool(list(goals.lagging([row(ratio, median_us=median_us)]))) == listed


@pytest.mark.parametrize(("gflops", "listed"), [(30.0, True), (2.0, False)])
def test_csr_has_to_be_met_from_a_million_flops_a_pass_on(gflops, listed):
    behind = row(1.0, ratios={"torch_sparse": 0.5}, gflops_per_s=gflops, median_us=1000.0)
    assert bool(list(goals.lagging([behind]))) == listed


def test_summary_says_what_is_below_its_floor():
    text = goals.summary([row(1.2)])
    assert "BELOW" in text
    assert "1.20 8x9, batch 4" in text


def test_wrong_results_are_named_beside_the_means_that_lack_them():
    failed = row(0.0, correct=False, density=0.5)
    del failed["ratios"]
    text = goals.summary([row(1.2), failed])
    assert "no mean:\nlinear: sparse_linear 8x9, batch 4, density 0.5" in text
    assert "no mean" not in goals.summary([row(1.2)])


def test_summary_of_rows_without_goals_is_empty():
    assert goals.summary([row(1.2, table="ops")]) == ""


@pytest.mark.parametrize(
    ("op", "density", "rans", "changes", "aim"),
    [
        ("support", 0.1, True, 0, 1.005),
        ("support", 0.05, False, 0, 1.02),
        ("support", 0.1, False, 0, 1.045),
        ("layers", 0.2, False, 0, None),
        ("changes", 0.1, True, 10_000, 1.005),
        ("changes", 0.01, True, 9_999, None),
        ("values_int8", 1.0, True, 0, 1.003),
        ("blocks", 0.1, True, 0, None),
    ],
)
def test_aims_of_messages(op, density, rans, changes, aim):
    assert goals.size_aim(op, density, rans, changes) == aim


@pytest.mark.parametrize(
    ("figure", "seen", "verdict"),
    [
        ("slower", 0.6, "aim"),
        ("slower", 0.8, "floor"),
        ("slower", 1.0, "BELOW"),
        ("faster", 0.6, "BELOW"),
        ("faster", 0.8, "floor"),
        ("faster", 1.0, "aim"),
    ],
)
def test_speeds_are_the_better_the_more_but_for_times(figure, seen, verdict):
    bounds = (0.9, 0.7) if figure == "slower" else (0.7, 0.9)
    assert goals.SpeedGoal(figure, *bounds).verdict(seen) == verdict
