"""Byte codes: round trips, size against the entropy, damage, and every instruction set."""

import numpy as np
import pytest

from sparsefl import _codec

RAW, REPEATED, TABLE, GEOMETRIC = range(4)
SIZES = [0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 997, 4095, 4097, 65_537, 262_144]
PLAIN, RANS = 0, 1


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / symbols.size
    return float(-symbols.size * (shares * np.log2(shares)).sum() / 8)


def bitmap(random: np.random.Generator, n: int, density: float) -> np.ndarray:
    return np.packbits(random.random(8 * n) < density, bitorder="little")


def block_scaled(random: np.random.Generator, n: int, block: int, most: int) -> np.ndarray:
    values = random.standard_t(3, -(-n // block) * block).reshape(-1, block)
    scaled = np.rint(values / abs(values).max(axis=1, keepdims=True) * most)
    return scaled.astype(np.int8).reshape(-1)[:n]


def int4_pairs(random: np.random.Generator, n: int) -> np.ndarray:
    nibbles = block_scaled(random, 2 * n, 64, 7).view(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4


def trits(random: np.random.Generator, n: int) -> np.ndarray:
    digits = random.choice(3, size=(n, 5), p=[0.6, 0.2, 0.2])
    return (digits @ 3 ** np.arange(5)).astype(np.uint8)


def exponents(random: np.random.Generator, n: int) -> np.ndarray:
    bits = random.standard_t(3, n).astype(np.float32).view(np.uint32)
    return (bits >> 23).astype(np.uint8)


def heads(random: np.random.Generator, n: int, density: float, low_bits: int) -> np.ndarray:
    high = (random.geometric(density, n) - 1) >> low_bits
    places = np.cumsum(high // 64 + 1)
    out = np.full(places[-1] if n else 0, 64, np.uint8)
    out[places - 1] = high % 64
    return out[:n]


SOURCES = {
    "int8": lambda random, n: block_scaled(random, n, 1024, 127).view(np.uint8),
    "int4-pairs": int4_pairs,
    "trits": trits,
    "exponents": exponents,
    "bitmap-.2": lambda random, n: bitmap(random, n, 0.2),
    "bitmap-.3": lambda random, n: bitmap(random, n, 0.3),
    "heads-.1": lambda random, n: heads(random, n, 0.1, 1),
    "heads-.01": lambda random, n: heads(random, n, 0.01, 4),
}
OTHERS = {
    "even": lambda random, n: random.integers(0, 256, n).astype(np.uint8),
    "two": lambda random, n: (random.random(n) < 0.001).astype(np.uint8) * 255,
    "rare": lambda random, n: np.where(random.random(n) < 2e-4, random.integers(0, 256, n), 7),
    "all-but-rare": lambda random, n: np.minimum(random.geometric(0.03, n), 255),
}


def make(name: str, n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return ({**SOURCES, **OTHERS}[name](random, n)).astype(np.uint8)


def read(code: bytes, n: int) -> np.ndarray:
    reason, used, symbols = _codec.read_byte_code(code, n)
    assert (reason, used) == (0, len(code))
    return np.frombuffer(symbols, np.uint8)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", [*SOURCES, *OTHERS])
def test_symbols_come_back(name, n):
    symbols = make(name, n)

    code = _codec.byte_code(symbols.tobytes(), RANS)

    np.testing.assert_array_equal(read(code, n), symbols)
    assert len(code) <= n + 1


@pytest.mark.parametrize("name", SOURCES)
def test_codes_of_2_18_symbols_take_their_entropy(name):
    symbols = make(name, 1 << 18)

    code = _codec.byte_code(symbols.tobytes(), RANS)

    # Tables, states and number of words included.
    assert len(code) <= 1.0021 * entropy_bytes(symbols)
