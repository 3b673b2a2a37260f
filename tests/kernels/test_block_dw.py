import pytest
import torch

from sparsefl.kernels.block_dw import block_dw
from sparsefl.kernels.block_plan import BlockPlan

pytestmark = pytest.mark.verifies("block_dw")

CASES = {
    "tail": (100, (48, 80), (16, 16), 0.4),
    "beyond-the-edge": (65, (70, 33), (32, 16), 0.5),
    "one-row": (1, (32, 64), (16, 32), 1.0),
    "wide-block": (70, (128, 20), (128, 64), 1.0),
}
GATES = ["none", "rows", "elements"]


def make_plan(shape, block, density, device):
    rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    kept = torch.rand(rows, columns) < density
    kept[0, -1] = True
    whole = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return BlockPlan.from_mask(whole[: shape[0], : shape[1]].contiguous(), block, device)


def operands(rows, shape, dtype, device):
    dy = torch.randn(rows, shape[0], dtype=dtype)
    x = torch.randn(rows, shape[1], dtype=dtype)
    return dy.to(device), x.to(device)


@pytest.mark.parametrize(("rows", "shape", "block", "density"), CASES.values(), ids=CASES)
def test_equals_the_dense_gradient(rows, shape, block, density, device, assert_matches):
    plan = make_plan(shape, block, density, device)
    dy, x = operands(rows, shape, torch.float32, device)
    out = block_dw(dy, x, plan)
    dense = plan.pack(dy.double().t() @ x.double())
    assert_matches(out, dense, plan.pack(dy.t() @ x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_parts_of_the_batch_are_added_up(dtype, splits, device, assert_matches):
    plan = make_plan((40, 48), (32, 16), 0.6, device)
    dy, x = operands(150, (40, 48), dtype, device)
    out = block_dw(dy, x, plan, splits=splits)
    assert_matches(out, plan.pack(dy.double().t() @ x.double()), plan.pack(dy.t() @ x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("splits", [1, 2])
def test_gate_and_scale_multiply_in_the_epilogue(gate, splits, device, assert_matches):
    plan = make_plan((70, 48), (32, 16), 0.7, device)
    dy, x = operands(130, (70, 48), torch.float32, device)
    magnitude = {
        "none": None,
        "rows": torch.rand(70, device=device),
        "elements": torch.rand(70, 48, device=device),
    }[gate]
    packed = plan.pack(magnitude) if gate == "elements" else magnitude
    out = block_dw(dy, x, plan, gate=packed, scale=0.5, splits=splits)
    factor = 1.0 if gate == "none" else magnitude.reshape(70, -1)
    assert_matches(
        out,
        plan.pack(dy.double().t() @ x.double() * factor * 0.5),
        plan.pack(dy.t() @ x * factor * 0.5),
    )


def test_result_dtype_is_chosen(device, assert_matches):
    plan = make_plan((32, 32), (16, 16), 0.5, device)
    dy, x = operands(40, (32, 32), torch.bfloat16, device)
    out = block_dw(dy, x, plan, dtype=torch.float32)
    reference = plan.pack(dy.double().t() @ x.double())
    assert_matches(out, reference, reference.float())


@pytest.mark.parametrize("rows", [0, 7])
def test_nothing_kept_or_no_batch(rows, device):
    plan = BlockPlan.from_mask(torch.zeros(32, 48, dtype=torch.bool), (16, 16), device)
    assert block_dw(*operands(rows, (32, 48), torch.float32, device), plan).shape == (0, 16, 16)
    full = BlockPlan.full((32, 48), (16, 16), device)
    out = block_dw(*operands(0, (32, 48), torch.float32, device), full)
    assert torch.equal(out, torch.zeros(6, 16, 16, device=device))


def test_strided_operands(device, assert_matches):
    plan = make_plan((33, 48), (16, 16), 0.5, device)
    dy = torch.randn(33, 50, device=device).t()
    x = torch.randn(50, 64, device=device)[:, 7:55]
    out = block_dw(dy, x, plan)
    assert_matches(out, plan.pack(dy.double().t() @ x.double()), plan.pack(dy.t() @ x))


def test_equal_calls_give_equal_bits(device):
    plan = make_plan((32, 32), (16, 16), 0.5, device)
    dy, x = operands(200, (32, 32), torch.float32, device)
    assert torch.equal(block_dw(dy, x, plan, splits=4), block_dw(dy, x, plan, splits=4))


def test_bad_operands_are_named(device):
    plan = BlockPlan.full((32, 48), (16, 16), device)
    dy, x = operands(5, (32, 48), torch.float32, device)
    with pytest.raises(ValueError, match=r"dy must be \[M, 32\], got \[5, 48\]"):
        block_dw(x, dy, plan)
    with pytest.raises(ValueError, match="as many rows, got 4 and 5"):
        block_dw(dy[:4], x, plan)
    with pytest.raises(TypeError, match=r"x must be torch.float32, got torch.bfloat16"):
        block_dw(dy, x.bfloat16(), plan)
    with pytest.raises(TypeError, match="dy must be one of float32, float16, bfloat16"):
        block_dw(dy.double(), x, plan)
    with pytest.raises(ValueError, match=r"gate must be \[32\], got \[33\]"):
        block_dw(dy, x, plan, gate=torch.ones(33, device=device))
    with pytest.raises(ValueError, match="splits must be positive, got 0"):
        block_dw(dy, x, plan, splits=0)
    with pytest.raises(ValueError, match="plan must be on"):
        block_dw(dy, x, plan.to("meta"))
