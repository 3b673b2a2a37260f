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
    with pytest.raises(ValueError, match=r"\[out, in, \*taps\].*got shape \(4,\)"):
        MaskPlan.from_mask(torch.ones(4, dtype=torch.bool))


def test_a_convolution_is_the_matrix_of_its_rows():
    mask = torch.rand(5, 4, 3, 3) < 0.5
    plan, rows = MaskPlan.from_mask(mask), MaskPlan.from_mask(mask.flatten(1))
    assert plan.shape == (5, 36)
    assert torch.equal(plan.words, rows.words)
    assert torch.equal(plan.offsets, rows.offsets)
