import numpy as np
import pytest
import torch

from sparsefl.kernels.mask_plan import MaskPlan


@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (7, 64), (5, 0), (0, 4)])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_words_and_offsets(shape, density):
    mask = np.random.default_rng(0).random(shape) < density
    plan = MaskPlan.from_mask(mask)
    assert plan.nnz == mask.sum()
    before = 0
    for row in range(shape[0]):
        for word in range(plan.words.shape[1]):
            bits = int(plan.words[row, word]) & 0xFFFFFFFF
            expected = mask[row, 32 * word : 32 * word + 32]
            assert [bits >> i & 1 for i in range(32)] == [*expected] + [0] * (32 - len(expected))
            assert int(plan.offsets[row, word]) == before
            before += int(expected.sum())


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"matrix \[out, in\].*got shape \(4, 4, 3, 3\)"):
        MaskPlan.from_mask(torch.ones(4, 4, 3, 3, dtype=torch.bool))
