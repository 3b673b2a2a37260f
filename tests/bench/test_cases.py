"""The registry covers every op, and its baselines compute what the ops compute."""

import dataclasses

import pytest
import torch

from sparsefl import ops
from sparsefl.bench import baselines, cases, sweeps
from sparsefl.bench.cases import CASES
from sparsefl.bench.problem import Checker, Step
from sparsefl.bench.sweeps import Point

SHAPES = {
    "linear": sweeps.linear(7, 65, 33),
    "conv2d": sweeps.conv(5, 6, 7),
    "strided_conv2d": sweeps.conv(3, 4, 9, stride=2),
}
TABLES = {"linear": sweeps.LINEAR_KERNELS, "conv2d": sweeps.CONV_KERNELS}
VARIANTS = [
    pytest.param(
        op, shape, table, prepare, provider, id=f"{op}-{name}-{table}-{provider}-{variant}"
    )
    for op, case in CASES.items()
    for name, shape in SHAPES.items()
    if name.split("_")[-1] == op.split("_")[-1]
    for table in (sweeps.OPS, TABLES[name.split("_")[-1]])
    for provider, variant, prepare in case.variants(table in sweeps.KERNELS)
]


def test_every_op_of_layers_has_a_case():
    kinds, layers = ("sparse_", "sign_"), ("_linear", "_conv2d")
    assert set(CASES) == {
        name for name in ops.__all__ if name.startswith(kinds) and name.endswith(layers)
    }


def test_the_floors_are_measured():
    floors = {
        (op, point.density, point.floor, *point.shape.values())
        for op, case in CASES.items()
        for point in case.sweep
        if point.floor is not None
    }
    assert floors == {
        ("sparse_linear", 0.1, 3.5, 64, 1024, 1024),
        ("sparse_conv2d", 0.1, 2.5, 64, 128, 128, 16, 3, 1),
    }


@pytest.mark.parametrize("batch_last", [False, True], ids=["row_major", "batch_last"])
@pytest.mark.parametrize(("op", "shape", "table", "prepare", "provider"), VARIANTS)
def test_provider_computes_the_op(op, shape, table, prepare, provider, batch_last, monkeypatch):
    monkeypatch.setattr(baselines, "LARGE_BUFFER_BYTES", 0)
    problem = CASES[op].setup(op, Point(shape, 0.3, table, batch_last))
    step = prepare(problem)
    checker = Checker(problem)
    # All but bfloat16 obey our own rule here.
    judged = provider if provider == "torch_bf16" else "sparsefl"
    assert checker.correct(step, judged)
    assert checker.correct(step, judged), "the second run of the step differs"


def test_small_weights_have_no_preallocated_baseline():
    problem = CASES["sparse_linear"].setup("sparse_linear", Point(SHAPES["linear"], 0.3))
    assert baselines.direct_linear(preallocated=True)(problem) is None


@pytest.mark.parametrize(
    ("op", "layers", "kernels"),
    [
        ("sparse_linear", sweeps.LINEAR, sweeps.LINEAR_KERNELS),
        ("sparse_conv2d", sweeps.CONV, sweeps.CONV_KERNELS),
    ],
)
def test_kernels_are_timed_where_layers_are(op, layers, kernels):
    def points(table):
        sweep = (point for point in CASES[op].sweep if not point.quick)
        return [dataclasses.replace(p, table="") for p in sweep if p.table == table]

    assert points(kernels) == points(layers)
    assert points(kernels)


@pytest.mark.parametrize("op", ["sparse_linear", "sparse_conv2d"])
@pytest.mark.parametrize("provider", ["sparsefl", "torch_dense"])
def test_kernels_run_without_autograd_or_the_gradient_of_the_bias(op, provider):
    name = op.removeprefix("sparse_")
    problem = CASES[op].setup(op, Point(SHAPES[name], 0.3, TABLES[name]))
    step = next(
        prepare for named, _, prepare in CASES[op].variants(kernels=True) if named == provider
    )(problem)
    with torch.profiler.profile() as profile:
        out = step.forward()
        step.backward(out)
    assert not out.requires_grad
    assert step.gradients().bias is None
    called = {event.name for event in profile.events()}
    assert not [name for name in called if "Function" in name or "Backward" in name]
    assert "aten::sum" not in called


@pytest.mark.parametrize("asked", [False, True], ids=["kernels", "layer"])
def test_checker_wants_exactly_the_gradients_that_are_asked_for(asked):
    table = sweeps.OPS if asked else sweeps.LINEAR_KERNELS
    problem = CASES["sparse_linear"].setup("sparse_linear", Point(SHAPES["linear"], 0.3, table))
    other = dataclasses.replace(problem, wants_bias=not asked)
    checker = Checker(problem)
    assert checker.correct(cases.kernels_step(problem))
    assert not checker.correct(cases.kernels_step(other))


def test_peers_may_err_more_than_ours():
    problem = CASES["sparse_linear"].setup("sparse_linear", Point(SHAPES["linear"], 0.3))
    right = cases.sparsefl_step(problem)
    rough = right._replace(forward=lambda: right.forward() * (1 + 3e-5))
    wrong = right._replace(forward=lambda: right.forward() * (1 + 1e-3))
    checker = Checker(problem)
    assert not checker.correct(rough)
    assert checker.correct(rough, "torch_sparse")
    assert not checker.correct(wrong, "torch_sparse")


@pytest.mark.parametrize("broken", ["output", "x", "weight", "bias"])
def test_checker_sees_each_wrong_result(broken):
    problem = CASES["sparse_linear"].setup("sparse_linear", Point(SHAPES["linear"], 0.3))
    right = cases.sparsefl_step(problem)

    def forward() -> torch.Tensor:
        out = right.forward()
        return out + 1e-2 if broken == "output" else out

    def gradients():
        found = right.gradients()
        return (
            found
            if broken == "output"
            else found._replace(**{broken: getattr(found, broken) * 1.01})
        )

    wrong = Step(right.reset, forward, right.backward, gradients)
    assert Checker(problem).correct(right)
    assert not Checker(problem).correct(wrong)


def test_checker_sees_nan():
    problem = CASES["sparse_linear"].setup("sparse_linear", Point(SHAPES["linear"], 0.3))
    step = cases.sparsefl_step(problem)
    wrong = step._replace(
        gradients=lambda: step.gradients()._replace(x=torch.full_like(problem.x, torch.nan))
    )
    assert not Checker(problem).correct(wrong)


def test_sign_problems_have_one_magnitude():
    problem = CASES["sign_linear"].setup("sign_linear", Point(SHAPES["linear"], 0.3))
    kept = problem.weight[problem.support.to_mask()]
    assert torch.equal(kept.abs(), torch.full_like(kept, cases.MAGNITUDE))
    assert not dataclasses.replace(problem, magnitudes=()).magnitudes
