"""The growth step of a device other than the CPU in plain torch, on CPU tensors."""

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops import Call, _device_growth, _dispatch


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """Lets the CPU count as another device, where no kernel is used."""
    monkeypatch.setattr(_dispatch, "accelerated", lambda device: True)
    monkeypatch.setenv("SPARSEFL_GPU_KERNELS", "none")
    _dispatch.forget()
    yield
    monkeypatch.undo()
    _dispatch.forget()


def integers(*shape, dtype=torch.float32):
    return torch.randint(-2, 3, shape).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strip", [1, 200, 1 << 24])
@pytest.mark.parametrize(("out", "inner", "batch"), [(65, 63, 7), (1, 5, 1), (9, 4, 0)])
def test_equals_the_dense_gradient(out, inner, batch, strip, dtype, monkeypatch):
    monkeypatch.setattr(_device_growth, "_STRIP", strip)
    support = Support.random((out, inner), 0.3)
    plan, pruned = ops.LinearPlan(support), support.numel - support.nnz
    calls = [
        Call(integers(batch, inner, dtype=dtype), integers(out, batch, dtype=dtype).t())
        for _ in range(2)
    ]
    dense = sum(grad.double().t() @ x.double() for x, grad in calls)
    ranks = dense.abs().masked_fill(support.to_mask(), -1).flatten()
    for count in {0, 1, pruned // 3, pruned}:
        found = ops.linear_growth(calls, plan, count)
        best = ranks.sort(descending=True, stable=True).indices[:count].sort().values
        assert torch.equal(found.indices, best)
        assert torch.equal(found.values.double(), dense.flatten()[best])
        assert found.values.dtype == (dtype if dtype == torch.float64 else torch.float32)


def test_a_gradient_that_is_no_number_is_told():
    plan = ops.LinearPlan(Support.random((4, 6), 0.3))
    call = Call(torch.full((2, 6), float("inf")), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="gradient is not a number"):
        ops.linear_growth([call], plan, 2)


def test_operands_on_another_device_are_refused():
    plan = ops.LinearPlan(Support.random((4, 6), 0.3))
    call = Call(torch.zeros(2, 6), torch.zeros(2, 4, device="meta"))
    with pytest.raises(ValueError, match="grad: expected a tensor on the CPU, got meta"):
        ops.linear_growth([call], plan, 2)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("strip", [1, 60, 1 << 24])
@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"stride": (2, 1), "padding": (1, 0)}, 1),
        ({"padding": "same", "dilation": (1, 2)}, 2),
        ({"padding": (2, 1)}, 4),
    ],
    ids=["stride", "uneven padding", "groups"],
)
def test_convolutions_equal_the_dense_gradient(options, groups, strip, monkeypatch):
    monkeypatch.setattr(_device_growth, "_STRIP", strip)
    support = Support.random((8, 3, 2, 3), 0.3)
    plan = ops.Conv2dPlan(support, groups=groups, **options)
    dense, calls = torch.zeros(support.shape, dtype=torch.float64), []
    for batch in (3, 1):
        x = integers(batch, 3 * groups, 7, 6)
        weight = torch.zeros(support.shape, dtype=torch.float64, requires_grad=True)
        y = torch.nn.functional.conv2d(x.double(), weight, groups=groups, **options)
        grad = integers(*y.shape)
        y.backward(grad.double())
        dense += weight.grad
        calls.append(Call(x, grad))
    ranks = dense.abs().masked_fill(support.to_mask(), -1).flatten()
    pruned = support.numel - support.nnz
    for count in (0, 1, pruned // 3, pruned):
        with torch.no_grad():
            found = ops.conv2d_growth(calls, plan, count)
        best = ranks.sort(descending=True, stable=True).indices[:count].sort().values
        assert torch.equal(found.indices, best)
        assert torch.equal(found.values.double(), dense.flatten()[best])
