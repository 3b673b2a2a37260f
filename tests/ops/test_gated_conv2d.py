"""``gated_conv2d`` against plain torch in float64, and what it skips."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from sparsefl import ops, reference

pytestmark = pytest.mark.isa

KERNELS = torch.ops.sparsefl
SKIPS = [0.0, 0.4, 1.0]


class Case(NamedTuple):
    """Shapes of one convolution; the densities are of the kept channels in and out."""

    batch: int
    inner: int
    out: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @property
    def geometry(self) -> ops.GatedGeometry:
        return ops.GatedGeometry(self.kernel, self.stride, self.padding, self.dilation)

    def operands(self, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
        x = torch.randn(self.batch, self.inner, *self.size, dtype=dtype)
        weight = torch.randn(self.out, self.inner, *self.kernel, dtype=dtype)
        rows = self.geometry.output_size(*self.size)
        return x, weight, torch.randn(self.batch, self.out, *rows, dtype=dtype)

    def convolve(self, x, weight, bias=None):
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)


CASES = {
    "3x3": Case(5, 13, 22, (8, 8)),
    "whole-rows": Case(3, 7, 9, (6, 32)),
    "many-channels": Case(2, 70, 65, (4, 4)),
    "one-tile": Case(3, 5, 17, (1, 16)),
    "odd-size": Case(3, 6, 7, (7, 9)),
    "wide": Case(2, 3, 4, (5, 83)),
    "stride-2": Case(3, 6, 8, (16, 32), stride=(2, 2)),
    "stride-2-of-rows": Case(3, 4, 5, (13, 32), stride=(2, 1)),
    "stride-2-odd": Case(3, 5, 6, (11, 9), stride=(2, 2)),
    "stride-over-kernel": Case(2, 3, 4, (11, 9), (2, 2), (4, 3), (0, 0)),
    "uneven": Case(2, 3, 4, (12, 7), (5, 2), (2, 1), (1, 2), (1, 3)),
    "dilated": Case(2, 3, 5, (13, 16), (3, 3), (1, 1), (2, 2), (2, 2)),
    "far-padded": Case(2, 3, 4, (5, 16), (3, 3), (1, 1), (4, 21), (1, 20)),
    "1x1": Case(4, 9, 5, (7, 7), (1, 1), (1, 1), (0, 0)),
    "1x1-stride-2": Case(4, 9, 5, (7, 7), (1, 1), (2, 2), (0, 0)),
    "5x5": Case(3, 4, 3, (9, 10), (5, 5), (1, 1), (2, 2)),
    "5x5-stride-2": Case(3, 4, 5, (12, 11), (5, 5), (2, 2), (2, 2)),
    "7x7-stride-3": Case(2, 3, 4, (13, 32), (7, 7), (3, 3), (3, 3)),
    "5x3-stride-2-of-rows": Case(2, 3, 4, (12, 16), (5, 3), (2, 1), (1, 1)),
    "one-pixel": Case(4, 5, 6, (1, 1)),
    "2x2-pixels": Case(4, 5, 33, (2, 2)),
    "2x2-pixels-many-channels": Case(3, 150, 140, (2, 2)),
    "3x3-pixels": Case(5, 37, 33, (3, 3)),
    "4x4-pixels": Case(4, 500, 18, (4, 4)),
    "4x3-pixels": Case(4, 6, 5, (4, 3)),
    "empty-batch": Case(0, 3, 4, (5, 5)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def random_flags(rows: int, columns: int, skipped: float) -> torch.Tensor:
    return torch.rand(rows, columns) >= skipped


def planes(flags: torch.Tensor) -> torch.Tensor:
    return flags[:, :, None, None]


@pytest.fixture(params=["sparse", "dense"])
def layout(request, monkeypatch) -> str:
    monkeypatch.setattr(ops._dispatch, "gated_layout", lambda *_: request.param)
    return request.param


@every_case
@pytest.mark.parametrize("skipped", SKIPS, ids="skipped={}".format)
def test_forward_is_the_convolution_of_the_kept_channels(assert_matches, case, skipped):
    x, weight, _ = case.operands()
    bias = torch.randn(case.out)
    flags = [random_flags(case.batch, c, skipped) for c in (case.inner, case.out)]
    y = KERNELS.gated_conv2d(x, weight, bias, *flags, case.geometry.sizes(*case.size))

    def dense(dtype):
        operands = (x * planes(flags[0])).to(dtype), weight.to(dtype), bias.to(dtype)
        return case.convolve(*operands) * planes(flags[1])

    assert_matches(y, dense(torch.float64), dense(torch.float32))
    assert y[~flags[1]].count_nonzero() == 0


@every_case
@pytest.mark.parametrize("skipped", SKIPS, ids="skipped={}".format)
def test_gradients_are_those_of_the_kept_channels(assert_matches, case, skipped):
    x, weight, grad = case.operands()
    start = torch.randn(case.batch, case.inner)
    flags = [random_flags(case.batch, c, skipped) for c in (case.inner, case.out)]
    wanted = random_flags(case.batch, case.inner, skipped)
    results = KERNELS.gated_conv2d_backward(
        *(grad, x, weight, start, flags[0], wanted, flags[1]),
        *(case.geometry.sizes(*case.size), [1, 1]),
    )

    def dense(dtype):
        kept = (x * planes(flags[0])).to(dtype).requires_grad_()
        dense_weight = weight.to(dtype, copy=True).requires_grad_()
        case.convolve(kept, dense_weight).backward((grad * planes(flags[1])).to(dtype))
        return (kept.grad + planes(start.to(dtype))) * planes(wanted), dense_weight.grad

    expected = zip(dense(torch.float64), dense(torch.float32), strict=True)
    for what, result, both in zip(("input", "weight"), results, expected, strict=True):
        assert_matches(result, *both, what)


@pytest.mark.parametrize("name", ["3x3", "whole-rows", "stride-2", "5x5"])
def test_skipped_channels_are_never_read(name):
    case = CASES[name]
    x, weight, grad = case.operands()
    inner, out = (random_flags(case.batch, c, 0.4) for c in (case.inner, case.out))
    inner[:, 0] = out[:, 0] = False
    x.masked_fill_(~planes(inner), float("nan"))
    grad.masked_fill_(~planes(out), float("nan"))
    weight[0] = weight[:, 0] = float("nan")
    sizes = case.geometry.sizes(*case.size)
    y = KERNELS.gated_conv2d(x, weight, None, inner, out, sizes)
    gradients = KERNELS.gated_conv2d_backward(
        grad, x, weight, None, inner, inner, out, sizes, [1, 1]
    )
    for result in (y, *gradients):
        assert result.isfinite().all()


def tensors_of(case: Case, dtype: torch.dtype = torch.float32) -> ops.GatedTensors:
    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, dtype=dtype)

    out, inner = case.out, case.inner
    weight = draw(out, inner, *case.kernel) / (inner * 9) ** 0.5
    return ops.GatedTensors(
        weight, draw(out), draw(out, inner), draw(out).abs(), draw(out).abs() + 0.5, draw(out) / 2
    )


def run(case, x, tensors, grad, options, running, handed=None, oracle=None):
    """Returns the output and the gradients, by the operator or the reference in a dtype."""
    dtype = oracle or x.dtype
    x = x.to(dtype, copy=True).requires_grad_()
    tensors = ops.GatedTensors(*(t.to(dtype, copy=True).requires_grad_() for t in tensors))
    running = running and tuple(t.to(dtype) for t in running)
    if oracle is None:
        y, opened, _ = ops.gated_conv2d(x, tensors, case.geometry, options, running, handed)
        assert not opened.requires_grad
    else:
        g = reference.gates(
            x, tensors.gate_weight, tensors.gate_bias, options.kept, options.sigmoid
        )
        z = case.convolve(x, tensors.weight, tensors.bias)
        y = reference.gated_norm(
            *(z, g, tensors.norm_weight, tensors.norm_bias, running),
            *(options.all_samples, options.eps, options.relu),
        )
    y.backward(grad.to(dtype))
    names = ("output", "input", *(f"gradient of {name}" for name in tensors._fields))
    return dict(zip(names, (y.detach(), x.grad, *(t.grad for t in tensors)), strict=True))


OPTIONS = {
    "active": {},
    "all": {"all_samples": True},
    "sigmoid": {"sigmoid": True},
    "no-relu": {"relu": False},
    "running": {"running": True},
    "one-kept": {"kept": 1},
    "all-kept": {"kept": None},
}


@pytest.mark.parametrize("name", ["3x3", "whole-rows", "stride-2-odd", "3x3-pixels", "uneven"])
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.usefixtures("layout")
def test_matches_the_plain_formula(assert_matches, name, changes):
    case = CASES[name]
    settings = {"kept": case.out // 2, "all_samples": False, "sigmoid": False, "relu": True}
    settings |= {key: value for key, value in changes.items() if key != "running"}
    options = ops.GatedOptions(**settings | {"kept": settings["kept"] or case.out}, eps=1e-5)
    x, _, grad = case.operands()
    x *= planes(random_flags(case.batch, case.inner, 0.3))
    running = (torch.randn(case.out), torch.rand(case.out) + 0.5)
    arguments = (
        *(case, x, tensors_of(case), grad, options),
        running if "running" in changes else None,
    )
    results = run(*arguments)
    expected, same = (run(*arguments, oracle=d) for d in (torch.float64, torch.float32))
    if "running" not in changes:
        # The norm takes the bias out again: what is left of its gradient is rounding.
        largest = results["gradient of weight"].abs().max()
        assert results.pop("gradient of bias").abs().max() < 1e-4 * largest
    for what, result in results.items():
        assert_matches(result, expected[what], same[what], what)


def test_handed_gates_spare_the_input_gradient():
    case = CASES["3x3"]
    options = ops.GatedOptions(11, False, False, True, 1e-5)
    x, _, grad = case.operands()
    handed = random_flags(case.batch, case.inner, 0.4)
    x *= planes(handed)
    arguments = (case, x, tensors_of(case), grad, options, None)
    whole, spared = run(*arguments), run(*arguments, handed=handed)
    assert whole["input"][~handed].count_nonzero() > 0
    whole["input"] *= planes(handed)
    for what, result in whole.items():
        assert torch.equal(spared[what], result), what


def test_wrong_handed_gates_change_nothing():
    case = CASES["3x3"]
    options = ops.GatedOptions(11, False, False, True, 1e-5)
    x, _, grad = case.operands()
    arguments = (case, x, tensors_of(case), grad, options, None)
    handed = random_flags(case.batch, case.inner, 0.4)
    for what, result in run(*arguments).items():
        assert torch.equal(run(*arguments, handed=handed)[what], result), what


@pytest.mark.parametrize("trained", ["x", "weight", "gate_weight", "norm_weight"])
@pytest.mark.usefixtures("layout")
def test_backward_gives_what_is_trained(trained):
    case = CASES["3x3"]
    x, _, grad = case.operands()
    options = ops.GatedOptions(11, False, False, True, 1e-5)
    tensors = tensors_of(case)
    expected = run(case, x, tensors, grad, options, None)
    tensor = x if trained == "x" else getattr(tensors, trained)
    tensor.requires_grad_()
    ops.gated_conv2d(x, tensors, case.geometry, options)[0].backward(grad)
    what = "input" if trained == "x" else f"gradient of {trained}"
    assert torch.equal(tensor.grad, expected[what])


@pytest.mark.parametrize("trained", ["x", "weight", "gate_weight", "norm_weight"])
def test_backward_asks_for_what_is_trained(op_calls, trained):
    case = CASES["3x3"]
    x, _, grad = case.operands()
    tensors = tensors_of(case)
    tensor = x if trained == "x" else getattr(tensors, trained)
    tensor.requires_grad_()
    options = ops.GatedOptions(11, False, False, True, 1e-5)
    with op_calls() as calls:
        ops.gated_conv2d(x, tensors, case.geometry, options)[0].backward(grad)
    asked = [trained == "x", trained == "weight"]
    if any(asked):
        assert calls.arguments["gated_conv2d_backward"][-1] == asked
    else:
        assert calls["gated_conv2d_backward"] == 0
    assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parallel_parts_cover_all_samples(assert_matches, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        case = Case(7, 17, 19, (12, 16))
        x, _, grad = case.operands()
        options = ops.GatedOptions(12, False, False, True, 1e-5)
        arguments = (case, x, tensors_of(case), grad, options, None)
        results = run(*arguments)
        expected, same = (run(*arguments, oracle=d) for d in (torch.float64, torch.float32))
        del results["gradient of bias"]
        for what, result in results.items():
            assert_matches(result, expected[what], same[what], what)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("all_samples", "running"), [(False, False), (True, False), (False, True)], ids=str
)
@pytest.mark.usefixtures("layout")
def test_gradcheck(all_samples, running):
    case = Case(3, 3, 4, (4, 3))
    x, _, _ = case.operands(torch.float64)
    tensors = tensors_of(case, torch.float64)
    options = ops.GatedOptions(3, all_samples, True, True, 1e-5)
    statistics = (torch.zeros(4).double(), torch.ones(4).double()) if running else None
    for tensor in (x, *tensors):
        tensor.requires_grad_()

    def call(x, *tensors):
        return ops.gated_conv2d(x, ops.GatedTensors(*tensors), case.geometry, options, statistics)[
            0
        ]

    assert torch.autograd.gradcheck(call, (x, *tensors))


def test_opcheck():
    case = Case(3, 5, 6, (7, 8), stride=(2, 2))
    x, weight, grad = case.operands()
    sizes = case.geometry.sizes(*case.size)
    inner, out = random_flags(3, 5, 0.3), random_flags(3, 6, 0.3)
    gate = torch.rand(3, 6) * out
    mean, variance, bias = torch.randn(6), torch.rand(6), torch.randn(6)
    count = torch.ones(6, dtype=torch.long)
    check = torch.library.opcheck
    check(KERNELS.gated_pool, (x,))
    check(KERNELS.gated_conv2d, (x, weight, bias, inner, out, sizes))
    for wanted in ([1, 1], [1, 0], [0, 1]):
        arguments = (grad, x, weight, None, inner, inner, out, sizes, wanted)
        check(KERNELS.gated_conv2d_backward, arguments)
    check(KERNELS.gated_keep, (gate - 0.5, 3))
    check(KERNELS.gated_moments, (grad, out))
    statistics = (mean, variance, count)
    check(KERNELS.gated_update, (mean.clone(), variance.clone(), *statistics, 9, 0.1))
    norm = (bias, bias, 1e-5, True)
    check(KERNELS.gated_norm, (grad, gate, out, mean, variance, *norm))
    check(KERNELS.gated_norm_backward, (grad, grad, gate, out, mean, variance, count, *norm))


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_keeps_the_largest_gates(kept):
    logits = torch.randn(40, 7)
    logits[1] = -1.0
    logits[2] = 2.0
    logits[3, 4] = float("nan")
    gates, opened = KERNELS.gated_keep(logits, kept)
    a = logits.relu()
    expected = torch.zeros_like(a).scatter(1, a.topk(kept).indices, 1.0).bool() & ~(a <= 0)
    expected[2] = torch.arange(7) < kept  # the first of equal ones
    assert torch.equal(opened, expected)
    torch.testing.assert_close(gates, a.where(expected, 0.0), equal_nan=True, rtol=0, atol=0)


def test_pool_sees_every_element_that_is_not_zero():
    x = torch.zeros(3, 40, 5, 7)
    for i in range(35):
        x[1, i].view(-1)[i] = float("nan") if i == 3 else -1e-30
    x[2, 0] = -0.0
    mean, nonzero = KERNELS.gated_pool(x)
    expected = torch.zeros(3, 40, dtype=torch.bool)
    expected[1, :35] = True
    assert torch.equal(nonzero, expected)
    assert mean[1, 3].isnan()


def test_moments_of_far_means_are_exact():
    z = torch.randn(6, 3, 5, 5) + 1000
    active = random_flags(6, 3, 0.3)
    active[:, 2] = False
    mean, variance, count = KERNELS.gated_moments(z, active)
    assert torch.equal(count, active.sum(0))
    for c in range(2):
        kept = z[active[:, c], c].double()
        torch.testing.assert_close(mean[c].double(), kept.mean(), rtol=1e-6, atol=0)
        torch.testing.assert_close(
            variance[c].double(), kept.var(unbiased=False), rtol=1e-4, atol=0
        )
    assert mean[2] == variance[2] == 0
