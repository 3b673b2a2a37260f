import pytest
import torch

from sparsefl.kernels import _growth_search
from sparsefl.kernels.growth import linear_growth
from sparsefl.kernels.mask_plan import MaskPlan

pytestmark = pytest.mark.verifies("linear_growth")


def whole_operands(rows, shape, density, device, dtype=torch.float32, most=4):
    """Returns small whole numbers, of which float32 sums are exact and many are equal."""
    mask = torch.rand(shape) < density
    dy = torch.randint(-most, most + 1, (rows, shape[0])).to(dtype)
    x = torch.randint(-most, most + 1, (rows, shape[1])).to(dtype)
    return mask, MaskPlan.from_mask(mask, device), dy.to(device), x.to(device)


def assert_equals_dense(found, dy, x, mask, count):
    # Not reference.growth, whose autograd loads 2 s of modules.
    dense = (dy.double().t() @ x.double()).cpu().flatten()
    scores = dense.abs().masked_fill(mask.flatten(), -1.0)
    indices = scores.sort(descending=True, stable=True).indices[:count].sort().values
    assert torch.equal(found.indices.cpu(), indices)
    assert torch.equal(found.values.cpu().double(), dense[indices])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [0, 1, 50, 900])
def test_equals_the_dense_gradients(count, dtype, device):
    mask, plan, dy, x = whole_operands(7, (33, 47), 0.4, device, dtype)
    assert_equals_dense(linear_growth(dy, x, plan, count), dy, x, mask, count)


@pytest.fixture
def little_room(monkeypatch):
    """Makes lists so short that thresholds and strips are needed for small weights."""
    monkeypatch.setattr(_growth_search, "_LEAST_ROOM", 8)


@pytest.mark.parametrize("count", [1, 40, 200])
def test_thresholds_find_the_same(count, little_room, device):
    mask, plan, dy, x = whole_operands(20, (70, 40), 0.2, device, most=50)
    assert_equals_dense(linear_growth(dy, x, plan, count), dy, x, mask, count)


def test_one_launch_is_enough_where_the_sample_is_good(little_room, device, monkeypatch):
    mask, plan, dy, x = whole_operands(20, (70, 40), 0.2, device, most=50)
    launches, real = [], _growth_search._filter
    monkeypatch.setattr(_growth_search, "_filter", lambda *a: launches.append(a) or real(*a))
    assert_equals_dense(linear_growth(dy, x, plan, 300), dy, x, mask, 300)
    assert len(launches) == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_gradients_go_to_the_lowest_index(value, little_room, device):
    # No threshold lies between them: strips have to find it.
    mask, plan, dy, x = whole_operands(3, (40, 33), 0.3, device)
    dy, x = torch.full_like(dy, value), torch.full_like(x, value)
    found = linear_growth(dy, x, plan, 45)
    assert torch.equal(found.indices.cpu(), (~mask).flatten().nonzero()[:45, 0])


def test_strips_give_what_thresholds_give(little_room, device, monkeypatch):
    _, plan, dy, x = whole_operands(20, (70, 40), 0.2, device, most=50)
    expected = linear_growth(dy, x, plan, 60)
    monkeypatch.setattr(_growth_search, "_TRIES", 0)
    found = linear_growth(dy, x, plan, 60)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.values, expected.values)


def test_a_gradient_that_is_no_number_is_refused(device):
    _, plan, dy, x = whole_operands(3, (8, 40), 0.2, device)
    x[1, 5] = float("nan")
    with pytest.raises(ValueError, match="a gradient is not a number"):
        linear_growth(dy, x, plan, 4)


def test_count_out_of_range_is_refused(device):
    mask, plan, dy, x = whole_operands(3, (8, 40), 0.2, device)
    pruned = int((~mask).sum())
    with pytest.raises(ValueError, match=f"within the {pruned} pruned positions, got {pruned + 1}"):
        linear_growth(dy, x, plan, pruned + 1)
