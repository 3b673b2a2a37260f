"""Bit codes: every coder by itself, the choice among them, their sizes, and damage."""

import math

import numpy as np
import pytest

from sparsefl import _codec
from sparsefl.codec import CodecReason

BITMAP, RICE = range(2)
PLAIN, RANS = range(2)
SIZES = [1, 7, 8, 63, 64, 65, 511, 513, 4099, 65537]


def pack(kept: np.ndarray) -> np.ndarray:
    return np.packbits(kept, bitorder="little")


def draw(n: int, count: int, seed: int = 0) -> np.ndarray:
    kept = np.zeros(n, bool)
    kept[np.random.default_rng(seed).permutation(n)[:count]] = True
    return kept


def write(kept: np.ndarray, coder: int = -1, row: int = 0, profile: int = RANS):
    return _codec.bit_code(pack(kept), kept.size, int(kept.sum()), row, profile, coder)


def read(coder: int, code: np.ndarray, n: int, count: int, row: int = 0):
    reason, bits = _codec.read_bit_code(coder, code, n, count, row)
    return CodecReason(reason) if reason else None, bits


def counts_of(n: int) -> list[int]:
    return sorted({0, 1, n // 100, n // 10, n // 3, n // 2, n - n // 10, n - 1, n})


@pytest.mark.parametrize("coder", [BITMAP, RICE, -1])
@pytest.mark.parametrize("n", SIZES)
def test_round_trip(n, coder):
    for count in counts_of(n):
        kept = draw(n, count, seed=n)
        written = write(kept, coder)
        if written is None:
            assert count in (0, n)
            continue
        reason, bits = read(*written, n, count)
        assert reason is None
        assert np.array_equal(bits, pack(kept))


@pytest.mark.parametrize("coder", [BITMAP, RICE])
def test_damaged_codes_are_refused_or_have_their_count(coder):
    kept = draw(130, 17)
    _, code = write(kept, coder)
    for cut in range(code.size):
        assert read(coder, code[:cut], 130, 17)[0] is not None
    for bit in range(8 * code.size):
        damaged = code.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        reason, bits = read(coder, damaged, 130, 17)
        if reason is None:
            found = np.unpackbits(bits, bitorder="little")
            assert found[:130].sum() == 17
            assert not found[130:].any()


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3, 0.5])
def test_the_best_coder_is_chosen(density):
    n = 40000
    kept = draw(n, int(n * density))
    coder, code = write(kept)
    sizes = [write(kept, c)[1].size for c in (BITMAP, RICE)]
    assert code.size == min(sizes)
    assert coder == int(np.argmin(sizes))


@pytest.mark.parametrize("density", [0.001, 0.003, 0.01, 0.03, 0.05])
def test_plain_codes_are_near_the_bound(density):
    n = 1 << 20
    count = int(n * density)
    bound = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    _, code = write(draw(n, count), profile=PLAIN)
    assert 8 * code.size <= 1.02 * bound / math.log(2)
