"""``group_norm`` against torch's in float64: output, every gradient."""

import pytest
import torch
from torch import Tensor

from sparsefl import Support, ops, reference
from sparsefl.ops.group_norm import group_norm

pytestmark = pytest.mark.isa

# Shape and groups: batches that fill vectors, that do not, and of one sample; groups of one channel
# and of all; fewer positions than a row of columns takes, and more than a stretch holds.
SHAPES = [
    ((64, 6, 5, 7), 3),
    ((20, 8, 9, 4), 2),
    ((17, 6, 13), 6),
    ((33, 8, 8, 9), 1),
    ((65, 4, 31), 2),
    ((7, 10, 3, 3), 5),
    ((1, 6, 9, 11), 3),
    ((50, 16, 1, 1), 2),
    ((20, 3, 41, 37), 1),
    ((300, 4, 5, 3), 2),
]
STEPS = {
    "norm": {},
    "relu": {"relu": True},
    "residual": {"residual": True},
    "residual_relu": {"residual": True, "relu": True},
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
every_shape = pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)


class Problem:
    """Operands of a shape, and a gradient that is zero where the ReLU's choice hangs by rounding.

    The input's mean is three times its deviation.
    """

    def __init__(self, shape, groups, step, affine=True, dtype=torch.float32):
        channels = shape[1]
        self.groups, self.relu = groups, step.get("relu", False)
        self.leaves = {"x": torch.randn(shape, dtype=dtype) + 3}
        if affine:
            self.leaves["weight"] = torch.randn(channels, dtype=dtype)
            self.leaves["bias"] = torch.randn(channels, dtype=dtype)
        if step.get("residual"):
            self.leaves["residual"] = torch.randn(shape, dtype=dtype)
        self.grad = torch.randn(shape, dtype=dtype)
        before = self.run(reference.group_norm, torch.float64, relu=False)["output"]
        self.grad[before.abs() < 1e-3] = 0

    def run(self, op, dtype, **changes) -> dict[str, Tensor]:
        leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in self.leaves.items()}
        y = op(**{"groups": self.groups, "relu": self.relu, **changes}, **leaves)
        y.backward(self.grad.to(dtype))
        results = {"output": y.detach()}
        results.update((f"gradient of {k}", v.grad) for k, v in leaves.items())
        return results


@pytest.fixture
def assert_is_torchs(assert_matches):
    def check(problem: Problem) -> None:
        dtype = problem.grad.dtype
        results = problem.run(group_norm, dtype)
        exact = problem.run(reference.group_norm, torch.float64)
        same = problem.run(reference.group_norm, dtype)
        assert results.keys() == exact.keys()
        for what, result in results.items():
            if dtype == torch.float64:
                torch.testing.assert_close(result, exact[what], rtol=1e-10, atol=1e-10, msg=what)
            else:
                assert_matches(result, exact[what], same[what], what)

    return check


@every_step
@every_shape
def test_matches_torch(shape, groups, step, assert_is_torchs):
    assert_is_torchs(Problem(shape, groups, step))


@every_step
@pytest.mark.parametrize("batch", [1, 2, 19, 32])
def test_float64_matches(batch, step, assert_is_torchs):
    assert_is_torchs(Problem((batch, 6, 7, 8), 2, step, dtype=torch.float64))


@every_step
def test_without_weight_and_bias(step, assert_is_torchs):
    assert_is_torchs(Problem((9, 6, 7, 8), 3, step, affine=False))


@every_step
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (9, 3), (24, 24), (14, 7)])
def test_parts_cover_every_channel(step, threads, channels, groups, assert_is_torchs):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_is_torchs(Problem((31, channels, 83, 101 if channels < 7 else 31), groups, step))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("offset", [0.0, 1e3, -3e4])
def test_data_far_from_zero(offset):
    x = torch.randn(33, 4, 40, 40, dtype=torch.float64).mul(2).add(offset).float()
    mean, invstd = torch.ops.sparsefl.group_norm(
        ops.batch_last(x), 2, None, None, None, 0.0, False
    )[1:]
    rows = x.double().reshape(33, 2, -1)
    torch.testing.assert_close(mean.t(), rows.mean(2).float(), rtol=1e-6, atol=1e-6)
    expected = rows.var(2, unbiased=False).rsqrt().float()
    torch.testing.assert_close(invstd.t(), expected, rtol=1e-6, atol=0)


