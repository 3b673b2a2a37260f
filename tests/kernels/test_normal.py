import numpy as np
import pytest
import torch

from sparsefl import _codec, random
from sparsefl.kernels.normal import seeded_normal

pytestmark = pytest.mark.verifies("seeded_normal")


@pytest.fixture(scope="module")
def table(device):
    return torch.from_numpy(_codec.normal_table()).to(device)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 2049])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**64 - 1])
def test_bits_are_those_of_the_cpu(seed, n, table):
    std = float(np.float32(0.0441))
    drawn = seeded_normal(seed, random.stream("layer.weight"), n, std, table)
    expected = random.normal(seed, "layer.weight", n, std)
    assert np.array_equal(drawn.cpu().numpy().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("std", [0.0, 2.0**-100, 2.0**100])
def test_extreme_deviations(std, table):
    drawn = seeded_normal(3, random.stream("w"), 200, std, table)
    assert np.array_equal(drawn.cpu().numpy(), random.normal(3, "w", 200, std))


def test_words_of_many_octaves(table):
    drawn = seeded_normal(9, random.stream("w"), 1 << 14, 1.0, table).cpu().numpy()
    assert np.array_equal(drawn, random.normal(9, "w", 1 << 14))
    assert np.abs(drawn).max() > 3.5
