import pytest
import torch

from sparsefl.kernels.block_plan import pack_block_signs
from sparsefl.kernels.gather_signs import gather_signs

pytestmark = pytest.mark.verifies("gather_signs")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("count", [8, 96, 4104, 10000])
def test_equals_what_torch_packs(count, dtype, device):
    scores = torch.randn(501).to(dtype)
    scores[:4] = torch.tensor([0.0, -0.0, float("nan"), -float("inf")])
    source = torch.randint(501, (count,), dtype=torch.int32)
    source[:4] = torch.arange(4)
    expected = pack_block_signs(scores[source.long()].view(1, 1, count)).flatten()
    assert torch.equal(gather_signs(scores.to(device), source.to(device)).cpu(), expected)


def test_nothing_is_empty(device):
    source = torch.zeros(0, dtype=torch.int32, device=device)
    assert gather_signs(torch.ones(3, device=device), source).shape == (0,)


def test_bad_operands_are_named(device):
    scores, source = torch.ones(3, device=device), torch.zeros(9, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match=r"source must be \[n\], n % 8 == 0, got \[9\]"):
        gather_signs(scores, source)
    with pytest.raises(TypeError, match=r"source int32, got torch.float32 and torch.int64"):
        gather_signs(scores, source.long())
    with pytest.raises(TypeError, match=r"scores must be float32"):
        gather_signs(scores.double(), source[:8])
