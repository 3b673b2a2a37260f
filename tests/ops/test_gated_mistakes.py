"""``gated_conv2d`` refuses what it cannot take, and says which argument it was."""

import pytest
import torch

from sparsefl import ops

GEOMETRY = ops.GatedGeometry((3, 3), padding=(1, 1))


def tensors_of(out: int, inner: int) -> ops.GatedTensors:
    return ops.GatedTensors(
        torch.randn(out, inner, 3, 3),
        torch.randn(out),
        torch.randn(out, inner),
        torch.randn(out),
        torch.ones(out),
        torch.randn(out),
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 4, 8, 8)}, ValueError, r"x: expected \[N, 13, H, W\]"),
        ({"x": torch.zeros(2, 13, 8)}, ValueError, r"x: expected \[N, 13, H, W\]"),
        ({"x": torch.zeros(2, 13, 8, 8).long()}, TypeError, "x: expected float32 or float64"),
        ({"x": torch.zeros(1, 13, 1, 1)}, ValueError, "more than one value a channel"),
        ({"gate_bias": torch.zeros(5)}, ValueError, r"gate_bias: expected shape \[22\]"),
        ({"norm_weight": torch.zeros(22).double()}, TypeError, "norm_weight: expected the input's"),
        ({"handed": torch.zeros(2, 13)}, ValueError, r"handed: expected bool \[2, 13\]"),
    ],
    ids=["channels", "dimensions", "dtype", "one-value", "shape", "tensor-dtype", "handed"],
)
def test_bad_input_is_named(change, error, message):
    tensors = tensors_of(out=22, inner=13)
    tensors = tensors._replace(**{k: v for k, v in change.items() if k in tensors._fields})
    x = change.get("x", torch.zeros(2, 13, 8, 8))
    options = ops.GatedOptions(11, False, False, True, 1e-5)
    with pytest.raises(error, match=message):
        ops.gated_conv2d(x, tensors, GEOMETRY, options, None, change.get("handed"))


@pytest.mark.parametrize("kept", [-1, 0, 23])
def test_only_channels_that_there_are_can_be_kept(kept):
    options = ops.GatedOptions(kept, False, False, True, 1e-5)
    with pytest.raises(ValueError, match=f"kept must be from 1 to the 22 .*, got {kept}"):
        ops.gated_conv2d(torch.zeros(2, 13, 8, 8), tensors_of(22, 13), GEOMETRY, options)


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("kernel_size", (0, 3)),
        ("stride", (1, 0)),
        ("stride", (2,)),
        ("padding", (-1, 0)),
        ("dilation", (1, 1.5)),
    ],
)
def test_extents_that_are_none_are_named(name, pair):
    with pytest.raises(ValueError, match=f"{name} must be two whole numbers from . on, got"):
        ops.GatedGeometry(**{"kernel_size": (3, 3), name: pair})


def test_too_small_an_input_is_named():
    geometry = ops.GatedGeometry((3, 3), (1, 1), (0, 0))
    options = ops.GatedOptions(2, False, False, True, 1e-5)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        ops.gated_conv2d(torch.zeros(2, 3, 2, 2), tensors_of(4, 3), geometry, options)


@pytest.mark.parametrize(
    ("moved", "error", "message"),
    [
        ((torch.zeros(3), torch.ones(1)), ValueError, "running variance: expected shape"),
        ((torch.zeros(3), torch.ones(3).half()), TypeError, "running variance"),
        ((torch.zeros(3).half(), torch.ones(3).half()), TypeError, "float32 or float64"),
        ((torch.zeros(3), torch.ones(6)[::2]), ValueError, "running variance: .*contiguous"),
        ((torch.zeros(4), torch.ones(4)), ValueError, "mean: expected shape"),
    ],
    ids=["shape", "dtype", "both-dtypes", "strides", "channels"],
)
def test_running_statistics_that_do_not_fit_are_left_alone(moved, error, message):
    statistics = ops.Statistics(torch.ones(3), torch.ones(3), torch.full((3,), 2))
    before = [tensor.clone() for tensor in moved]
    with pytest.raises(error, match=message):
        ops.update_running(moved, statistics, 4, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(moved, before, strict=True))


def test_running_statistics_of_another_size_are_refused():
    options = ops.GatedOptions(4, False, False, False, 1e-5)
    running = (torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match="running mean: expected shape"):
        ops.gated_conv2d(torch.randn(2, 4, 6, 6), tensors_of(8, 4), GEOMETRY, options, running)
