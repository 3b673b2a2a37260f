"""``sparse_linear`` and ``sign_linear`` against dense torch in float64, and what they skip."""

from collections.abc import Callable

import pytest
import torch

from sparsefl import Support, ops

pytestmark = pytest.mark.isa

KINDS = ("values", "sign_constant", "sign_tensor")
SHAPES = [
    (1, 5, 7),
    (7, 1, 63),
    (16, 64, 65),
    (17, 300, 257),
    (63, 65, 1),
    (64, 129, 257),
    (65, 33, 300),
    (130, 257, 129),
    (600, 9, 17),
    (0, 4, 6),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.0, "one", 0.01, 0.1, 0.5, 1.0], ids="density={}".format)
@pytest.mark.parametrize(("batch", "out", "inner"), SHAPES, ids=str)
@pytest.mark.usefixtures("sparse_layout")
def test_matches_dense_torch(make_problem, assert_op_matches, batch, out, inner, density, kind):
    assert_op_matches(make_problem((batch, inner), (out, inner), (batch, out), density, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.05, 0.5], ids="density={}".format)
@pytest.mark.usefixtures("sparse_layout")
def test_float64_matches(make_problem, assert_op_matches, density, kind):
    assert_op_matches(
        make_problem((19, 150), (31, 150), (19, 31), density, kind, dtype=torch.float64)
    )


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_short_formats_match(make_problem, assert_op_matches, set_layout, kind, dtype, layout):
    set_layout(layout)
    for batch, out, inner in ((19, 31, 150), (1, 65, 33), (70, 8, 600)):
        problem = make_problem((batch, inner), (out, inner), (batch, out), 0.3, kind, dtype)
        assert_op_matches(problem)
    results = problem.sparse()
    assert {result.dtype for result in results.values()} == {dtype}


@pytest.mark.parametrize("short", ["input", "values"])
def test_autocast_brings_the_input_into_the_format_of_the_values(short):
    plan = ops.LinearPlan(Support.random((6, 9), 0.4, seed=1))
    x, values = torch.randn(5, 9), torch.randn(plan.support.nnz)
    if short == "input":
        x = x.bfloat16()
    else:
        values = values.bfloat16()
    with pytest.raises(TypeError, match="values: expected the input's dtype"):
        ops.sparse_linear(x, values, None, plan)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.sparse_linear(x, values, None, plan)
    assert y.dtype == values.dtype
    assert torch.equal(y, ops.sparse_linear(x.to(values.dtype), values, None, plan))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.0, "one", 0.02, 0.3, 0.9, 1.0], ids="density={}".format)
@pytest.mark.usefixtures("dense_layout")
def test_dense_layout_matches(make_problem, assert_op_matches, kind, density):
    assert_op_matches(make_problem((21, 300), (30, 300), (21, 30), density, kind))


@pytest.mark.parametrize(("batch", "out", "inner"), [(16, 4096, 256), (70, 256, 4096)], ids=str)
@pytest.mark.usefixtures("sparse_layout")
def test_long_sums_round_no_more_than_dense_ones(
    make_problem, assert_op_matches, batch, out, inner
):
    assert_op_matches(make_problem((batch, inner), (out, inner), (batch, out), 0.5))


@pytest.mark.usefixtures("dense_layout")
def test_dense_layout_shares_out_large_weights(make_problem, assert_op_matches):
    assert_op_matches(make_problem((3, 1500), (801, 1500), (3, 801), 0.3))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.usefixtures("sparse_layout")
def test_parallel_parts_cover_all_rows(make_problem, assert_op_matches, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_op_matches(make_problem((64, 700), (301, 700), (64, 301), 0.2))
        assert_op_matches(make_problem((1600, 70), (41, 70), (1600, 41), 0.3))
        # Four threads: two groups of samples, each cut into two ranges of rows.
        assert_op_matches(make_problem((130, 700), (301, 700), (130, 301), 0.02))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["values", "sign_constant"])
@pytest.mark.parametrize("batch", [0, 1, 7, 64, 65, 600])
@pytest.mark.usefixtures("sparse_layout")
def test_row_major_output(batch, kind):
    plan = ops.LinearPlan(Support.random((70, 33), 0.3, seed=2))
    x, stored = torch.randn(2, batch, 33), torch.randn(plan.support.nnz)
    bias = torch.randn(70)
    sign = () if kind == "values" else (0.5,)
    op = ops.sparse_linear if kind == "values" else ops.sign_linear
    y = op(x, stored, *sign, bias, plan, row_major=True)
    assert y.is_contiguous()
    assert torch.equal(y, op(x, stored, *sign, bias, plan))


@pytest.mark.parametrize("lead", [(), (3, 5), (2, 3, 4)], ids=str)
def test_leading_dimensions(make_problem, assert_op_matches, lead):
    assert_op_matches(make_problem((*lead, 20), (11, 20), (*lead, 11), 0.3))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: x.repeat_interleave(2, 0)[::2],
        lambda x: x[:1].expand(x.shape),
    ],
    ids=["batch-last", "sliced", "strided", "expanded"],
)
def test_strides_of_the_input(make_problem, assert_op_matches, layout):
    problem = make_problem((48, 33), (21, 33), (48, 21), 0.3)
    problem.x = layout(problem.x)
    problem.grad = problem.grad.t().contiguous().t()
    assert_op_matches(problem)


