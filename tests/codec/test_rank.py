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


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("n", SIZES)
def test_gather_equals_boolean_indexing(n, density, isa_name):
    x, mask = np.random.default_rng(3).standard_normal(n).astype(np.float32), draw(n, density, 2)

    assert _codec.gather(x, pack(mask), isa_name).tobytes() == x[mask].tobytes()


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("n", SIZES)
def test_add_at_adds_with_one_rounding(n, density, isa_name):
    random, mask = np.random.default_rng(3), draw(n, density, 2)
    model, values = (random.standard_normal(n).astype(np.float32) for _ in range(2))
    model[::5], values = -0.0, values[mask]
    # Exact in float64: 48 bits of product, and a sum whose error lies far below float32's.
    expected = model.copy()
    expected[mask] = model[mask].astype(np.float64) + np.float64(np.float32(0.3)) * values

    _codec.add_at(model, pack(mask), values, 0.3, isa_name)

    assert model.tobytes() == expected.tobytes()


def test_add_at_writes_to_a_torch_tensor():
    model = torch.zeros(3, 4)

    codec.add_at(model, np.array([0b10000001, 8], np.uint8), np.array([1, 2, 3], np.float32), 2)

    assert model.flatten().nonzero().flatten().tolist() == [0, 7, 11]
    assert model.sum() == 12


@pytest.mark.parametrize(
    ("model", "values", "error", "says"),
    [
        (np.zeros(8), np.zeros(2, np.float32), TypeError, "model must be float32"),
        (np.zeros(16, np.float32)[::2], np.zeros(2, np.float32), ValueError, "model must be cont"),
        (np.zeros(8, np.float32), np.zeros(3, np.float32), ValueError, r"values must be \[2\]"),
        (np.zeros(8, np.float32), np.zeros(2), TypeError, "values must be float32"),
        (np.zeros(9, np.float32), np.zeros(2, np.float32), ValueError, r"bits must be \[2\]"),
    ],
    ids=["model dtype", "strided", "too many values", "values dtype", "bits"],
)
def test_add_at_refuses(model, values, error, says):
    with pytest.raises(error, match=says):
        codec.add_at(model, np.array([3], np.uint8), values)