def test_data_that_leaps(assert_matches):
    x = torch.randn(20, 4, 30, 30)
    # Statistics of the first rows say nothing of the others.
    x[:, 0] = 0
    x[:, 1] *= 1e-3
    x[:, 2] += 1e4
    results = [
        reference.group_norm(each, 1) for each in (x.double(), ops.batch_last(x).contiguous())
    ]
    assert_matches(group_norm(x, 1), *results)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_sample(value):
    x = torch.randn(16, 4, 3, 3)
    x[5, 3, 2, 2] = value
    y = group_norm(x, 2, relu=True)
    assert y[5, 2:].isnan().all()
    y[5, 2:] = 0
    assert torch.isfinite(y).all()


def test_a_constant_group_has_no_variance():
    y = group_norm(torch.full((33, 4, 5, 5), 0.1), 2)
    assert y.abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (5, 4, 0, 3)], ids=str)
def test_nothing_has_no_gradient(shape):
    x, weight = torch.randn(shape, requires_grad=True), torch.ones(4, requires_grad=True)
    y = group_norm(x, 2, weight, relu=True)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert torch.equal(weight.grad, torch.zeros(4))


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
    x, residual = layout(torch.randn(20, 6, 6, 5)), layout(torch.randn(20, 6, 6, 5))
    y = group_norm(x, 3, residual=residual, relu=True)
    assert y.stride() == ops.batch_last(torch.empty(y.shape)).stride()
    torch.testing.assert_close(y, reference.group_norm(x, 3, residual=residual, relu=True))


def gradients_asked_of(calls) -> list[int]:
    return calls.arguments["group_norm_backward"][-1]


def test_backward_computes_only_what_is_asked_for(op_calls):
    x, residual = torch.randn(20, 4, 6, 5), torch.randn(20, 4, 6, 5)
    weight = torch.ones(4, requires_grad=True)
    with op_calls() as calls:
        group_norm(x, 2, weight, residual=residual, relu=True).sum().backward()
    assert gradients_asked_of(calls) == [0, 1, 0, 0]
    residual.requires_grad_()
    with op_calls() as calls:
        group_norm(x, 2, weight.detach(), residual=residual, relu=True).sum().backward()
    assert gradients_asked_of(calls) == [0, 0, 0, 1]


def test_a_residual_without_relu_takes_the_gradient_as_it_is(op_calls):
    x = torch.randn(20, 4, 6, 5, requires_grad=True)
    residual = torch.randn(20, 4, 6, 5, requires_grad=True)
    grad = torch.randn(20, 4, 6, 5)
    with op_calls() as calls:
        group_norm(x, 2, residual=residual).backward(grad)
    assert gradients_asked_of(calls) == [1, 0, 0, 0]
    assert torch.equal(residual.grad, grad)


def test_saves_its_input_and_no_output(saved_sizes):
    x = torch.randn(20, 4, 6, 5, requires_grad=True)
    weight, bias = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    sizes = saved_sizes(lambda: group_norm(x, 2, weight, bias, relu=True))
    assert [size for size in sizes if size > 2 * 20] == [x.numel()]