@pytest.mark.parametrize(("batch", "out", "inner"), [(10, 31, 9000), (20, 5000, 65), (50, 99, 70)])
@pytest.mark.usefixtures("sparse_layout")
def test_batch_last_without_padding(make_problem, assert_op_matches, batch, out, inner):
    problem = make_problem((batch, inner), (out, inner), (batch, out), 0.02)
    problem.x = problem.x.t().contiguous().t()
    problem.grad = problem.grad.t().contiguous().t()
    assert_op_matches(problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("sparse_layout")
def test_gradcheck(kind):
    plan = ops.LinearPlan(Support.random((6, 9), 0.4, seed=1))
    nnz = plan.support.nnz
    x = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    stored = torch.randn(nnz, dtype=torch.float64)
    if kind == "values":
        stored.requires_grad_()
        call = lambda x, b, s: ops.sparse_linear(x, s, b, plan)  # noqa: E731
    else:
        # A score's straight-through gradient is no derivative, so only x and bias are differenced.
        magnitude = 0.5 if kind == "sign_constant" else torch.rand(nnz, dtype=torch.float64)
        call = lambda x, b, s: ops.sign_linear(x, s, magnitude, b, plan)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, bias, stored))


@pytest.mark.parametrize("wanted", [[1, 1, 1], [2, 1, 0], [0, 0, 1], [1, 0, 0]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, wanted):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x, stored, bias = torch.randn(7, 20), torch.randn(plan.support.nnz), torch.randn(12)
    grad = torch.randn(7, 12)
    if kind == "values":
        names, sign = "sparse_linear", ()
    else:
        names, sign = "sign_linear", (stored.abs() if kind == "sign_tensor" else None, 0.5)
    backward = getattr(torch.ops.sparsefl, names + "_backward")
    for row_major in (False, True):
        forward = (x, stored, *sign, bias, *plan.forward, row_major)
        torch.library.opcheck(getattr(torch.ops.sparsefl, names), forward)
    operand = x if wanted[1] else None
    torch.library.opcheck(backward, (grad, operand, stored, *sign, *plan.transposed, wanted))


@pytest.mark.parametrize("magnitudes", [None, "each"])
@pytest.mark.parametrize("density", [0.0, 0.3])
@pytest.mark.usefixtures("sparse_layout")
def test_one_sample_is_multiplied_in_the_stored_order(op_calls, density, magnitudes):
    plan = ops.LinearPlan(Support.random((300, 700), density, seed=2))
    nnz = plan.support.nnz
    x, scores, bias = torch.randn(1, 700), torch.randn(nnz), torch.randn(300)
    magnitude = 0.5 if magnitudes is None else torch.rand(nnz)
    with op_calls() as calls:
        y = ops.sign_linear(x, scores, magnitude, bias, plan)
    assert calls.arguments["sign_linear"][-1] == 300
    by_row = ops.sign_linear(x.expand(2, 700), scores, magnitude, bias, plan)[:1]
    torch.testing.assert_close(y, by_row)
    one = (x, scores, None if magnitudes is None else magnitude, 0.5, bias)
    torch.library.opcheck(torch.ops.sparsefl.sign_linear, (*one, *plan.transposed, True, 300))
    torch.library.opcheck(torch.ops.sparsefl.sign_linear, (*one, *plan.forward))


@pytest.mark.parametrize("wanted", [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]], ids=str)
def test_backward_skips_what_is_not_wanted(wanted):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x, values, grad = torch.randn(7, 20), torch.randn(plan.support.nnz), torch.randn(7, 12)
    view = plan.transposed
    gradients = torch.ops.sparsefl.sparse_linear_backward(grad, x, values, *view, wanted)
    assert [g.numel() > 0 for g in gradients] == [w > 0 for w in wanted]


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [("x", [2, 0, 0]), ("values", [0, 1, 0]), ("bias", [0, 0, 1]), ("x values bias", [2, 1, 1])],
    ids=["x", "values", "bias", "all"],
)
@pytest.mark.usefixtures("sparse_layout")
def test_backward_asks_for_what_is_trained(op_calls, trained, wanted):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x, values, bias = torch.randn(4, 20), torch.randn(plan.support.nnz), torch.randn(12)
    for name, tensor in (("x", x), ("values", values), ("bias", bias)):
        tensor.requires_grad_(name in trained.split())
    with op_calls() as calls:
        ops.sparse_linear(x, values, bias, plan).sum().backward()
    assert calls["sparse_linear"] == calls["sparse_linear_backward"] == 1
    assert calls.arguments["sparse_linear_backward"][-1] == wanted


@pytest.mark.parametrize("batch_last", [False, True], ids=["row-major", "batch-last"])
def test_input_gradient_lies_as_the_input(batch_last):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x = torch.randn(8, 20)
    x = (ops.batch_last(x) if batch_last else x).requires_grad_()
    y = ops.sparse_linear(x, torch.randn(plan.support.nnz), None, plan)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.stride() == x.stride()


