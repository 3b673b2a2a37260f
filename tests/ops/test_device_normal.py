"""Normals that devices draw by torch's own operators: bit for bit those of the CPU."""

import numpy as np
import pytest
import torch

from sparsefl import random
from sparsefl.ops import _device_normal, _dispatch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unverified(monkeypatch):
    """Lets torch draw, as on a device without a verified kernel."""
    monkeypatch.setattr(_dispatch, "verified", lambda kernel, device: False)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (13, 5), (7, 3, 3, 3), (70_001,)], ids=str)
@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1])
def test_bits_are_those_of_the_cpu(seed, shape, monkeypatch):
    monkeypatch.setattr(_device_normal, "_GROUPS", 300)  # several parts
    drawn = _device_normal.normal(seed, "layer.weight", shape, 0.0441, CPU)
    expected = random.normal(seed, "layer.weight", shape, 0.0441)
    assert drawn.shape == expected.shape
    assert np.array_equal(drawn.numpy().view(np.uint32), expected.view(np.uint32))


def test_words_of_every_octave():
    words = [half for i in range(32) for half in (1 << i, (1 << i) - 1)] + [0, 2**32 - 1]
    words += [w ^ (2**32 - 1) for w in words]
    drawn = _device_normal._scaled(torch.tensor(words), _device_normal._table(CPU), 1.0).double()
    half = torch.tensor([w + 0.5 for w in words], dtype=torch.float64) / 2**32
    assert (drawn - torch.special.ndtri(half)).abs().max() < 3e-7
    assert torch.equal(drawn[: len(words) // 2], -drawn[len(words) // 2 :])


def test_what_the_cpu_refuses_is_refused():
    for seed, std, message in ((-1, 1.0, "seed"), (0, -1.0, "std"), (0, 2.0**101, "std")):
        with pytest.raises(ValueError, match=message):
            _device_normal.normal(seed, "w", (3,), std, CPU)
    with pytest.raises(TypeError, match="name"):
        _device_normal.normal(0, 7, (3,), 1.0, CPU)
