import pytest
import torch

from sparsefl import reference
from sparsefl.kernels.block_linear import block_linear, block_linear_dx
from sparsefl.kernels.block_plan import BlockPlan

pytestmark = pytest.mark.verifies("block_linear", "block_linear_dx")

CASES = {
    "tail": (37, (48, 80), (16, 16), 0.4),
    "beyond-the-edge": (65, (70, 33), (32, 16), 0.5),
    "one-row": (1, (32, 64), (16, 32), 1.0),
    "two-steps-a-block": (5, (64, 130), (64, 128), 0.6),
    "nothing": (3, (32, 32), (16, 16), 0.0),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layer(shape, block, density, dtype, device):
    """Returns mask, plan, dense weight and packed values, with NaN beyond the weight's edge."""
    rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    kept = torch.rand(rows, columns) < density
    kept[-1] = False  # a block row without a block
    whole = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    mask = whole[: shape[0], : shape[1]].contiguous()
    plan = BlockPlan.from_mask(mask, block, device)
    weight = (torch.randn(shape) * mask).to(dtype).to(device)
    values = plan.pack(weight)
    inside = plan.pack(torch.ones(shape, device=device)) > 0
    return plan, weight, values.masked_fill(~inside, float("nan"))


@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(("rows", "shape", "block", "density"), CASES.values(), ids=CASES)
def test_equals_dense(rows, shape, block, density, has_bias, device, assert_matches):
    plan, weight, values = layer(shape, block, density, torch.float32, device)
    x, dy = torch.randn(rows, shape[1]).to(device), torch.randn(rows, shape[0]).to(device)
    bias = torch.randn(shape[0]).to(device) if has_bias else None
    y = block_linear(x, values, plan, bias)
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    exact = reference.sparse_linear(
        x.double(), weight.double().flatten(), mask, None if bias is None else bias.double()
    )
    assert_matches(y, exact, reference.sparse_linear(x, weight.flatten(), mask, bias), "output")
    dx = block_linear_dx(dy, values, plan)
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight, "input gradient")


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_low_precision(dtype, device, assert_matches):
    plan, weight, values = layer((48, 40), (16, 32), 0.7, dtype, device)
    x = torch.randn(20, 40, dtype=dtype).to(device)
    dy = torch.randn(20, 48, dtype=dtype).to(device)
    y, dx = block_linear(x, values, plan), block_linear_dx(dy, values, plan)
    assert_matches(y, x.double() @ weight.double().t(), x @ weight.t())
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight)


def test_empty_rows_are_zeros_and_no_batch_is_empty(device):
    plan, _, values = layer((48, 40), (16, 32), 0.7, torch.float32, device)
    y = block_linear(torch.ones(3, 40, device=device), values, plan)
    assert torch.equal(y[:, 32:], torch.zeros(3, 16, device=device))
    assert block_linear(torch.ones(0, 40, device=device), values, plan).shape == (0, 48)


def test_strided_input(device, assert_matches):
    plan, weight, values = layer((32, 48), (16, 16), 0.6, torch.float32, device)
    for x in (torch.randn(48, 7).t().to(device), torch.randn(7, 64).to(device)[:, 9:57]):
        assert_matches(
            block_linear(x, values, plan), x.double() @ weight.double().t(), x @ weight.t()
        )


def test_bad_operands_are_named(device):
    plan = BlockPlan.full((32, 48), (16, 16), device)
    x, values = torch.zeros(5, 48, device=device), torch.zeros(6, 16, 16, device=device)
    with pytest.raises(ValueError, match=r"x must be \[M, 48\], got \[5, 32\]"):
        block_linear(x[:, :32], values, plan)
    with pytest.raises(ValueError, match=r"dy must be \[M, 32\], got \[5, 48\]"):
        block_linear_dx(x, values, plan)
    with pytest.raises(ValueError, match=r"values must be \[6, 16, 16\], got \[5, 16, 16\]"):
        block_linear(x, values[:5], plan)
    with pytest.raises(TypeError, match=r"values must be torch.float32, got torch.float16"):
        block_linear(x, values.half(), plan)
    with pytest.raises(ValueError, match=r"bias must be \[32\], got \[48\]"):
        block_linear(x, values, plan, torch.zeros(48, device=device))
