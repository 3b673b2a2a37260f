"""``relu`` against torch's: output and gradient are the same bits."""

import pytest
import torch

from sparsefl import ops

pytestmark = pytest.mark.isa

KERNELS = torch.ops.sparsefl
# Around the elements whose bits lie together, and more than one thread's.
SHAPES = [(0,), (), (1,), (7, 9), (511,), (512,), (513,), (3, 0, 5), (5, 33, 29, 31)]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def trained(op, x, grad):
    x = x.detach().requires_grad_()
    y = op(x)
    y.backward(grad)
    return y.detach(), x.grad


def assert_same(x, grad):
    ours, torchs = trained(ops.relu, x, grad), trained(torch.relu, x, grad)
    for result, expected in zip(ours, torchs, strict=True):
        assert torch.equal(result.nan_to_num(7), expected.nan_to_num(7))
        assert result.stride() == expected.stride()


@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_torchs(shape, dtype):
    x = torch.randint(-3, 4, shape).to(dtype)
    assert_same(x, torch.randn(shape, dtype=dtype))


@dtypes
def test_what_is_not_finite_passes_as_torch_does(dtype):
    x = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45] * 99, dtype=dtype
    )
    assert_same(x, torch.randn(x.shape, dtype=dtype))


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch_last": ops.batch_last,
    "transposed": lambda x: x.transpose(1, 3),
    "sliced": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
}


@pytest.mark.parametrize("arrange", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_strides(arrange):
    x = arrange(torch.randn(6, 5, 7, 11))
    ours, torchs = (trained(op, x, torch.ones(x.shape)) for op in (ops.relu, torch.relu))
    assert torch.equal(ours[0], torchs[0])
    assert torch.equal(ours[1], torchs[1])
    grad = arrange(torch.randn(6, 5, 7, 11))
    assert torch.equal(trained(ops.relu, x, grad)[1], trained(torch.relu, x, grad)[1])


def test_dense_strides_stay():
    for name in ("channels_last", "batch_last", "transposed"):
        x = LAYOUTS[name](torch.randn(6, 5, 7, 11))
        assert ops.relu(x).stride() == x.stride()


def test_threads_cover_every_element():
    x, grad = torch.randn(2, 300_001)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_same(x, grad)
    finally:
        torch.set_num_threads(before)


def test_saves_a_bit_an_element():
    kept = []
    x = torch.randn(40, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.relu(x)
    assert [8 * t.nbytes for t in kept] == [x.numel()]


def test_output_may_be_changed_in_place():
    x = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    ops.relu(x).mul_(2).sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_gradcheck():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.relu, x)


@dtypes
def test_opcheck(dtype):
    x = torch.randn(9, 5, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    torch.library.opcheck(KERNELS.relu, (x,))
    torch.library.opcheck(KERNELS.relu_backward, (x, KERNELS.relu(x)[1]))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_whole():
    x = torch.randn(4, 600, requires_grad=True)
    compiled = torch.compile(ops.relu, fullgraph=True, backend="aot_eager")
    assert torch.equal(*(trained(op, x, torch.ones(x.shape))[1] for op in (compiled, torch.relu)))


def test_a_second_derivative_is_refused():
    x = torch.randn(4, requires_grad=True)
    (gradient,) = torch.autograd.grad(ops.relu(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives"):
        gradient.sum().backward()


def test_refuses_other_input():
    with pytest.raises(TypeError, match="x: expected a tensor, got list"):
        ops.relu([1.0])
    with pytest.raises(TypeError, match=r"x: expected float32 or float64, got torch\.int64"):
        ops.relu(torch.arange(3))
    with pytest.raises(RuntimeError, match="gaps or overlaps"):
        KERNELS.relu(torch.randn(4, 4)[:, ::2])
    with pytest.raises(RuntimeError, match="bad bits"):
        KERNELS.relu_backward(torch.randn(513), torch.zeros(64, dtype=torch.uint8))
