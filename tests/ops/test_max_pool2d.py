"""``max_pool2d`` against torch's: output and gradient are the same numbers."""

import pytest
import torch

from sparsefl import ops, reference
from sparsefl.ops.max_pool2d import max_pool2d

pytestmark = pytest.mark.isa

SHAPES = [(1, 2, 6, 6), (7, 3, 5, 7), (16, 4, 8, 8), (20, 1, 9, 6), (33, 5, 7, 11), (64, 2, 6, 5)]
# kernel, stride, padding, dilation, ceil_mode
WINDOWS = {
    "halves": ((2, 2), (2, 2)),
    "halves_ceil": ((2, 2), (2, 2), (0, 0), (1, 1), True),
    "overlapping": ((3, 3), (2, 2), (1, 1)),
    "overlapping_ceil": ((3, 3), (2, 2), (1, 1), (1, 1), True),
    "dense": ((3, 2), (1, 1), (1, 1)),
    "apart": ((2, 1), (3, 2)),
    "dilated": ((2, 2), (2, 2), (0, 0), (2, 1)),
    "padded": ((2, 4), (2, 4), (1, 2)),
    "uneven": ((1, 5), (2, 3), (0, 2)),
}
every_window = pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())


def pooled(x, *window):
    return max_pool2d(x, *window[:4], ceil_mode=window[4:] == (True,))


def trained(op, x, window):
    x = x.detach().requires_grad_()
    y = op(x, *window)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y.backward(grad.to(y.dtype))
    return y.detach(), x.grad


@every_window
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_is_torchs(shape, window, dtype):
    # Few values: equal ones meet in a window.
    x = torch.randint(-4, 4, shape).to(dtype)
    ours, torchs = trained(pooled, x, window), trained(reference.max_pool2d, x, window)
    assert torch.equal(ours[0], torchs[0])
    torch.testing.assert_close(ours[1], torchs[1])
    assert ours[0].permute(1, 2, 3, 0).is_contiguous()


@pytest.mark.parametrize("batch", [3, 16, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_window_between_the_pixels_has_none(batch, dtype):
    x, window = torch.ones(batch, 2, 4, 6, dtype=dtype), ((1, 2), (1, 1), (0, 1), (1, 7))
    ours, torchs = pooled(x, *window), reference.max_pool2d(x, *window)
    assert ours.isneginf().all()
    assert torch.equal(ours, torchs)


def test_threads_cover_every_channel():
    x, window = torch.randn(48, 7, 63, 31), WINDOWS["overlapping"]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours, torchs = trained(pooled, x, window), trained(reference.max_pool2d, x, window)
            assert torch.equal(ours[0], torchs[0])
            torch.testing.assert_close(ours[1], torchs[1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@every_window
def test_what_is_not_finite_is_chosen_as_torch_does(value, window):
    x = torch.randn(19, 2, 6, 8)
    x[torch.rand(x.shape) < 0.3] = value
    ours, torchs = trained(pooled, x, window), trained(reference.max_pool2d, x, window)
    assert torch.equal(ours[0].nan_to_num(7), torchs[0].nan_to_num(7))
    torch.testing.assert_close(ours[1], torchs[1])


def test_saves_a_byte_an_output():
    kept = []
    x = torch.randn(20, 3, 6, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = max_pool2d(x, (2, 2), (2, 2))
    assert [t.nbytes for t in kept] == [y.numel()]


@every_window
def test_gradcheck(window):
    # Apart from each other, so that no step changes the choice.
    x = torch.randperm(3 * 2 * 6 * 5).double().view(3, 2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooled(x, *window), x)


@every_window
def test_opcheck(window):
    x = ops.batch_last(torch.randn(17, 2, 6, 5))
    y = pooled(x, *window)
    flat = [n for pair in (*window[:2], *(window[2:4] or ((0, 0), (1, 1)))) for n in pair]
    flat += [1] * (8 - len(flat))
    arguments = (x, *y.shape[2:], flat)
    torch.library.opcheck(torch.ops.sparsefl.max_pool2d, arguments)
    _, taps = torch.ops.sparsefl.max_pool2d(*arguments)
    torch.library.opcheck(torch.ops.sparsefl.max_pool2d_backward, (y, taps, 6, 5, flat))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], (2, 2), (2, 2)), TypeError, "x: expected a tensor, got list"),
        ((torch.randn(2, 3, 4, 4).half(), (2, 2), (2, 2)), TypeError, "x: expected float32"),
        ((torch.randn(3, 4, 4), (2, 2), (2, 2)), ValueError, r"x: expected \[N, C, H, W\]"),
        ((torch.randn(2, 3, 4, 4), (0, 2), (2, 2)), ValueError, "kernel: expected positive"),
        ((torch.randn(2, 3, 4, 4), (2, 2), (2, 0)), ValueError, "stride: expected positive"),
        ((torch.randn(2, 3, 4, 4), (2, 2), (2, 2), (2, 0)), ValueError, "padding: expected 0 to"),
        ((torch.randn(2, 3, 4, 4), (17, 16), (2, 2)), ValueError, "kernel: expected at most 256"),
        ((torch.randn(2, 3, 4, 4), (5, 5), (1, 1)), ValueError, "x: no window"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        max_pool2d(*arguments)
