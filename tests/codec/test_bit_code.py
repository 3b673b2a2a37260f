"""Bit codes: every coder by itself, the choice among them, their sizes, and damage."""

import hashlib
import math

import numpy as np
import pytest
import second_decoder

from sparsefl import _codec
from sparsefl.codec import CodecReason

BITMAP, RICE, RANS_BYTES, RANS_GAPS, ROWS, TILES = range(6)
FLAT = [BITMAP, RICE, RANS_BYTES, RANS_GAPS]
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


VECTORS = {
    BITMAP: "1800000000000c80",
    RICE: "0343318305",
    RANS_BYTES: "001800000000000c80",
    RANS_GAPS: "00000003002d000b",
}


@pytest.mark.parametrize("coder", VECTORS)
def test_vectors_of_the_format(coder):
    kept = np.zeros(64, bool)
    kept[[3, 4, 50, 51, 63]] = True
    assert write(kept, coder)[1].tobytes().hex() == VECTORS[coder]
    if coder in (RICE, RANS_GAPS):
        assert write(~kept, coder)[1].tobytes().hex() == VECTORS[coder]


def counts_of(n: int) -> list[int]:
    return sorted({0, 1, n // 100, n // 10, n // 3, n // 2, n - n // 10, n - 1, n})


@pytest.mark.parametrize("coder", [*FLAT, -1])
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


@pytest.mark.parametrize("coder", FLAT)
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
    sizes = [write(kept, c)[1].size for c in FLAT]
    assert code.size == sizes[coder]
    # By what the models promise, which is off by a few bytes.
    assert code.size <= min(sizes) + 4


def drifting(n: int) -> np.ndarray:
    return np.random.default_rng(6).random(n) < np.linspace(0.001, 0.4, n)


def clustered(n: int) -> np.ndarray:
    pairs = np.random.default_rng(7).random(n // 8) < 0.05
    return np.kron(pairs, np.array([1, 0, 1, 0, 0, 1, 1, 0], bool))


def alternating(n: int) -> np.ndarray:
    return np.random.default_rng(8).random(n) < np.tile([0.02, 0.2], n // 2)


@pytest.mark.parametrize(
    "kept",
    [draw(1 << 20, 1 << k) for k in (8, 12, 15, 17, 18, 19)]
    + [drifting(1 << 20), clustered(1 << 20), alternating(1 << 20)],
    ids=[*(f"one_in_{1 << 20 - k}" for k in (8, 12, 15, 17, 18, 19)), "drift", "bytes", "period"],
)
def test_the_choice_by_a_sample_is_nearly_the_best(kept):
    coder, code = write(kept)
    sizes = [write(kept, c)[1].size for c in FLAT]
    assert code.size == sizes[coder]
    assert code.size <= 1.004 * min(sizes) + 16


def ratio_to_bound(n: int, count: int, profile: int) -> float:
    bound = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    _, code = write(draw(n, count), profile=profile)
    return 8 * code.size * math.log(2) / bound


@pytest.mark.parametrize("density", [0.001, 0.003, 0.01, 0.03, 0.05])
def test_plain_codes_of_few_bits_are_near_the_bound(density):
    assert ratio_to_bound(1 << 21, int(density * 2**21), PLAIN) <= 1.02


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_plain_codes_of_many_bits_are_near_the_bound(density):
    assert ratio_to_bound(1 << 21, int(density * 2**21), PLAIN) <= 1.045


@pytest.mark.parametrize("density", [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 0.99])
def test_codes_with_rans_are_at_the_bound(density):
    assert ratio_to_bound(1 << 22, int(density * 2**22), RANS) <= 1.005


@pytest.mark.parametrize(("n", "count"), [(200_000, 10_000), (1_000_000, 10_000)])
def test_short_codes_of_changes_are_at_the_bound(n, count):
    assert ratio_to_bound(n, count, RANS) <= 1.005


@pytest.mark.parametrize("coder", [RICE, RANS_GAPS])
def test_gaps_of_more_than_16_bits(coder):
    kept = np.zeros(1 << 20, bool)
    kept[[5, 6, 90_000, 90_001, 90_003, 1_000_000]] = True
    coder, code = write(kept, coder)
    reason, bits = read(coder, code, kept.size, 6)
    assert reason is None
    assert np.array_equal(bits, pack(kept))


@pytest.mark.parametrize("coder", FLAT)
def test_indices_are_those_of_the_set_bits(coder):
    kept = draw(70_001, 9_000)
    _, code = write(kept, coder)
    reason, indices = _codec.read_bit_indices(coder, code, kept.size, 9_000, 0)
    assert reason == 0
    assert np.array_equal(indices, np.flatnonzero(kept))


@pytest.mark.parametrize("coder", [RICE, RANS_GAPS])
def test_parameters_of_impossible_gaps_are_refused(coder):
    kept = draw(1000, 100)
    _, code = write(kept, coder)
    code[0] = 6
    assert read(coder, code, 1000, 100)[0] is CodecReason.CODE


def lognormal_rows(rows: int, row: int) -> np.ndarray:
    random = np.random.default_rng(1)
    density = np.exp(random.normal(0, 1, rows))
    return random.random((rows, row)) < (density * 0.05 / density.mean())[:, None]


@pytest.mark.parametrize("row", [512, 500, 201, 3000])
def test_rows_of_different_density_share_classes(row):
    kept = lognormal_rows(900, row)
    coder, code = write(kept.reshape(-1), row=row)
    reason, bits = read(coder, code, kept.size, int(kept.sum()), row)
    assert (coder, reason) == (ROWS, None)
    assert np.array_equal(bits, pack(kept.reshape(-1)))
    assert code.size < write(kept.reshape(-1))[1].size


def test_rows_of_lognormal_density_are_near_the_bound_of_each():
    kept = lognormal_rows(8192, 512)
    _, code = write(kept.reshape(-1), row=512)
    shares = np.clip(kept.mean(axis=1), 1e-12, 1 - 1e-12)
    entropy = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares))
    assert 8 * code.size <= 1.05 * 512 * entropy.sum()


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_blocks_are_found_and_coded_as_a_grid(side):
    grid = np.random.default_rng(side).random((9, 11)) < 0.3
    kept = np.kron(grid, np.ones((side, side), bool))[: 9 * side - 3, : 11 * side - 5].copy()
    coder, code = write(kept.reshape(-1), row=kept.shape[1])
    reason, bits = read(coder, code, kept.size, int(kept.sum()), kept.shape[1])
    assert (coder, reason) == (TILES, None)
    assert np.array_equal(bits, pack(kept.reshape(-1)))
    assert code.size <= 8 + 13 + 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 1000), (301, 77)])