def test_a_convolution_after_it_saves_no_output():
    plan = ops.Conv2dPlan(Support.random((5, 4, 3, 3), 0.4, seed=1), padding=(1, 1))
    x = torch.randn(17, 4, 6, 7, requires_grad=True)
    weight, bias = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    values = torch.randn(plan.support.nnz, requires_grad=True)
    leaves, grad = (x, weight, bias, values), torch.randn(17, 5, 6, 7)
    kept = set()

    def pack(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = group_norm(x, 2, weight, bias, relu=True)
        out = ops.sparse_conv2d(y, values, None, plan)
    assert y.untyped_storage().data_ptr() not in kept
    results = torch.autograd.grad(out, leaves, grad)
    y = group_norm(x, 2, weight, bias, relu=True)
    out = ops.sparse_conv2d(y.view_as(y), values, None, plan)
    for result, expected in zip(results, torch.autograd.grad(out, leaves, grad), strict=True):
        assert torch.equal(result, expected)


def test_same_result_every_time():
    x, grad = torch.randn(64, 6, 40, 40), torch.randn(64, 6, 40, 40)
    weight = torch.randn(6, requires_grad=True)

    def run():
        y = group_norm(x, 3, weight, relu=True)
        return y, torch.autograd.grad(y, weight, grad)[0]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@every_step
def test_gradcheck(step):
    problem = Problem((4, 6, 2, 3), 3, step, dtype=torch.float64)
    names = list(problem.leaves)
    leaves = [leaf.requires_grad_() for leaf in problem.leaves.values()]

    def call(*tensors):
        options = dict(zip(names, tensors, strict=True))
        return group_norm(**options, groups=problem.groups, relu=problem.relu)

    assert torch.autograd.gradcheck(call, leaves)


@every_step
def test_opcheck(step):
    problem = Problem((5, 6, 2, 3), 2, step)
    tensors = {k: ops.batch_last(v) if v.dim() > 1 else v for k, v in problem.leaves.items()}
    operands = [tensors.get(name) for name in ("x", "weight", "bias", "residual")]
    kernels = torch.ops.sparsefl
    arguments = (operands[0], 2, *operands[1:], 1e-5, problem.relu)
    torch.library.opcheck(kernels.group_norm, arguments)
    y, mean, invstd = kernels.group_norm(*arguments)
    again = (*operands, mean, invstd, problem.relu)
    torch.library.opcheck(kernels.group_norm_again, again)
    assert torch.equal(kernels.group_norm_again(*again), y)
    grad = ops.batch_last(problem.grad)
    for wanted in ([1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]):
        settings = (mean, invstd, problem.relu, wanted)
        by_output, by_input = (
            (grad, *operands[:3], *beside, *settings) for beside in ((None, y), (operands[3], None))
        )
        torch.library.opcheck(kernels.group_norm_backward, by_output)
        torch.library.opcheck(kernels.group_norm_backward, by_input)
        results = (kernels.group_norm_backward(*b) for b in (by_output, by_input))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_double_backward_is_refused():
    x = torch.randn(4, 4, 2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(group_norm(x, 2).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x: expected a tensor, got list"),
        ({"x": torch.randn(4, 6).half()}, TypeError, "x: expected float32 or float64"),
        ({"x": torch.randn(3)}, ValueError, r"x: expected \[N, C, \.\.\.\], got \[3\]"),
        ({"groups": 2.0}, TypeError, "groups: expected an int, got float"),
        ({"groups": 0}, ValueError, "groups: expected a divisor of the 6 channels, got 0"),
        ({"groups": 4}, ValueError, "groups: expected a divisor of the 6 channels, got 4"),
        ({"weight": 1.0}, TypeError, "weight: expected a tensor, got float"),
        ({"weight": torch.ones(4)}, ValueError, r"weight: expected shape \[6\], got \[4\]"),
        ({"bias": torch.ones(6).double()}, TypeError, "bias: expected the input's dtype"),
        ({"residual": torch.ones(6)}, ValueError, r"residual: expected shape \[4, 6\]"),
        (
            {"bias": torch.ones(6, device="meta")},
            ValueError,
            "bias: expected the input's device cpu, got meta",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input_is_named(change, error, message):
    arguments = {"x": torch.randn(4, 6), "groups": 3, "weight": torch.ones(6)} | change
    with pytest.raises(error, match=message):
        group_norm(**arguments)