def test_two_dimensions_make_one_node_of_autograd():
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x = ops.batch_last(torch.randn(8, 20)).requires_grad_()
    y = ops.sparse_linear(x, torch.randn(plan.support.nnz), None, plan)
    assert [type(node).__name__ for node, _ in y.grad_fn.next_functions if node] == [
        "AccumulateGrad"
    ]


def test_saves_no_weight_for_a_frozen_input(saved_sizes):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x, values = torch.randn(64, 20), torch.randn(plan.support.nnz, requires_grad=True)
    assert saved_sizes(lambda: ops.sparse_linear(x, values, None, plan)) == [x.numel()]


def test_saves_no_input_for_a_frozen_weight(saved_sizes: Callable[..., list[int]]):
    plan = ops.LinearPlan(Support.random((12, 20), 0.3, seed=2))
    x = torch.randn(64, 20, requires_grad=True)
    values = torch.randn(plan.support.nnz)
    assert max(saved_sizes(lambda: ops.sparse_linear(x, values, None, plan))) == plan.support.nnz


def test_no_input_features_leave_the_bias():
    plan = ops.LinearPlan(Support.random((5, 0), 0.5, seed=1))
    x, values = torch.empty(3, 17, 0, requires_grad=True), torch.empty(0, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    y = ops.sparse_linear(x, values, bias, plan)
    y.sum().backward()
    assert torch.equal(y, bias.expand(3, 17, 5))
    assert torch.equal(bias.grad, torch.full((5,), 51.0))
    assert x.grad.shape == (3, 17, 0)


def test_operands_with_gaps():
    plan = ops.LinearPlan(Support.random((6, 8), 0.5, seed=1))
    x, nnz = torch.randn(3, 8), plan.support.nnz
    scores = torch.randn(2 * nnz).requires_grad_()
    magnitude, bias = torch.tensor([0.5]).expand(nnz), torch.randn(1).expand(6)
    y = ops.sign_linear(x, scores[::2], magnitude, bias, plan)
    y.sum().backward()
    packed = scores.detach()[::2].clone().requires_grad_()
    expected = ops.sign_linear(x, packed, 0.5, bias.contiguous(), plan)
    expected.sum().backward()
    assert torch.equal(y, expected)
    assert torch.equal(scores.grad[::2], packed.grad)
    assert not scores.grad[1::2].any()


def test_double_backward_is_refused():
    plan = ops.LinearPlan(Support.random((3, 4), 0.5, seed=1))
    values = torch.randn(plan.support.nnz, requires_grad=True)
    x = torch.randn(2, 4, requires_grad=True)
    y = ops.sparse_linear(x, values, None, plan)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad.sum().backward()


def test_same_result_every_time():
    plan = ops.LinearPlan(Support.random((300, 500), 0.2, seed=2))
    x, values = torch.randn(64, 500), torch.randn(plan.support.nnz, requires_grad=True)

    def run():
        y = ops.sparse_linear(x, values, None, plan)
        return y, torch.autograd.grad(y.square().sum(), values)[0]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.randn(3, 9)}, ValueError, r"x: expected \[\.\.\., 8\]"),
        ({"x": torch.zeros(3, 8).int()}, TypeError, "x: expected float32, float64, bfloat16"),
        ({"x": [1.0]}, TypeError, "x: expected a tensor"),
        ({"values": torch.randn(3)}, ValueError, r"values: expected shape \[16\]"),
        ({"values": torch.randn(16).double()}, TypeError, "values: expected the input's dtype"),
        ({"bias": torch.randn(5)}, ValueError, r"bias: expected shape \[4\]"),
        ({"values": [1.0]}, TypeError, "values: expected a tensor, got list"),
        ({"bias": 0.5}, TypeError, "bias: expected a tensor, got float"),
    ],
    ids=["width", "half", "list", "nnz", "dtype", "bias", "list-values", "number-bias"],
)
def test_bad_input_is_named(change, error, message):
    plan = ops.LinearPlan(Support.random((4, 8), 0.5, seed=1))
    arguments = {"x": torch.randn(3, 8), "values": torch.randn(16), "bias": torch.randn(4)} | change
    with pytest.raises(error, match=message):
        ops.sparse_linear(**arguments, plan=plan)


@pytest.mark.parametrize("magnitude", [-1.0, float("nan"), float("inf")])
def test_bad_magnitude_is_named(magnitude):
    plan = ops.LinearPlan(Support.random((4, 8), 0.5, seed=1))
    with pytest.raises(ValueError, match="magnitude: expected a finite number"):
        ops.sign_linear(torch.randn(3, 8), torch.randn(16), magnitude, None, plan)


def test_magnitude_is_not_differentiated_and_says_so():
    plan = ops.LinearPlan(Support.random((4, 8), 0.5, seed=1))
    magnitude = torch.ones(16, requires_grad=True)
    with pytest.raises(ValueError, match="expected a tensor without requires_grad"):
        ops.sign_linear(torch.randn(3, 8), torch.randn(16), magnitude, None, plan)
