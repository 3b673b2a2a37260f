"""Rank space of bitmaps: equal to boolean indexing, for every instruction set."""

import numpy as np
import pytest
import torch

from sparsefl import _codec, codec

SIZES = [0, 1, 7, 8, 63, 64, 65, 127, 257, 1021, 8191]
DENSITIES = [0.0, 0.01, 0.1, 0.5, 0.99, 1.0]


def draw(n, density, seed):
    return np.random.default_rng(seed).random(n) < density


def pack(mask):
    return np.packbits(mask, bitorder="little")


@pytest.mark.parametrize("complement", [False, True], ids=["mask", "complement"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("n", SIZES)
def test_compress_equals_boolean_indexing(n, density, complement, isa_name):
    bits, mask = draw(n, 0.5, 1), draw(n, density, 2)

    out = _codec.compress_bits(pack(bits), pack(mask), n, complement, isa_name)

    assert out.tobytes() == pack(bits[mask != complement]).tobytes()


@pytest.mark.parametrize("complement", [False, True], ids=["mask", "complement"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("n", SIZES)
def test_expand_equals_boolean_assignment(n, density, complement, isa_name):
    mask = draw(n, density, 2)
    ranks = draw(int((mask != complement).sum()), 0.5, 1)
    expected = np.zeros(n, bool)
    expected[mask != complement] = ranks

    out = _codec.expand_bits(pack(ranks), pack(mask), n, complement, isa_name)

    assert out.tobytes() == pack(expected).tobytes()


def test_torch_tensors_are_taken():
    bits, mask = (pack(draw(100, 0.5, seed)) for seed in (1, 2))

    ranks = codec.compress_bits(torch.from_numpy(bits), torch.from_numpy(mask), 100)

    assert np.array_equal(codec.expand_bits(ranks, mask, 100), bits & mask)


@pytest.mark.parametrize(
    ("bits", "mask", "n", "error", "says"),
    [
        (np.zeros(2, np.int8), np.zeros(2, np.uint8), 9, TypeError, "bits must be uint8, got int8"),
        ([0], np.zeros(1, np.uint8), 8, TypeError, "bits must be a numpy array"),
        (np.zeros(2, np.uint8), np.zeros(2, np.uint8), 8, ValueError, r"bits must be \[1\] for 8"),
        (np.zeros(1, np.uint8), np.zeros((1, 1), np.uint8), 8, ValueError, "mask must be"),
        (np.zeros(1, np.uint8), np.full(1, 8, np.uint8), 3, ValueError, "mask has bits set past"),
        (np.zeros(0, np.uint8), np.zeros(0, np.uint8), -1, ValueError, "n must not be negative"),
        (np.zeros(1, np.uint8), np.zeros(1, np.uint8), 8.0, TypeError, "integer"),
    ],
    ids=["dtype", "list", "length", "shape", "tail", "negative", "float"],
)
def test_bad_arguments_are_refused(bits, mask, n, error, says):
    with pytest.raises(error, match=says):
        codec.compress_bits(bits, mask, n)


def test_ranks_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match=r"ranks must be \[1\] for 4 positions"):
        codec.expand_bits(np.zeros(2, np.uint8), np.full(1, 15, np.uint8), 8)
