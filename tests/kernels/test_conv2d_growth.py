import pytest
import torch

from sparsefl.kernels import _growth_search
from sparsefl.kernels.conv2d_growth import conv2d_growth
from sparsefl.kernels.conv2d_plan import Geometry
from sparsefl.kernels.mask_plan import MaskPlan

pytestmark = pytest.mark.verifies("conv2d_growth")

# The input's shape, the weight's, and the geometry.
CASES = {
    "padded": ((2, 20, 5, 4), (33, 20, 3, 3), Geometry((3, 3), (1, 1), (1, 1))),
    "stride": ((3, 5, 7, 6), (9, 5, 3, 2), Geometry((3, 2), (2, 1), (1, 0))),
    "dilated": ((1, 3, 8, 9), (70, 3, 2, 3), Geometry((2, 3), (1, 2), (0, 3), (3, 2))),
    "pointwise": ((2, 70, 3, 3), (5, 70, 1, 1), Geometry((1, 1))),
}


def whole_operands(case, density, device, dtype=torch.float32, most=4):
    """Returns small whole numbers, of which float32 sums are exact and many are equal."""
    size, shape, geometry = case
    mask = torch.rand(shape) < density
    outputs = geometry.output_size(*size[2:])
    dy = torch.randint(-most, most + 1, (size[0], shape[0], *outputs)).to(dtype)
    x = torch.randint(-most, most + 1, size).to(dtype)
    return mask, MaskPlan.from_mask(mask, device), dy.to(device), x.to(device), geometry


def assert_equals_dense(found, dy, x, mask, geometry, count):
    weight = torch.zeros(mask.shape, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(x.double().cpu(), weight, None, *geometry[1:])
    y.backward(dy.double().cpu())
    dense = weight.grad.flatten()
    scores = dense.abs().masked_fill(mask.flatten(), -1.0)
    indices = scores.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(found.indices.cpu(), indices)
    assert torch.equal(found.values.cpu().double(), dense[indices])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_dense_gradients(case, count, dtype, device):
    mask, plan, dy, x, geometry = whole_operands(case, 0.4, device, dtype)
    found = conv2d_growth(dy, x, plan, geometry, count)
    assert_equals_dense(found, dy, x, mask, geometry, count)


@pytest.fixture
def little_room(monkeypatch):
    """Makes lists so short that thresholds and strips are needed for small weights."""
    monkeypatch.setattr(_growth_search, "_LEAST_ROOM", 8)


@pytest.mark.parametrize("tries", [0, 3])
@pytest.mark.parametrize("case", [CASES["padded"], CASES["stride"]], ids=["padded", "stride"])
def test_thresholds_and_strips_find_the_same(case, tries, little_room, device, monkeypatch):
    monkeypatch.setattr(_growth_search, "_TRIES", tries)
    mask, plan, dy, x, geometry = whole_operands(case, 0.2, device, most=50)
    found = conv2d_growth(dy, x, plan, geometry, 40)
    assert_equals_dense(found, dy, x, mask, geometry, 40)


def test_a_gradient_that_is_no_number_is_refused(device):
    _, plan, dy, x, geometry = whole_operands(CASES["stride"], 0.2, device)
    x[1, 4, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="a gradient is not a number"):
        conv2d_growth(dy, x, plan, geometry, 4)


def test_bad_operands_are_named(device):
    mask, plan, dy, x, geometry = whole_operands(CASES["stride"], 0.2, device)
    pruned = int((~mask).sum())
    with pytest.raises(ValueError, match=f"within the {pruned} pruned positions, got {pruned + 1}"):
        conv2d_growth(dy, x, plan, geometry, pruned + 1)
    with pytest.raises(ValueError, match=r"x must be \[M, 5, H, W\], got \[3, 4, 7, 6\]"):
        conv2d_growth(dy, x[:, :4], plan, geometry, 1)
    with pytest.raises(ValueError, match=r"dy must be \[2, 9, 4, 5\] for this x, got \[3, 9"):
        conv2d_growth(dy, x[:2], plan, geometry, 1)
    with pytest.raises(TypeError, match=r"x must be torch.float32, got torch.float16"):
        conv2d_growth(dy, x.half(), plan, geometry, 1)
