import pytest
import torch

from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.kernels.masked_linear import masked_linear, masked_linear_dx

pytestmark = pytest.mark.verifies("masked_linear", "masked_linear_dx")

CASES = {
    "several-tiles": (37, (70, 130), 0.3),
    "many-rows": (70, (5, 31), 0.5),
    "one-row": (1, (1, 64), 0.9),
    "full": (9, (65, 33), 1.0),
    "nothing": (3, (32, 32), 0.0),
    "no-rows": (0, (7, 5), 0.5),
    "no-outputs": (3, (0, 5), 0.5),
    "no-inputs": (3, (5, 0), 0.5),
}


def operands(rows, shape, density, dtype, device):
    mask = torch.rand(shape) < density
    weight = (torch.randn(shape) * mask).to(dtype)
    x, dy = (torch.randn(rows, n).to(dtype).to(device) for n in shape[::-1])
    values = weight[mask].to(device)
    return weight.to(device), values, MaskPlan.from_mask(mask, device), x, dy


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("rows", "shape", "density"), CASES.values(), ids=CASES)
def test_equals_the_dense_products(rows, shape, density, splits, device, assert_matches):
    weight, values, plan, x, dy = operands(rows, shape, density, torch.float32, device)
    bias = torch.randn(shape[0]).to(device)
    y = masked_linear(x, values, plan, bias, splits=splits)
    assert_matches(y, x.double() @ weight.double().t() + bias.double(), x @ weight.t() + bias)
    dx = masked_linear_dx(dy, values, plan, splits=splits)
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, device, assert_matches):
    weight, values, plan, x, dy = operands(20, (30, 70), 0.4, dtype, device)
    y = masked_linear(x, values, plan)
    assert_matches(y, x.double() @ weight.double().t(), x @ weight.t())
    dx = masked_linear_dx(dy, values, plan, splits=2)
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight)


def test_rows_that_lie_apart(device):
    _, values, plan, x, _ = operands(5, (33, 40), 0.4, torch.float32, device)
    apart = torch.full((5, 90), float("nan"), device=device)
    apart[:, 11:51] = x
    assert torch.equal(masked_linear(apart[:, 11:51], values, plan), masked_linear(x, values, plan))


def test_bad_operands_are_named(device):
    _, values, plan, x, dy = operands(4, (8, 40), 0.5, torch.float32, device)
    with pytest.raises(ValueError, match=r"x must be \[M, 40\], got \[4, 39\]"):
        masked_linear(x[:, :39], values, plan)
    with pytest.raises(ValueError, match=rf"values must be \[{plan.nnz}\]"):
        masked_linear_dx(dy, values[1:], plan)
    with pytest.raises(TypeError, match=r"values must be torch.float32, got torch.float16"):
        masked_linear(x, values.half(), plan)
    with pytest.raises(ValueError, match=r"bias must be \[8\], got \[9\]"):
        masked_linear(x, values, plan, torch.ones(9, device=device))
