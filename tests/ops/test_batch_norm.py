"""``batch_norm`` against torch's in float64: output, statistics, every gradient."""

import pytest
import torch
from torch import Tensor

from sparsefl import ops, reference
from sparsefl.ops.batch_norm import batch_norm

pytestmark = pytest.mark.isa

# Rows of a channel from 2 elements to more than a stretch, of whole vectors and not; few channels
# on large rows are cut into segments.
SHAPES = [(2, 3, 1, 1), (64, 6, 5, 7), (33, 1, 8, 9), (17, 13), (65, 4, 31), (20, 3, 41, 37)]
STEPS = {
    "norm": {},
    "relu": {"relu": True},
    "residual": {"residual": True},
    "residual_relu": {"residual": True, "relu": True},
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Problem:
    """Operands of a shape, and a gradient that is zero where the ReLU's choice hangs by rounding.

    The input's mean is three times its deviation.
    """

    def __init__(self, shape, step, given=False, affine=True, dtype=torch.float32):
        channels = shape[1]
        self.relu = step.get("relu", False)
        self.leaves = {"x": torch.randn(shape, dtype=dtype) + 3}
        if affine:
            self.leaves["weight"] = torch.randn(channels, dtype=dtype)
            self.leaves["bias"] = torch.randn(channels, dtype=dtype)
        if step.get("residual"):
            self.leaves["residual"] = torch.randn(shape, dtype=dtype)
        self.given = {}
        if given:
            self.given["mean"] = torch.randn(channels, dtype=dtype) + 3
            self.given["var"] = torch.rand(channels, dtype=dtype) + 0.5
        self.grad = torch.randn(shape, dtype=dtype)
        before = self.run(reference.batch_norm, torch.float64, relu=False)["output"]
        self.grad[before.abs() < 1e-3] = 0

    def run(self, op, dtype, **changes) -> dict[str, Tensor]:
        options = {"weight": None, "bias": None, "relu": self.relu, **changes}
        leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in self.leaves.items()}
        given = {k: v.to(dtype) for k, v in self.given.items()}
        result = op(**{**options, **leaves, **given})
        y = result if isinstance(result, Tensor) else result.y
        y.backward(self.grad.to(dtype))
        results = {"output": y.detach()}
        results.update((f"gradient of {k}", v.grad) for k, v in leaves.items())
        return results


@pytest.fixture
def assert_is_torchs(assert_matches):
    def check(problem: Problem) -> None:
        dtype = problem.grad.dtype
        results = problem.run(batch_norm, dtype)
        exact = problem.run(reference.batch_norm, torch.float64)
        same = problem.run(reference.batch_norm, dtype)
        assert results.keys() == exact.keys()
        for what, result in results.items():
            if dtype == torch.float64:
                torch.testing.assert_close(result, exact[what], rtol=1e-10, atol=1e-10, msg=what)
            else:
                assert_matches(result, exact[what], same[what], what)

    return check


@every_step
@every_shape
@pytest.mark.parametrize("given", [False, True], ids=["batch", "given"])
def test_matches_torch(shape, step, given, assert_is_torchs):
    assert_is_torchs(Problem(shape, step, given))


@every_step
def test_float64_matches(step, assert_is_torchs):
    assert_is_torchs(Problem((19, 5, 7, 8), step, dtype=torch.float64))


@every_step
def test_without_weight_and_bias(step, assert_is_torchs):
    assert_is_torchs(Problem((9, 5, 7, 8), step, affine=False))


@every_step
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 2, 7, 24])
def test_parts_cover_every_row(step, threads, channels, assert_is_torchs):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_is_torchs(Problem((31, channels, 83, 101 if channels < 7 else 31), step))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(64, 3, 9, 9), (3000, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e3, -3e4])
def test_statistics_of_data_far_from_zero(shape, offset):
    x = torch.randn(shape, dtype=torch.float64).mul(2).add(offset).float()
    _, mean, var = batch_norm(x, None, None)
    rows = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, rows.mean(1).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var, rows.var(1, unbiased=False).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_passed_on(value):
    x = torch.randn(16, 2, 3, 3)
    x[5, 1, 2, 2] = value
    y, mean, var = batch_norm(x, None, None, relu=True)
    assert torch.isfinite(y[:, 0]).all()
    assert y[:, 1].isnan().all()
    assert not torch.isfinite(mean[1])
    assert not torch.isfinite(var[1])


def test_a_constant_channel_has_no_variance():
    y, mean, var = batch_norm(torch.full((33, 2, 5, 5), 0.1), None, None)
    assert torch.equal(var, torch.zeros(2))
    torch.testing.assert_close(mean, torch.full((2,), 0.1))
    assert y.abs().max() < 1e-4


@pytest.mark.parametrize(
    "layout",
    [
        torch.Tensor.contiguous,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.flip(0)[::2].repeat_interleave(2, 0),
        lambda x: ops.batch_last(x)[:, :, :4],
    ],
    ids=["contiguous", "channels-last", "indexed", "sliced"],
)
def test_any_memory_order_gives_batch_last(layout):
    x, residual = layout(torch.randn(20, 3, 6, 5)), layout(torch.randn(20, 3, 6, 5))
    y, *_ = batch_norm(x, None, None, residual=residual, relu=True)
    assert y.stride() == ops.batch_last(torch.empty(y.shape)).stride()
    torch.testing.assert_close(y, reference.batch_norm(x, None, None, residual, relu=True))


