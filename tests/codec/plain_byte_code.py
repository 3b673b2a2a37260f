"""Byte codes read and written from FORMAT.md alone, as plainly as can be.

The reader believes what it reads; the writer writes what it is told, so that tests may say
anything.
"""

import itertools
import struct

import numpy as np

RAW, REPEATED, TABLE, GEOMETRIC = range(4)
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


def few_lanes(f: list[int], states: np.ndarray, words: list[np.ndarray], n: int) -> list[int]:
    slots = [(s, i) for s in range(256) for i in range(f[s])]
    x, (stream,) = states.tolist(), map(iter, words)
    symbols = []
    for i in range(n):
        lane = i % len(x)
        s, place = slots[x[lane] % 4096]
        symbols.append(s)
        x[lane] = f[s] * (x[lane] >> 12) + place
        if x[lane] < 1 << 16:
            x[lane] = x[lane] << 16 | int(next(stream))
    assert x == [1 << 16] * len(x)
    assert next(stream, None) is None
    return symbols


def many_lanes(f: list[int], x: np.ndarray, words: list[np.ndarray], n: int) -> list[int]:
    """As few_lanes, one symbol of each lane at a time."""
    symbol = np.repeat(np.arange(256), f)
    frequency = np.repeat(f, f)
    place = np.arange(4096) - np.searchsorted(symbol, symbol)
    taken = [0] * len(words)
    symbols = []
    for begin in range(0, n, x.size):
        now = x[: n - begin]
        slot = now & 4095
        symbols.append(symbol[slot])
        now[:] = frequency[slot] * (now >> 12) + place[slot]
        for h, stream in enumerate(words):
            wanting = np.flatnonzero(now[32 * h : 32 * h + 32] < 1 << 16) + 32 * h
            given = stream[taken[h] : taken[h] + wanting.size]
            now[wanting] = now[wanting] << 16 | given
            taken[h] += wanting.size
    assert (x == 1 << 16).all()
    assert taken == [stream.size for stream in words]
    return np.concatenate(symbols).tolist()


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
    at = 1 + used
    counts = [int.from_bytes(data[at + 3 * h : at + 3 * h + 3], "little") for h in range(streams)]
    at += 3 * streams
    states = np.frombuffer(data, "<u4", lanes, at).astype(np.int64)
    at += 4 * lanes
    words = []
    for count in counts:
        words.append(np.frombuffer(data, "<u2", count, at).astype(np.int64))
        at += 2 * count
    symbols = (few_lanes if lanes < 32 else many_lanes)(f, states, words, n)
    if escape:
        found, more = read_byte_code(data[at:], symbols.count(place))
        listed = iter(found)
        symbols = [next(listed) if s == place else s for s in symbols]
        at += more
    return symbols, at


def golomb(number: int, order: int) -> str:
    """Returns the bits of G(order), the first first."""
    high = (number >> order) + 1
    zeros = high.bit_length() - 1
    fields = ((high - (1 << zeros), zeros), (number & ((1 << order) - 1), order))
    return "0" * zeros + "1" + "".join(f"{v:0{w}b}"[::-1] for v, w in fields if w)


def bytes_of(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def write_table(stated: list[int], first: int = 0, escape: int | None = None) -> bytes:
    """Returns the table of base 0 and t = 0 that states frequencies from a symbol on."""
    bits = "" if escape is None else golomb(escape, 5)
    for f, e in zip(stated, [0, *stated], strict=False):
        z = f if f > 2 * e else 2 * (f - e) if f >= e else 2 * (e - f) - 1
        bits += golomb(z, e.bit_length() // 2)
    return bytes([0, first, len(stated) - 1]) + bytes_of(bits)


def write_words(symbols: bytes, f: list[int], lanes: int = 1) -> bytes:
    """Returns numbers of words, states and words."""
    starts = [0, *itertools.accumulate(f)]
    states = [1 << 16] * lanes
    streams: list[list[int]] = [[] for _ in range(1 if lanes < 64 else 2)]
    for i in reversed(range(len(symbols))):
        s, lane = symbols[i], i % lanes
        x = states[lane]
        if x >= f[s] << 20:
            streams[lane // 32].append(x & 0xFFFF)
            x >>= 16
        states[lane] = 4096 * (x // f[s]) + x % f[s] + starts[s]
    counts = b"".join(len(words).to_bytes(3, "little") for words in streams)
    words = b"".join(struct.pack(f"<{len(w)}H", *reversed(w)) for w in streams)
    return counts + struct.pack(f"<{lanes}I", *states) + words
