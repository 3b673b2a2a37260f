"""Votes and means over packed signs: equal to numpy's, for every instruction set."""

import numpy as np
import pytest
import torch

from sparsefl import _codec, codec

SIZES = [0, 1, 8, 63, 65, 257, 4099, 16384, 16391, 33333]
CLIENTS = [1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 100]


def draw(clients, n, seed=0):
    """Bitmaps of every client, and their signs, [clients, n]."""
    negative = np.random.default_rng(seed).random((clients, n)) < 0.5
    packed = [np.packbits(row, bitorder="little") for row in negative]
    return packed, 1 - 2 * negative.astype(np.int64)


def unpack(bits, n):
    return np.unpackbits(bits, count=n, bitorder="little").astype(bool)


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("n", SIZES)
def test_votes_are_counted(n, clients, isa_name):
    packed, signs = draw(clients, n)
    count = (signs < 0).sum(0)
    negative, tied = (np.full((n + 7) // 8, 0xA5, np.uint8) for _ in range(2))
    for least in {1, clients // 2 + 1, clients}:
        _codec.vote(packed, n, least, negative, tied, isa_name)
        assert np.array_equal(negative, np.packbits(count >= least, bitorder="little"))
        assert np.array_equal(tied, np.packbits(count == least - 1, bitorder="little"))


def test_a_thousand_clients_are_counted(isa_name):
    packed, signs = draw(1000, 77)
    negative = np.empty(10, np.uint8)

    _codec.vote(packed, 77, 501, negative, None, isa_name)

    assert np.array_equal(unpack(negative, 77), signs.sum(0) < 0)


@pytest.mark.parametrize("clients", [1, 2, 7, 10])
def test_ties_are_positive_or_nothing(clients):
    packed, signs = draw(clients, 1003)
    total = signs.sum(0)

    positive = codec.majority_vote(packed, 1003)
    negative, decided = codec.majority_vote([torch.from_numpy(p) for p in packed], 1003, "abstain")

    assert np.array_equal(unpack(positive, 1003), total < 0)
    assert np.array_equal(negative, positive)
    assert np.array_equal(decided, np.packbits(total != 0, bitorder="little"))


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("even", [False, True], ids=["weighted", "even"])
def test_means_of_integer_weights_are_exact(even, n, clients, isa_name):
    packed, signs = draw(clients, n)
    weights = np.random.default_rng(1).integers(0, 10**6, clients).astype(np.int32)
    if even:
        weights[:] = 12345
    out = np.full(n, np.nan, np.float32)

    _codec.mean(packed, weights, 0.125, out, isa_name)

    assert np.array_equal(out, ((weights.astype(np.int64) @ signs) * 0.125).astype(np.float32))


def test_weighted_means_by_numbers_of_examples():
    packed, signs = draw(12, 999)
    examples, scales = np.arange(12) * 100, np.random.default_rng(2).random(12)

    plain = codec.weighted_mean(packed, examples, 999)
    scaled = codec.weighted_mean(packed, examples, 999, scales)

    assert np.array_equal(plain, (examples @ signs / examples.sum()).astype(np.float32))
    exact = (examples * scales) @ signs / examples.sum()
    assert np.abs(scaled - exact).max() <= 12 * 2.0**-30 + np.finfo(np.float32).eps * 0.5


@pytest.mark.parametrize("even", [False, True], ids=["weighted", "even"])
def test_the_order_of_clients_does_not_matter(even):
    packed, _ = draw(50, 4100)
    random = np.random.default_rng(3)
    weights = np.ones(50) / 3 if even else random.exponential(size=50)
    order = random.permutation(50)

    one = codec.weighted_mean(packed, weights, 4100, weights)
    other = codec.weighted_mean([packed[c] for c in order], weights[order], 4100, weights[order])

    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30], ids="factor={}".format)
def test_weights_of_any_size(factor):
    packed, signs = draw(9, 333)
    weights = np.array([1, 2, 3, 4, 5, 6, 7, 8, 0]) * factor

    out = codec.weighted_mean(packed, weights, 333)

    np.testing.assert_allclose(out, weights @ signs / weights.sum(), rtol=1e-6, atol=1e-8)


def test_scales_of_zero_give_zero():
    packed, _ = draw(3, 10)
    out = np.full(10, np.nan, np.float32)

    assert codec.weighted_mean(packed, [1, 2, 3], 10, np.zeros(3), out) is out
    assert not out.any()


GOOD = [np.zeros(1, np.uint8)] * 2


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: codec.majority_vote([], 8), ValueError, "packed must hold one client"),
        (lambda: codec.majority_vote(GOOD, 9), ValueError, r"packed\[0\] must be \[2\]"),
        (
            lambda: codec.majority_vote([GOOD[0], np.full(1, 16, np.uint8)], 4),
            ValueError,
            r"packed\[1\] has bits set past",
        ),
        (lambda: codec.majority_vote(GOOD, 8, "negative"), ValueError, "ties must be"),
        (
            lambda: codec.majority_vote([np.zeros(1, np.int8)], 8),
            TypeError,
            r"packed\[0\] must be uint8",
        ),
        (lambda: codec.weighted_mean(GOOD, [1], 8), ValueError, r"weights must be \[2\]"),
        (lambda: codec.weighted_mean(GOOD, [1, -1], 8), ValueError, "weights must be finite"),
        (lambda: codec.weighted_mean(GOOD, [1, np.nan], 8), ValueError, "weights must be finite"),
        (lambda: codec.weighted_mean(GOOD, [0, 0], 8), ValueError, "weights must have a positive"),
        (lambda: codec.weighted_mean(GOOD, [1, 1], 8, [1, np.inf]), ValueError, "scales must be"),
        (
            lambda: codec.weighted_mean(GOOD, [1, 1], 8, out=np.empty(9, np.float32)),
            ValueError,
            r"out must be \[8\], got \[9\]",
        ),
    ],
    ids=[
        *("no client", "length", "tail", "ties", "dtype", "weights", "negative", "nan"),
        *("zero", "scales", "out"),
    ],
)
def test_bad_arguments_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
