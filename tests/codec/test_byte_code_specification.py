"""A second decoder of byte codes, written from FORMAT.md alone."""

import numpy as np
import pytest
from test_byte_code import OTHERS, SOURCES, make

from sparsefl import _codec

VECTORS = {
    "table": (
        bytes([0] * 40 + [1] * 20 + [2, 255] * 5),
        "0200ff03004d0027049611bc190600005360a80513c752b2263d49ecf9bd283e",
    ),
    "geometric": (
        bytes([0, 0, 1, 0, 3, 0, 0, 2, 1, 0, 0, 64, 0, 1, 0, 0] * 2),
        "072106000016700a00f0c408e4db4211a05b16acf20140",
    ),
}
ROOTS = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)


class Bits:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, width: int) -> int:
        value = int.from_bytes(self.data, "little") >> self.at & ((1 << width) - 1)
        self.at += width
        return value

    def golomb(self, order: int) -> int:
        zeros = 0
        while self.take(1) == 0:
            zeros += 1
        high = (1 << zeros) + self.take(zeros)
        return ((high - 1) << order) + self.take(order)


def guess(f: list[int], base: int, s: int) -> int:
    power = 1
    while power * base <= s:
        power *= base
    low = s % power
    if low == 0:
        return f[s - 1 if power == 1 else s // base]
    none = max(1, f[0])
    return min(4096, (f[low] * f[s - low] + none // 2) // none)


def read_table(data: bytes, escape: bool) -> tuple[list[int], int, int]:
    base, sharpness = (0, 2, 3, 16)[data[0] & 3], data[0] >> 2
    fixed = 3 if base == 0 else 2
    first, count = (data[1] if base == 0 else 0), data[fixed - 1] + 1
    bits = Bits(data[fixed : fixed + 700])
    escaped = bits.golomb(5) if escape else 0
    f, before = [0] * 256, 0
    for i in range(count):
        s = (first + i) % 256
        e = before if base == 0 or s == 0 else guess(f, base, s)
        z = bits.golomb(max(0, e.bit_length() // 2 - sharpness))
        f[s] = z if z > 2 * e else e + z // 2 if z % 2 == 0 else e - (z + 1) // 2
        before = f[s]
    place = f.index(0) if escape else -1
    if escape:
        f[place] = escaped
    return f, place, fixed + -(-bits.at // 8)


def class_table(index: int) -> tuple[list[int], int]:
    mean = ROOTS[index % 8] << (index // 8)
    ratio = (mean << 32) // (mean + (1 << 18))
    f, left, here = [0] * 256, 1 << 32, 4096
    for s in range(65):
        left = left * ratio >> 32
        following = (left + (1 << 19)) >> 20
        if s == 64 or following in (0, here):
            f[s] = here
            return f, s
        f[s] = here - following
        here = following
    raise AssertionError


def read_byte_code(data: bytes, n: int) -> tuple[list[int], int]:
    """Returns the symbols and the length of the code that the data begin with."""
    if n == 0:
        return [], 0
    head = data[0]
    if head & 3 == 0:
        return list(data[1 : 1 + n]), 1 + n
    if head & 3 == 1:
        return [data[1]] * n, 2
    escape, lanes = head >> 2 & 1, 1 << (head >> 4)
    streams = 2 if lanes == 64 else 1
    if head & 3 == 2:
        f, place, used = read_table(data[1:], bool(escape))
    else:
        (f, place), used = class_table(data[1]), 1
    assert sum(f) == 4096
    slots = [(s, i) for s in range(256) for i in range(f[s])]
    at = 1 + used
    counts = [int.from_bytes(data[at + 3 * h : at + 3 * h + 3], "little") for h in range(streams)]
    at += 3 * streams
    states = np.frombuffer(data, "<u4", lanes, at).tolist()
    at += 4 * lanes
    words = []
    for count in counts:
        words.append(iter(np.frombuffer(data, "<u2", count, at).tolist()))
        at += 2 * count
    symbols = []
    for i in range(n):
        lane = i % lanes
        x = states[lane]
        s, place_in = slots[x % 4096]
        symbols.append(s)
        x = f[s] * (x >> 12) + place_in
        states[lane] = x << 16 | next(words[lane // 32]) if x < 1 << 16 else x
    assert states == [1 << 16] * lanes
    assert all(next(stream, None) is None for stream in words)
    if escape:
        found, more = read_byte_code(data[at:], symbols.count(place))
        listed = iter(found)
        symbols = [next(listed) if s == place else s for s in symbols]
        at += more
    return symbols, at


@pytest.mark.parametrize("n", [1, 5, 300, 5000, 70_000, 150_001])
@pytest.mark.parametrize("name", [*SOURCES, *OTHERS])
def test_second_decoder_reads_the_codes(name, n):
    symbols = make(name, n).tobytes()
    code = _codec.byte_code(symbols, 1)

    assert read_byte_code(code + b"more", n) == (list(symbols), len(code))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_the_specification(name):
    symbols, code = VECTORS[name][0], bytes.fromhex(VECTORS[name][1])

    assert _codec.byte_code(symbols, 1) == code
    assert read_byte_code(code, len(symbols)) == (list(symbols), len(code))
