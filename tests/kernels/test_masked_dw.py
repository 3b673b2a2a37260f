import pytest
import torch

from sparsefl.kernels.mask_plan import MaskPlan
from sparsefl.kernels.masked_dw import masked_dw

pytestmark = pytest.mark.verifies("masked_dw")

CASES = {
    "several-tiles": (37, (70, 130), 0.3),
    "one-word": (65, (5, 31), 0.5),
    "one-row": (1, (1, 64), 0.9),
    "full": (9, (65, 33), 1.0),
    "nothing": (3, (32, 32), 0.0),
}


def operands(rows, shape, density, dtype, device):
    mask = (torch.rand(shape) < density).to(device)
    dy = torch.randn(rows, shape[0], dtype=dtype).to(device)
    x = torch.randn(rows, shape[1], dtype=dtype).to(device)
    return mask, MaskPlan.from_mask(mask, device), dy, x


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize(("rows", "shape", "density"), CASES.values(), ids=CASES)
def test_equals_the_dense_gradient(rows, shape, density, splits, device, assert_matches):
    mask, plan, dy, x = operands(rows, shape, density, torch.float32, device)
    out = masked_dw(dy, x, plan, splits=splits)
    assert_matches(out, (dy.double().t() @ x.double())[mask], (dy.t() @ x)[mask])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, device, assert_matches):
    mask, plan, dy, x = operands(70, (30, 40), 0.4, dtype, device)
    out = masked_dw(dy, x, plan)
    assert_matches(out, (dy.double().t() @ x.double())[mask], (dy.t() @ x)[mask])
    wide = masked_dw(dy, x, plan, dtype=torch.float32, splits=2)
    exact = (dy.double().t() @ x.double())[mask]
    assert_matches(wide, exact, exact.float())


@pytest.mark.parametrize("gate", ["rows", "elements"])
def test_gate_and_scale(gate, device, assert_matches):
    mask, plan, dy, x = operands(40, (33, 47), 0.4, torch.float32, device)
    magnitude = torch.rand(33, 1 if gate == "rows" else 47).to(device)
    given = magnitude[:, 0] if gate == "rows" else magnitude[mask][:, None]
    out = masked_dw(dy, x, plan, gate=given, scale=0.5)
    exact = (dy.double().t() @ x.double() * magnitude * 0.5)[mask]
    assert_matches(out, exact, (dy.t() @ x * magnitude * 0.5)[mask])


def test_no_batch_gives_zeros(device):
    mask, plan, dy, x = operands(0, (8, 40), 0.5, torch.float32, device)
    assert torch.equal(masked_dw(dy, x, plan), torch.zeros(int(mask.sum()), device=device))


def test_bad_operands_are_named(device):
    _, plan, dy, x = operands(4, (8, 40), 0.5, torch.float32, device)
    with pytest.raises(ValueError, match=r"x must be \[M, 40\], got \[4, 39\]"):
        masked_dw(dy, x[:, :39], plan)
    with pytest.raises(ValueError, match=r"gate must be \[8\], got \[9\]"):
        masked_dw(dy, x, plan, gate=torch.ones(9, device=device))