def gradients_asked_of(calls) -> list[int]:
    return calls.arguments["batch_norm_backward"][-1]


def test_backward_computes_only_what_is_asked_for(op_calls):
    x, residual = torch.randn(20, 3, 6, 5), torch.randn(20, 3, 6, 5)
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3)
    with op_calls() as calls:
        batch_norm(x, weight, bias, residual=residual, relu=True).y.sum().backward()
    assert gradients_asked_of(calls) == [0, 1, 0, 0]
    residual.requires_grad_()
    with op_calls() as calls:
        batch_norm(x, weight.detach(), bias, residual=residual, relu=True).y.sum().backward()
    assert gradients_asked_of(calls) == [0, 0, 0, 1]


def test_a_residual_without_relu_takes_the_gradient_as_it_is(op_calls):
    x = torch.randn(20, 3, 6, 5, requires_grad=True)
    residual = torch.randn(20, 3, 6, 5, requires_grad=True)
    grad = torch.randn(20, 3, 6, 5)
    with op_calls() as calls:
        batch_norm(x, None, None, residual=residual).y.backward(grad)
    assert gradients_asked_of(calls) == [1, 0, 0, 0]
    assert torch.equal(residual.grad, grad)


def test_saves_its_input_and_no_output(saved_sizes):
    x = torch.randn(20, 3, 6, 5, requires_grad=True)
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    sizes = saved_sizes(lambda: batch_norm(x, weight, bias, relu=True).y)
    assert [size for size in sizes if size > 3] == [x.numel()]


def test_same_result_every_time():
    x, grad = torch.randn(64, 5, 40, 40), torch.randn(64, 5, 40, 40)
    weight = torch.randn(5, requires_grad=True)

    def run():
        y = batch_norm(x, weight, None, relu=True).y
        return y, torch.autograd.grad(y, weight, grad)[0]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@every_step
@pytest.mark.parametrize("given", [False, True], ids=["batch", "given"])
def test_gradcheck(step, given):
    problem = Problem((4, 3, 2, 3), step, given, dtype=torch.float64)
    names = list(problem.leaves)
    leaves = [leaf.requires_grad_() for leaf in problem.leaves.values()]

    def call(*tensors):
        options = {"weight": None, "bias": None, **dict(zip(names, tensors, strict=True))}
        return batch_norm(**options, **problem.given, relu=problem.relu).y

    assert torch.autograd.gradcheck(call, leaves)


@every_step
@pytest.mark.parametrize("given", [False, True], ids=["batch", "given"])
def test_opcheck(step, given):
    problem = Problem((5, 3, 2, 3), step, given)
    tensors = {k: ops.batch_last(v) if v.dim() > 1 else v for k, v in problem.leaves.items()}
    statistics = [problem.given.get(name) for name in ("mean", "var")]
    operands = [tensors.get(name) for name in ("x", "weight", "bias", "residual")]
    kernels = torch.ops.sparsefl
    arguments = (*operands, *statistics, 1e-5, problem.relu)
    torch.library.opcheck(kernels.batch_norm, arguments)
    y, mean, _, invstd = kernels.batch_norm(*arguments)
    torch.library.opcheck(kernels.batch_norm_again, (*operands, mean, invstd, problem.relu))
    assert torch.equal(kernels.batch_norm_again(*operands, mean, invstd, problem.relu), y)
    grad = ops.batch_last(problem.grad)
    for wanted in ([1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]):
        settings = (mean, invstd, not given, problem.relu, wanted)
        by_output, by_input = (
            (grad, *operands[:3], *beside, *settings) for beside in ((None, y), (operands[3], None))
        )
        torch.library.opcheck(kernels.batch_norm_backward, by_output)
        torch.library.opcheck(kernels.batch_norm_backward, by_input)
        results = (kernels.batch_norm_backward(*b) for b in (by_output, by_input))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_double_backward_is_refused():
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    y = batch_norm(x, None, None).y
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x: expected a tensor, got list"),
        ({"x": torch.randn(4, 3).half()}, TypeError, "x: expected float32 or float64"),
        ({"x": torch.randn(3)}, ValueError, r"x: expected \[N, C, \.\.\.\], got \[3\]"),
        ({"weight": 1.0}, TypeError, "weight: expected a tensor, got float"),
        ({"weight": torch.ones(4)}, ValueError, r"weight: expected shape \[3\], got \[4\]"),
        ({"bias": torch.ones(3).double()}, TypeError, "bias: expected the input's dtype"),
        ({"residual": torch.ones(3)}, ValueError, r"residual: expected shape \[4, 3\]"),
        ({"mean": torch.ones(3)}, ValueError, "mean and var: expected both or neither"),
        (
            {"mean": torch.ones(3), "var": torch.ones(3, device="meta")},
            ValueError,
            "var: expected the input's device cpu, got meta",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input_is_named(change, error, message):
    arguments = {"x": torch.randn(4, 3), "weight": torch.ones(3), "bias": None} | change
    with pytest.raises(error, match=message):
        batch_norm(**arguments)
