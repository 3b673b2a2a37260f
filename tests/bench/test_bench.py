"""The registry under pytest-benchmark: a smoke test, and timings with --benchmark-enable."""

import pytest

from sparsefl.bench.cases import CASES
from sparsefl.bench.problem import Checker
from sparsefl.bench.timing import run

POINTS = [
    pytest.param(case, point, prepare, provider, id=f"{op}-{point.table}-{provider}-{variant}")
    for op, case in CASES.items()
    for point in case.sweep
    if point.quick
    for provider, variant, prepare in case.variants(point.kernels)
]


@pytest.mark.parametrize(("case", "point", "prepare", "provider"), POINTS)
def test_step(benchmark, case, point, prepare, provider):
    problem = case.setup(case.op, point)
    step = prepare(problem)
    if step is None:
        pytest.skip("this variant is for larger weights")
    assert Checker(problem).correct(step, provider)
    times = benchmark(run, step)
    assert all(time > 0 for time in times)
