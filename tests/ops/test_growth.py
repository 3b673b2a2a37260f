"""The largest gradients of pruned weights are those of the dense gradient, which is never made."""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sparsefl import Support, ops, reference
from sparsefl.measuring import forget_peak, resident_bytes
from sparsefl.ops import Call, growth

pytestmark = pytest.mark.isa

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
# Batch, in_features, out_features.
LINEAR = [(1, 1, 2), (7, 63, 65), (64, 129, 257), (3, 1100, 5), (33, 5, 1030), (0, 6, 4)]
# Batch, channels, sides, out channels, kernel, then stride, padding, dilation, groups.
CONV = {
    "plain": (5, 3, (6, 7), 4, (3, 3), (1, 1), (0, 0), (1, 1), 1),
    "padded": (16, 7, (5, 5), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strided": (3, 4, (9, 8), 5, (3, 2), (2, 3), (1, 0), (1, 1), 1),
    "dilated": (2, 3, (11, 13), 4, (3, 3), (1, 2), (2, 4), (2, 3), 1),
    "groups": (4, 6, (5, 6), 9, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    "depthwise": (4, 5, (5, 6), 5, (3, 3), (2, 1), (1, 1), (1, 1), 5),
    "pointwise": (9, 33, (3, 4), 17, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "wide_padding": (2, 2, (1, 2), 3, (3, 3), (1, 1), (4, 5), (1, 1), 1),
    "large_stride": (3, 2, (7, 7), 3, (2, 2), (5, 4), (0, 0), (1, 1), 1),
    "same": (3, 2, (5, 6), 3, (4, 2), (1, 1), "same", (1, 1), 1),
    "no_samples": (0, 2, (5, 6), 3, (2, 2), (1, 1), (0, 0), (1, 1), 1),
}


def integers(*shape, dtype=torch.float32):
    """Small ones: sums are exact in any order, and many magnitudes are equal."""
    return torch.randint(-2, 3, shape).to(dtype)


def counts_of(support):
    pruned = support.numel - support.nnz
    return sorted({0, min(1, pruned), pruned // 3, max(pruned - 1, 0), pruned})


def assert_equal(found, expected):
    assert torch.equal(found.indices, expected[0])
    assert torch.equal(found.values, expected[1])
    assert found.values.dtype == expected[1].dtype


def conv_problem(case, dtype=torch.float32, density=0.3):
    batch, channels, sides, out, kernel, stride, padding, dilation, groups = case
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    support = Support.random((out, channels // groups, *kernel), density, seed=2)
    plan = ops.Conv2dPlan(support, **geometry)
    x = integers(batch, channels, *sides, dtype=dtype)
    grad = integers(batch, out, *plan.output_size(*sides), dtype=dtype)
    return x, grad, plan, geometry


@pytest.mark.parametrize("small_tiles", [False, True], ids=["one_tile", "many_tiles"])
@DTYPES
@pytest.mark.parametrize("shape", LINEAR, ids=str)
def test_linear_growth_is_the_dense_gradients_top(shape, dtype, small_tiles, monkeypatch):
    if small_tiles:
        monkeypatch.setattr(growth, "_TILE", 64)
        monkeypatch.setattr(growth, "_TILE_ROWS", 5)
        monkeypatch.setattr(growth, "_LEAST_HELD", 3)
    batch, inner, out = shape
    x, grad = integers(batch, inner, dtype=dtype), integers(batch, out, dtype=dtype)
    for density in (0.0, 0.1, 0.9, 1.0):
        plan = ops.LinearPlan(Support.random((out, inner), density, seed=1))
        for count in counts_of(plan.support):
            found = ops.linear_growth([Call(x, grad)], plan, count)
            expected = reference.growth(x, grad, plan.support.to_mask(), count)
            assert_equal(found, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("memory", ["row_major", "batch_last", "sliced"])
@pytest.mark.parametrize("small_tiles", [False, True], ids=["one_tile", "many_tiles"])
@DTYPES
@pytest.mark.parametrize("case", CONV.values(), ids=CONV.keys())
def test_conv2d_growth_is_the_dense_gradients_top(case, dtype, small_tiles, memory, monkeypatch):
    if small_tiles:
        monkeypatch.setattr(growth, "_TILE", 40)
        monkeypatch.setattr(growth, "_WINDOWS", 100)
        monkeypatch.setattr(growth, "_LEAST_HELD", 3)
    x, grad, plan, geometry = conv_problem(case, dtype)
    lay = {
        "row_major": lambda t: t,
        "batch_last": ops.batch_last,
        "sliced": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    }[memory]
    for count in counts_of(plan.support):
        found = ops.conv2d_growth([Call(lay(x), lay(grad))], plan, count)
        assert_equal(found, reference.growth(x, grad, plan.support.to_mask(), count, **geometry))


def test_long_parts_are_cut_by_rows_and_samples(monkeypatch):
    case = (70, 3, (9, 9), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, grad, plan, geometry = conv_problem(case)
    expected = reference.growth(x, grad, plan.support.to_mask(), 20, **geometry)
    for windows in (27, 27 * 9 * 9, 27 * 9 * 70, 27 * 9 * 9 * 20):
        monkeypatch.setattr(growth, "_WINDOWS", windows)
        for lay in (ops.batch_last, ops.row_major):
            assert_equal(ops.conv2d_growth([Call(lay(x), lay(grad))], plan, 20), expected)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_gradients_of_several_uses_are_summed(kind):
    if kind == "linear":
        plan, geometry = ops.LinearPlan(Support.random((7, 9), 0.3, seed=1)), {}
        uses = [(integers(n, 9), integers(n, 7)) for n in (4, 5)]
        find = ops.linear_growth
    else:
        x, grad, plan, geometry = conv_problem(CONV["strided"])
        uses, find = [(x, grad), (integers(*x.shape), integers(*grad.shape))], ops.conv2d_growth
    found = find([Call(*use) for use in uses], plan, 12)
    x, grad = (torch.cat(parts) for parts in zip(*uses, strict=True))
    assert_equal(found, reference.growth(x, grad, plan.support.to_mask(), 12, **geometry))


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_real_numbers_agree_with_float64(kind):
    if kind == "linear":
        plan, geometry = ops.LinearPlan(Support.random((65, 129), 0.1, seed=1)), {}
        x, grad, find = torch.randn(63, 129), torch.randn(63, 65), ops.linear_growth
    else:
        x, grad, plan, geometry = conv_problem(CONV["padded"])
        x, grad, find = torch.randn_like(x), torch.randn_like(grad), ops.conv2d_growth
    mask, count = plan.support.to_mask(), 100
    found = find([Call(x, grad)], plan, count)
    rest = plan.support.numel - plan.support.nnz
    where, gradients = reference.growth(x.double(), grad.double(), mask, rest, **geometry)
    exact = dict(zip(where.tolist(), gradients.tolist(), strict=True))
    error = 1e-4
    for index, value in zip(found.indices.tolist(), found.values.tolist(), strict=True):
        assert value == pytest.approx(exact[index], abs=error)
    least = min(abs(v) for v in found.values.tolist())
    others = exact.keys() - set(found.indices.tolist())
    assert max(abs(exact[i]) for i in others) <= least + error


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_numbers_are_summed_in_float32(dtype):
    x, grad, plan, geometry = conv_problem(CONV["strided"])
    found = ops.conv2d_growth([Call(x.to(dtype), grad.to(dtype))], plan, 9)
    assert_equal(found, reference.growth(x, grad, plan.support.to_mask(), 9, **geometry))


def test_infinities_come_first_and_signs_are_kept():
    plan = ops.LinearPlan(Support.from_indices((1, 6), [2]))
    x = torch.tensor([[-0.0, -math.inf, 9.0, 3.0, math.inf, -4.0]])
    found = ops.linear_growth([Call(x, torch.ones(1, 1))], plan, 3)
    assert found.indices.tolist() == [1, 4, 5]
    assert found.values.tolist() == [-math.inf, math.inf, -4.0]


@DTYPES
@pytest.mark.parametrize("kept", [False, True], ids=["pruned", "kept"])
def test_nan_is_refused_wherever_it_is(kept, dtype):
    plan = ops.LinearPlan(Support.from_indices((1, 100), [50]))
    x = torch.ones(1, 100, dtype=dtype)
    x[0, 50 if kept else 77] = math.nan
    with pytest.raises(ValueError, match="not a number"):
        ops.linear_growth([Call(x, torch.ones(1, 1, dtype=dtype))], plan, 2)


def test_bad_operands_are_named():
    plan = ops.LinearPlan(Support.random((3, 4), 0.5, seed=1))
    x, grad = torch.ones(2, 4), torch.ones(2, 3)
    for calls, count, error, match in [
        ([], 1, ValueError, "calls: expected at least one"),
        ([Call(x, torch.ones(3, 3))], 1, ValueError, "grad: expected 2 samples, got 3"),
        ([Call(torch.ones(2, 5), grad)], 1, ValueError, r"x: expected \[N, 4\], got \[2, 5\]"),
        ([Call(x.int(), grad)], 1, TypeError, "x: expected float32"),
        ([Call(x, None)], 1, TypeError, "grad: expected a tensor, got NoneType"),
        ([Call(x, grad)], 7, ValueError, "count: expected 0 to 6, the pruned positions, got 7"),
        ([Call(x, grad)], True, TypeError, "count: expected an int, got bool"),
    ]:
        with pytest.raises(error, match=match):
            ops.linear_growth(calls, plan, count)
    x, grad, plan, _ = conv_problem(CONV["plain"])
    with pytest.raises(ValueError, match="grad: expected 4x5 pixels"):
        ops.conv2d_growth([Call(x, grad[..., 1:])], plan, 1)


SIZE, BATCH, COUNT = 4096, 16, 1 << 14
DENSE_BYTES = 4 * SIZE * SIZE


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_nothing_of_dense_size_is_allocated(kind):
    """Torch sees the tensors, the resident memory what libraries allocate themselves."""
    if kind == "linear":
        plan = ops.LinearPlan(Support.random((SIZE, SIZE), 0.01, seed=0))
        call, find = Call(torch.randn(BATCH, SIZE), torch.randn(BATCH, SIZE)), ops.linear_growth
    else:
        plan = ops.Conv2dPlan(Support.random((1024, 2048, 3, 3), 0.01, seed=0), padding=(1, 1))
        call, find = (
            Call(torch.randn(BATCH, 2048, 2, 2), torch.randn(BATCH, 1024, 2, 2)),
            ops.conv2d_growth,
        )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        find([call], plan, COUNT)
    events = found.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert 0 < max(sizes) < DENSE_BYTES // 16
    forget_peak()
    before = resident_bytes("VmRSS")
    find([call], plan, COUNT)
    assert resident_bytes("VmHWM") - before < DENSE_BYTES // 2


def test_opcheck():
    plan = ops.LinearPlan(Support.random((5, 8), 0.3, seed=2))
    found = growth._Candidates(plan.support, 4, torch.float32)
    tile = torch.randn(5, 8)
    arguments = (tile, found.kept, 0, 8, 4, found.held, found.state)
    torch.library.opcheck(torch.ops.sparsefl.growth_collect, arguments)
    found.collect(tile, 0)
    torch.library.opcheck(torch.ops.sparsefl.growth_take, (found.held, found.state, tile, 4))