def test_whole_rows_and_columns_are_one_bit_each(shape, axis):
    chosen = np.random.default_rng(2).random(shape[axis]) < 0.3
    kept = np.zeros(shape, bool)
    kept[(chosen, slice(None))[:: 1 if axis == 0 else -1]] = True
    coder, code = write(kept.reshape(-1), row=shape[1])
    reason, bits = read(coder, code, kept.size, int(kept.sum()), shape[1])
    assert (coder, reason) == (TILES, None)
    assert np.array_equal(bits, pack(kept.reshape(-1)))
    assert code.size <= 8 + -(-shape[axis] // 8) + 1


def test_vectors_of_the_format_with_rows():
    classes = np.unpackbits(np.frombuffer(bytes.fromhex("ff3f0800ff1f0000"), np.uint8))
    kept = classes.reshape(-1, 8)[:, ::-1].reshape(-1).astype(bool)
    expected = "0007010700000000000000000100000002000008001b000000040000ff3fff1f"
    assert write(kept, ROWS, row=16)[1].tobytes().hex() == expected
    tiles = np.repeat([False, True, False, True], 16)
    assert write(tiles, TILES, row=16)[1].tobytes().hex() == "01000000000200000a"


@pytest.mark.parametrize("coder", range(6))
def test_a_decoder_from_the_format_reads_it(coder):
    kept = np.kron(np.random.default_rng(4).random((20, 5)) < 0.4, np.ones((16, 16), bool))
    if coder != TILES:
        kept &= np.random.default_rng(5).random(kept.shape) < 0.1
    _, code = write(kept.reshape(-1), coder, row=80)
    count = int(kept.sum())
    found = second_decoder.positions_of(coder, code.tobytes(), kept.size, count, 80)
    assert np.array_equal(found, np.flatnonzero(kept))


def test_rows_without_structure_are_coded_flat():
    kept = np.random.default_rng(3).random(300 * 512) < 0.05
    assert write(kept, row=512)[0] not in (ROWS, TILES)


@pytest.mark.parametrize("row", [0, 7, 1 << 20])
@pytest.mark.parametrize("coder", [ROWS, TILES])
def test_codes_of_rows_need_rows(coder, row):
    kept = np.kron(np.eye(4, dtype=bool), np.ones((16, 16), bool))
    _, code = write(kept.reshape(-1), coder, row=64)
    assert read(coder, code, kept.size, int(kept.sum()), row)[0] is not None
    assert write(kept.reshape(-1), coder, row=row) is None


@pytest.mark.parametrize("coder", [ROWS, TILES])
def test_damaged_codes_of_rows_are_refused_or_have_their_count(coder):
    kept = np.kron(np.eye(4, dtype=bool), np.ones((16, 16), bool)).reshape(-1)
    _, code = write(kept, coder, row=64)
    for cut in range(code.size):
        assert read(coder, code[:cut], kept.size, 1024, 64)[0] is not None
    for bit in range(8 * code.size):
        damaged = code.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        reason, bits = read(coder, damaged, kept.size, 1024, 64)
        assert reason is not None or np.unpackbits(bits).sum() == 1024


# Positions that fill and leave words, blocks and vectors of every path.
SHAPES = [(100_003, 50_000), (200_001, 30_000), (300_007, 9_000), (900_000, 9_000), (999_999, 700)]


def all_codes() -> str:
    digest = hashlib.sha256()
    for n, count in SHAPES:
        kept = draw(n, count)
        for coder in FLAT:
            _, code = write(kept, coder)
            digest.update(code.tobytes())
            reason, bits = read(coder, code, n, count)
            assert reason is None
            assert np.array_equal(bits, pack(kept))
    return digest.hexdigest()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_codes_are_the_same_bytes(isa, printed):
    assert printed(isa, "test_bit_code", "t.all_codes()") == all_codes()
