"""``batch_last``: the same values, the batch innermost, differentiable."""

import pytest
import torch

from sparsefl import ops, reference

pytestmark = pytest.mark.isa

SHAPES = [(1, 1), (7, 5), (16, 33), (65, 130), (64, 3, 5, 2), (33, 4), (5,), (300, 700)]
LARGE = [(300, 700), (35, 61, 9, 8)]  # row_major turns them itself
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_values_batch_innermost(shape, dtype):
    x = torch.randint(-99, 99, shape).to(dtype)
    y = ops.batch_last(x)
    assert torch.equal(x, y)
    assert y.stride(0) == 1
    assert y.stride() == reference.batch_last(x).stride()


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, ::2],
        lambda x: x[:1].expand(x.shape),
    ],
    ids=["channels-last", "transposed", "sliced", "expanded"],
)
def test_any_strides(layout):
    x = layout(torch.randn(20, 3, 6, 5))
    y = ops.batch_last(x)
    assert torch.equal(x, y)
    assert y.stride(0) == 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_empty(shape):
    assert ops.batch_last(torch.empty(shape)).shape == shape


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_operator_takes_empty_tensors(shape):
    assert torch.ops.sparsefl.transpose(torch.empty(shape)).shape == shape[::-1]


def test_batch_last_tensor_is_returned_without_a_copy():
    x = ops.batch_last(torch.randn(20, 3, 6, 5))
    assert ops.batch_last(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE[1]], ids=str)
def test_row_major_undoes_it(shape, dtype):
    x = torch.randint(-99, 99, shape).to(dtype)
    y = ops.row_major(ops.batch_last(x))
    assert torch.equal(x, y)
    assert y.stride() == x.stride()


def test_row_major_tensor_is_returned_as_it_is():
    x = torch.randn(20, 3, 6, 5)
    assert ops.row_major(x) is x


def test_row_major_of_other_strides():
    x = torch.randn(40, 61, 9, 12)
    for y in (x.transpose(2, 3), x[:, :, ::2], x[:1].expand(x.shape), ops.batch_last(x)[3:]):
        assert torch.equal(ops.row_major(y), y)
        assert ops.row_major(y).is_contiguous()


def test_gradient_is_the_identity():
    x = torch.randn(20, 3, 6, 5, requires_grad=True)
    weight = torch.randn(20, 3, 6, 5)
    (ops.batch_last(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("shape", [(20, 7), *LARGE], ids=str)
def test_results_may_be_changed_in_place(shape, dtype):
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    moved = ops.batch_last(x.detach()).requires_grad_()
    ops.row_major(moved).relu_().sum().backward()
    assert torch.equal(moved.grad, (x > 0).to(dtype))


def test_gradcheck():
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.batch_last, x)


def test_gradient_of_row_major_is_the_identity():
    x, weight = torch.randn(LARGE[1]), torch.randn(LARGE[1])
    x = ops.batch_last(x).requires_grad_()
    (ops.row_major(x) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_opcheck():
    torch.library.opcheck(torch.ops.sparsefl.transpose, (torch.randn(5, 9),))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one dimension"):
        ops.batch_last(torch.tensor(1.0))
    with pytest.raises(TypeError, match="expected a tensor, got list"):
        ops.batch_last([1.0])
    with pytest.raises(ValueError, match="at least one dimension"):
        ops.row_major(torch.tensor(1.0))
