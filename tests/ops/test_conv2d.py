"""``sparse_conv2d`` and ``sign_conv2d`` against dense torch in float64, and what they skip."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from sparsefl import Support, ops

pytestmark = [
    pytest.mark.isa,
    # Torch pads "same" with an even kernel by a copy of its own and says so.
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
]

KINDS = ("values", "sign_constant", "sign_tensor")
LAYOUTS = ["row-major", "batch-last"]


class Case(NamedTuple):
    """Shapes of one convolution."""

    batch: int
    inner: int
    out: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


CASES = {
    "3x3": Case(16, 16, 32, (8, 8), (3, 3), padding=(1, 1)),
    "odd-batch": Case(2, 3, 8, (9, 9), (3, 3), padding=(1, 1)),
    "batch-33": Case(33, 5, 6, (6, 7), (3, 3)),
    "stride-2": Case(20, 8, 4, (11, 11), (3, 3), stride=(2, 2), padding=(1, 1)),
    "stride-3": Case(6, 4, 4, (10, 13), (3, 3), stride=(3, 3)),
    "stride-over-kernel": Case(5, 3, 4, (11, 9), (2, 2), stride=(4, 3)),
    "uneven": Case(5, 3, 4, (12, 7), (5, 2), (2, 1), (1, 2), (1, 3)),
    "1x1": Case(5, 4, 6, (7, 7), (1, 1)),
    "1x1-stride-2": Case(33, 6, 6, (6, 6), (1, 1), stride=(2, 2)),
    "1x1-padded": Case(7, 4, 3, (5, 6), (1, 1), padding=(1, 2)),
    "5x5": Case(7, 2, 3, (12, 12), (5, 5), padding=(2, 2)),
    "7x7": Case(3, 3, 2, (15, 9), (7, 7), (2, 2), (3, 3)),
    "dilated": Case(4, 3, 5, (13, 13), (3, 3), padding=(2, 2), dilation=(2, 2)),
    "far-dilated": Case(3, 20, 5, (29, 31), (3, 3), dilation=(9, 11)),
    "groups": Case(10, 8, 12, (9, 9), (3, 3), padding=(1, 1), groups=4),
    "groups-stride": Case(10, 6, 4, (9, 8), (3, 3), (2, 2), (1, 1), groups=2),
    "depthwise": Case(17, 6, 6, (7, 7), (3, 3), padding=(1, 1), groups=6),
    "same": Case(4, 3, 5, (8, 9), (4, 3), padding="same", dilation=(1, 2)),
    "many-channels": Case(3, 70, 9, (5, 5), (3, 3), padding=(1, 1)),
    "one-pixel": Case(4, 5, 6, (1, 1), (3, 3), padding=(1, 1)),
    "few-samples-wide": Case(20, 3, 9, (9, 19), (3, 3), padding=(1, 1)),
    "one-sample-wide": Case(1, 4, 6, (17, 40), (3, 3), (1, 2), (1, 1)),
    "empty-batch": Case(0, 3, 4, (5, 5), (3, 3)),
    "1x1-empty-batch": Case(0, 3, 4, (5, 5), (1, 1)),
}


def problem_of(make_problem, case: Case, density, kind="values", dtype=torch.float32):
    geometry = {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "groups": case.groups,
    }
    x_shape = (case.batch, case.inner, *case.size)
    weight_shape = (case.out, case.inner // case.groups, *case.kernel)
    y_shape = F.conv2d(torch.zeros(x_shape), torch.zeros(weight_shape), None, **geometry).shape
    return make_problem(x_shape, weight_shape, y_shape, density, kind, dtype, **geometry)


@pytest.mark.parametrize("density", [0.0, "one", 0.01, 0.1, 0.5, 1.0], ids="density={}".format)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.usefixtures("sparse_layout")
def test_matches_dense_torch(make_problem, assert_op_matches, case, density):
    assert_op_matches(problem_of(make_problem, case, density))


@pytest.mark.parametrize("kind", ["sign_constant", "sign_tensor"])
@pytest.mark.parametrize("name", ["3x3", "stride-2", "1x1", "uneven", "groups"])
@pytest.mark.usefixtures("sparse_layout")
def test_signs_match(make_problem, assert_op_matches, name, kind):
    assert_op_matches(problem_of(make_problem, CASES[name], 0.3, kind))


@pytest.mark.usefixtures("sparse_layout")
def test_long_sums_round_no_more_than_dense_ones(make_problem, assert_op_matches):
    case = Case(16, 256, 256, (8, 8), (3, 3), padding=(1, 1))
    assert_op_matches(problem_of(make_problem, case, 0.5))


@pytest.mark.parametrize("name", ["3x3", "stride-2", "uneven", "groups-stride"])
@pytest.mark.usefixtures("sparse_layout")
def test_float64_matches(make_problem, assert_op_matches, name):
    assert_op_matches(problem_of(make_problem, CASES[name], 0.3, dtype=torch.float64))


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["values", "sign_tensor"])
@pytest.mark.parametrize("name", ["3x3", "1x1", "stride-2", "same"])
def test_short_formats_match(
    make_problem, assert_op_matches, set_layout, name, kind, dtype, layout
):
    set_layout(layout)
    problem = problem_of(make_problem, CASES[name], 0.3, kind, dtype)
    assert_op_matches(problem)
    assert {result.dtype for result in problem.sparse().values()} == {dtype}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", [0.1, 0.9, 1.0], ids="density={}".format)
@pytest.mark.parametrize("name", ["stride-2", "same", "many-channels", "1x1"])
@pytest.mark.usefixtures("dense_layout")
def test_dense_layout_matches(make_problem, assert_op_matches, kind, name, density):
    assert_op_matches(problem_of(make_problem, CASES[name], density, kind))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("case", "density"),
    [
        (Case(35, 24, 20, (14, 13), (3, 3), padding=(1, 1)), 0.2),
        (Case(32, 96, 96, (4, 4), (3, 3), padding=(1, 1)), 0.8),
    ],
    ids=["many-items", "two-items-of-many-weights"],
)
@pytest.mark.usefixtures("sparse_layout")
def test_parallel_parts_cover_all_items(make_problem, assert_op_matches, case, density, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_op_matches(problem_of(make_problem, case, density, "sign_tensor"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        ops.batch_last,
        lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    ],
    ids=["channels-last", "batch-last", "sliced"],
)
def test_strides_of_the_input(make_problem, assert_op_matches, layout):
    problem = problem_of(make_problem, CASES["3x3"], 0.3)
    problem.x, problem.grad = layout(problem.x), layout(problem.grad)
    assert_op_matches(problem)


def test_operands_with_gaps():
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, nnz = torch.randn(4, 4, 6, 6), plan.support.nnz
    values, bias = torch.randn(2 * nnz)[::2], torch.randn(1).expand(6)
    expected = ops.sparse_conv2d(x, values.contiguous(), bias.contiguous(), plan)
    assert torch.equal(ops.sparse_conv2d(x, values, bias, plan), expected)


def test_output_is_batch_last():
    plan = ops.Conv2dPlan(Support.random((8, 4, 3, 3), 0.3, seed=1), padding=(1, 1))
    x = torch.randn(32, 4, 6, 6, requires_grad=True)
    y = ops.sparse_conv2d(x, torch.randn(plan.support.nnz), None, plan)
    assert y.stride() == (1, 32 * 36, 32 * 6, 32)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)], ids=str)
@pytest.mark.usefixtures("sparse_layout")
def test_gradcheck(stride):
    plan = ops.Conv2dPlan(Support.random((3, 2, 3, 3), 0.5, seed=1), stride, (1, 1))
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    values = torch.randn(plan.support.nnz, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    call = lambda x, v, b: ops.sparse_conv2d(x, v, b, plan)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, values, bias))


@pytest.mark.parametrize("wanted", [[1, 1, 1], [2, 1, 0], [0, 0, 1], [1, 0, 0]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, wanted):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2), (2, 2), (1, 1))
    x, stored, bias = torch.randn(5, 4, 7, 8), torch.randn(plan.support.nnz), torch.randn(6)
    grad, geometry = torch.randn(5, 6, *plan.output_size(7, 8)), plan.geometry(7, 8)
    if kind == "values":
        name, sign = "sparse_conv2d", ()
    else:
        name, sign = "sign_conv2d", (stored.abs() if kind == "sign_tensor" else None, 0.5)
    forward = getattr(torch.ops.sparsefl, name)
    backward = getattr(torch.ops.sparsefl, name + "_backward")
    views = (*plan.forward, *plan.transposed)
    operand = x if wanted[1] else None
    torch.library.opcheck(forward, (x, stored, *sign, bias, *plan.forward, geometry))
    torch.library.opcheck(backward, (grad, operand, stored, *sign, *views, geometry, wanted))


@pytest.mark.parametrize("wanted", [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]], ids=str)
def test_backward_skips_what_is_not_wanted(wanted):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, values, grad = (
        torch.randn(5, 4, 7, 8),
        torch.randn(plan.support.nnz),
        torch.randn(5, 6, 5, 6),
    )
    arguments = (*plan.forward, *plan.transposed, plan.geometry(7, 8), wanted)
    gradients = torch.ops.sparsefl.sparse_conv2d_backward(grad, x, values, *arguments)
    assert [g.numel() > 0 for g in gradients] == [w > 0 for w in wanted]


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [("x", [2, 0, 0]), ("values", [0, 1, 0]), ("bias", [0, 0, 1]), ("x values bias", [2, 1, 1])],
    ids=["x", "values", "bias", "all"],
)
@pytest.mark.usefixtures("sparse_layout")
def test_backward_asks_for_what_is_trained(op_calls, trained, wanted):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, values, bias = torch.randn(4, 4, 6, 6), torch.randn(plan.support.nnz), torch.randn(6)
    for name, tensor in (("x", x), ("values", values), ("bias", bias)):
        tensor.requires_grad_(name in trained.split())
    with op_calls() as calls:
        ops.sparse_conv2d(x, values, bias, plan).sum().backward()
    assert calls["sparse_conv2d"] == calls["sparse_conv2d_backward"] == 1
    assert calls.arguments["sparse_conv2d_backward"][-1] == wanted


@pytest.mark.parametrize("batch_last", [False, True], ids=["row-major", "batch-last"])
def test_input_gradient_lies_as_the_input(batch_last):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x = torch.randn(8, 4, 6, 6)
    x = (ops.batch_last(x) if batch_last else x).requires_grad_()
    y = ops.sparse_conv2d(x, torch.randn(plan.support.nnz), None, plan)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.stride() == x.stride()


@pytest.mark.parametrize("grad_layout", [torch.Tensor.contiguous, ops.batch_last], ids=LAYOUTS)
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, ops.batch_last], ids=LAYOUTS)
@pytest.mark.parametrize("batch", [64, 83])
def test_chunks_of_samples_cover_the_batch(
    make_problem, assert_op_matches, batch, layout, grad_layout
):
    # 40 x 40 pixels of 24 channels are 154 KB a sample: 64 of them are several chunks.
    case = Case(batch, 24, 6, (40, 40), (3, 3), (2, 2), (1, 1))
    problem = problem_of(make_problem, case, 0.1, "sign_tensor")
    problem.x, problem.grad = layout(problem.x), grad_layout(problem.grad)
    assert_op_matches(problem)


def test_saves_no_weight_for_a_frozen_input(saved_sizes):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, values = torch.randn(4, 4, 16, 16), torch.randn(plan.support.nnz, requires_grad=True)
    assert saved_sizes(lambda: ops.sparse_conv2d(x, values, None, plan)) == [x.numel()]


def test_saves_no_input_for_a_frozen_weight(saved_sizes):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x = torch.randn(4, 4, 16, 16, requires_grad=True)
    values = torch.randn(plan.support.nnz)
    assert max(saved_sizes(lambda: ops.sparse_conv2d(x, values, None, plan))) == plan.support.nnz


@pytest.mark.parametrize(
    ("shape", "geometry", "message"),
    [
        ((4, 3), {}, "expected \\[out_channels"),
        ((4, 3, 3, 3), {"groups": 3}, "groups=3 does not divide out_channels=4"),
        ((4, 3, 3, 3), {"stride": (0, 1)}, "stride=\\(0, 1\\)"),
        ((4, 3, 3, 3), {"padding": (-1, 0)}, "padding=\\(-1, 0\\)"),
        ((4, 3, 3, 3), {"padding": "full"}, "padding='full'"),
        ((4, 3, 3, 3), {"padding": "same", "stride": (2, 2)}, "needs stride 1"),
        ((4, 3, 0, 3), {}, "kernel is 0x3: expected 1 to 65536 taps"),
        # Its columns would not fit the 16 bits of an index.
        ((1, 1, 257, 257), {}, "kernel is 257x257: expected 1 to 65536 taps"),
        ((4, 3, 3, 3), {"dilation": (9999, 999)}, "spreads the kernel over 19999x1999 pixels"),
    ],
    ids=[
        *("dimensions", "groups", "stride", "padding", "padding-name", "same-stride"),
        *("empty-kernel", "large-kernel", "far-dilated"),
    ],
)
def test_bad_geometry_is_named(shape, geometry, message):
    with pytest.raises(ValueError, match=message):
        ops.Conv2dPlan(Support.random(shape, 0.5, seed=1), **geometry)


def test_extent_of_another_type_is_named():
    with pytest.raises(TypeError, match="stride: expected a tuple, got int"):
        ops.Conv2dPlan(Support.random((4, 3, 3, 3), 0.5, seed=1), stride=2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 8, 8), r"x: expected \[N, 4, H, W\]"),
        ((4, 8, 8), r"x: expected \[N, 4, H, W\]"),
        ((2, 4, 2, 8), "smaller than the kernel"),
    ],
    ids=["channels", "unbatched", "too-small"],
)
def test_bad_input_is_named(shape, message):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    with pytest.raises(ValueError, match=message):
        ops.sparse_conv2d(torch.randn(shape), torch.randn(plan.support.nnz), None, plan)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda values, bias: (values[:-1], bias), ValueError, "values: expected shape"),
        (lambda values, bias: (values.double(), bias), TypeError, "values: expected the input's"),
        (lambda values, bias: (values, bias[:-1]), ValueError, "bias: expected shape"),
        (lambda values, bias: (values, bias.double()), TypeError, "bias: expected the input's"),
        (lambda values, bias: (values, 1.0), TypeError, "bias: expected a tensor"),
    ],
    ids=["values-shape", "values-dtype", "bias-shape", "bias-dtype", "bias-type"],
)
def test_operands_are_checked_where_the_size_is_known(change, error, message):
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, values, bias = torch.randn(2, 4, 8, 8), torch.randn(plan.support.nnz), torch.randn(6)
    ops.sparse_conv2d(x, values, bias, plan)
    with pytest.raises(error, match=message):
        ops.sparse_conv2d(x, *change(values, bias), plan)


def test_strided_weights_of_a_known_size_are_read_in_order():
    plan = ops.Conv2dPlan(Support.random((6, 4, 3, 3), 0.3, seed=2))
    x, values, bias = torch.randn(2, 4, 8, 8), torch.randn(plan.support.nnz), torch.randn(6)
    y = ops.sparse_conv2d(x, values, bias, plan)
    strided = torch.stack([values, -values], 1)[:, 0]
    assert torch.equal(ops.sparse_conv2d(x, strided, bias, plan), y)


def test_what_a_plan_keeps_of_inputs_is_bounded():
    plan = ops.Conv2dPlan(Support.random((3, 2, 3, 3), 0.5, seed=2))
    values = torch.randn(plan.support.nnz)
    sizes = [(height, width) for height in range(3, 23) for width in range(3, 23)]
    for height, width in sizes:
        y = ops.sparse_conv2d(torch.randn(1, 2, height, width), values, None, plan)
        assert y.shape == (1, 3, height - 2, width - 2)
    assert 0 < len(plan.calls) < len(sizes)
