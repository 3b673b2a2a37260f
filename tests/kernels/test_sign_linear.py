import pytest
import torch

from sparsefl.kernels.block_dw import block_dw
from sparsefl.kernels.block_plan import BlockPlan, pack_block_signs
from sparsefl.kernels.sign_linear import sign_linear, sign_linear_dx

pytestmark = pytest.mark.verifies("sign_linear", "sign_linear_dx")

CASES = {
    "tail": (37, (48, 80), (16, 16), 0.4),
    "beyond-the-edge": (65, (70, 33), (32, 16), 0.5),
    "two-steps-a-block": (5, (64, 130), (64, 128), 1.0),
    "nothing": (3, (32, 32), (16, 16), 0.0),
}


def layer(shape, block, density, device):
    rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    whole = (torch.rand(rows, columns) < density).repeat_interleave(block[0], 0)
    mask = whole.repeat_interleave(block[1], 1)[: shape[0], : shape[1]].contiguous()
    scores = torch.randn(shape)
    scores[0, 0] = -0.0  # sgn(0) = +1
    signs = torch.where(scores < 0, -1.0, 1.0) * mask
    plan = BlockPlan.from_mask(mask, block, device)
    return plan, signs.to(device), pack_block_signs(plan.pack(scores.to(device)))


@pytest.mark.parametrize("by_row", [False, True], ids=["constant", "rows"])
@pytest.mark.parametrize(("rows", "shape", "block", "density"), CASES.values(), ids=CASES)
def test_equals_dense(rows, shape, block, density, by_row, device, assert_matches):
    plan, signs, packed = layer(shape, block, density, device)
    magnitude = torch.rand(shape[0]).to(device) + 0.1 if by_row else 0.3
    weight = signs * (magnitude[:, None] if by_row else magnitude)
    x, dy = torch.randn(rows, shape[1]).to(device), torch.randn(rows, shape[0]).to(device)
    bias = torch.randn(shape[0]).to(device)
    y = sign_linear(x, packed, plan, magnitude, bias)
    exact = x.double() @ weight.double().t() + bias.double()
    assert_matches(y, exact, x @ weight.t() + bias, "output")
    dx = sign_linear_dx(dy, packed, plan, magnitude)
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight, "input gradient")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, device, assert_matches):
    plan, signs, packed = layer((48, 40), (16, 32), 0.7, device)
    magnitude = (torch.rand(48) + 0.1).to(dtype).to(device)
    weight = signs.to(dtype) * magnitude[:, None]
    x = torch.randn(20, 40, dtype=dtype).to(device)
    dy = torch.randn(20, 48, dtype=dtype).to(device)
    y, dx = sign_linear(x, packed, plan, magnitude), sign_linear_dx(dy, packed, plan, magnitude)
    assert_matches(y, x.double() @ weight.double().t(), x @ weight.t())
    assert_matches(dx, dy.double() @ weight.double(), dy @ weight)


def test_score_gradient_is_that_of_the_weight_times_the_magnitude(device, assert_matches):
    plan, _, _ = layer((48, 40), (16, 32), 0.7, device)
    magnitude = (torch.rand(48) + 0.1).to(device)
    x, dy = torch.randn(20, 40).to(device), torch.randn(20, 48).to(device)
    exact = plan.pack(dy.double().t() @ x.double() * magnitude.double()[:, None])
    out = block_dw(dy, x, plan, gate=magnitude)
    assert_matches(out, exact, plan.pack(dy.t() @ x * magnitude[:, None]))


def test_packed_bits_are_row_major_lowest_first():
    scores = torch.ones(1, 16, 16)
    scores[0, 0, 0] = scores[0, 0, 9] = scores[0, 1, 7] = -1
    packed = pack_block_signs(scores)
    assert packed.shape == (1, 16, 2)
    assert packed[0, :2].tolist() == [[1, 2], [128, 0]]
    assert int(packed[0, 2:].sum()) == 0


def test_bad_operands_are_named(device):
    plan, _, packed = layer((32, 48), (16, 16), 1.0, device)
    x = torch.zeros(5, 48, device=device)
    with pytest.raises(ValueError, match=r"signs must be \[6, 16, 2\], got \[5, 16, 2\]"):
        sign_linear(x, packed[:5], plan, 1.0)
    with pytest.raises(TypeError, match=r"signs must be torch.uint8, got torch.float32"):
        sign_linear(x, packed.float(), plan, 1.0)
    with pytest.raises(ValueError, match=r"magnitude must be \[32\], got \[48\]"):
        sign_linear(x, packed, plan, torch.ones(48, device=device))
    with pytest.raises(ValueError, match=r"scores must be \[nnzb, BN, BK\]"):
        pack_block_signs(torch.zeros(16, 16))
