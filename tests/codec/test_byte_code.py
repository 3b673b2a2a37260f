"""Byte codes: round trips, size against the entropy, damage, and every instruction set."""

import hashlib

import numpy as np
import pytest

from sparsefl import _codec
from sparsefl.codec.errors import CodecReason

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
    assert len(code) <= 1.003 * entropy_bytes(symbols)


@pytest.mark.parametrize("profile", [PLAIN, RANS], ids=["plain", "rans"])
def test_no_symbols_take_no_bytes_and_one_kind_two(profile):
    assert _codec.byte_code(b"", profile) == b""
    assert _codec.byte_code(b"\x07" * 100, profile) == bytes([REPEATED, 7])
    assert _codec.read_byte_code(bytes([REPEATED, 7]), 3) == (0, 2, b"\x07\x07\x07")


def test_the_plain_profile_writes_no_rans():
    symbols = make("bitmap-.2", 4096).tobytes()

    assert _codec.byte_code(symbols, PLAIN) == bytes([RAW]) + symbols


def test_a_code_ends_by_itself():
    code = _codec.byte_code(make("int8", 5000).tobytes(), RANS)

    assert _codec.read_byte_code(code + b"more", 5000)[:2] == (0, len(code))


@pytest.mark.parametrize("name", [*SOURCES, *OTHERS])
@pytest.mark.parametrize("n", [40, 600, 5000])
def test_no_truncation_is_read(name, n):
    code = _codec.byte_code(make(name, n).tobytes(), RANS)

    for size in range(len(code)):
        assert _codec.read_byte_code(code[:size], n)[0] != 0


def split(code: bytes, table_bytes: int) -> tuple[int, int]:
    """Where the number of words and the states of a code of one lane begin."""
    assert code[0] >> 4 == 0
    return 1 + table_bytes, 4 + table_bytes


def geometric(n: int = 300) -> bytes:
    code = _codec.byte_code(make("heads-.1", n).tobytes(), RANS)
    assert code[0] & 3 == GEOMETRIC
    return code


def patched(code: bytes, at: int, new: bytes) -> bytes:
    return code[:at] + new + code[at + len(new) :]


CODE, PADDING, SECTION_LENGTH = (
    CodecReason[name].value for name in ("CODE", "PADDING", "SECTION_LENGTH")
)
REFUSED = {
    "unknown-head-bit": (lambda c: patched(c, 0, bytes([c[0] | 8])), CODE),
    "lanes-2^7": (lambda c: patched(c, 0, bytes([c[0] | 0x70])), CODE),
    "geometric-without-escape": (lambda c: patched(c, 0, bytes([c[0] & ~4])), CODE),
    "unknown-class": (lambda c: patched(c, 1, bytes([56])), CODE),
    "words-past-the-end": (lambda c: patched(c, 2, b"\xff\xff\xff"), SECTION_LENGTH),
    "a-word-left-over": (
        lambda c: c[:2] + (int.from_bytes(c[2:5], "little") + 1).to_bytes(3, "little") + c[5:] + c,
        CODE,
    ),
    "a-word-missing": (
        lambda c: c[:2] + (int.from_bytes(c[2:5], "little") - 1).to_bytes(3, "little") + c[5:],
        CODE,
    ),
    "state-below-2^16": (lambda c: patched(c, 5, b"\xff\xff\x00\x00"), CODE),
    "other-end-state": (lambda c: patched(c, 5, bytes([c[5] ^ 1])), CODE),
    "raw-too-short": (lambda c: bytes([RAW]) + c, SECTION_LENGTH),
    "raw-with-a-lane": (lambda c: bytes([0x10]) + bytes(300), CODE),
    "nothing": (lambda c: b"", SECTION_LENGTH),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_code_is_refused(name):
    change, reason = REFUSED[name]

    assert _codec.read_byte_code(change(geometric()), 300)[0] == reason


TABLES = {
    "sum-not-4096": (bytes([0, 0, 1, 0x03]), CODE),
    "padding": (bytes([0, 0, 1, 0xFF]), PADDING),
    "unknown-form": (bytes([16, 0, 0, 0xFF]), CODE),
    "too-long-a-number": (bytes([0, 0, 0]) + bytes(40), SECTION_LENGTH),
    "ends-within": (bytes([0, 0, 200, 0x10]), SECTION_LENGTH),
    "no-head": (b"", SECTION_LENGTH),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_refused(name):
    table, reason = TABLES[name]

    assert _codec.read_byte_code(bytes([TABLE]) + table, 100)[0] == reason


def digest() -> str:
    """A hash of codes, each of which this process reads back."""
    out = hashlib.sha256()
    for name in (*SOURCES, *OTHERS):
        for n in (33, 997, 65_537, 262_144 + 45):
            symbols = make(name, n)
            code = _codec.byte_code(symbols.tobytes(), RANS)
            np.testing.assert_array_equal(read(code, n), symbols)
            out.update(code)
    return out.hexdigest()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_codes_are_the_same_bytes_on_every_instruction_set(isa, printed):
    assert printed(isa, "test_byte_code", "t.digest()") == digest()
