"""Who reads FORMAT.md alone regenerates the tensors that a seed stands for, bit for bit."""

import hashlib
import pathlib
import re

import numpy as np
import pytest

from sparsefl import random

FORMAT = pathlib.Path(__file__).parents[2] / "sparsefl" / "codec" / "FORMAT.md"
MASK = 2**32 - 1


def coefficients():
    """Returns C[o][k] as the specification lists it."""
    listed = FORMAT.read_text().split("`C[o][k]`, a row an `o`")[1].split("Test vectors")[0]
    rows = [[int(n) for n in line.split()] for line in re.findall(r"^ {4}(.*)$", listed, re.M)]
    assert [len(row) for row in rows] == [9] * 32
    return rows


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & MASK, p >> 32 ^ c[3] ^ k[1], p & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def word(seed, name, i):
    g, w, b = i // 64, i % 64 // 16, i % 16
    block = 16 * g + b
    stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    counter = (block & MASK, block >> 32, stream & MASK, stream >> 32)
    return philox(counter, (seed & MASK, seed >> 32))[w]


def quantile(u, c):
    t = 2 * min(u, MASK - u) + 1
    o = 32 - t.bit_length()
    s = (t << (o + 1)) % 2**32 - 2**31
    z = c[o][8]
    for k in range(7, -1, -1):
        z = c[o][k] + (z * s >> 32)
    z = (z + 64) >> 7
    return z if u >= 2**31 else -z


@pytest.mark.parametrize(
    ("seed", "name", "std"),
    [(7, "weight", 0.05), (2**64 - 1, "features.0.wéight", 1.7), (2**33 + 5, "", 2.0**-100)],
)
def test_seeds_are_what_the_specification_says(seed, name, std):
    positions = [*range(0, 70), 1023, 1024]
    c = coefficients()

    words = [word(seed, name, i) for i in positions]
    units = np.array([quantile(u, c) for u in words]).astype(np.float32)
    normals = units * (np.float32(std) * np.float32(2.0**-21))

    assert random.uniform_bits(seed, name, 1025)[positions].tolist() == words
    mine = random.normal(seed, name, 1025, std)[positions]
    assert np.array_equal(mine.view(np.uint32), normals.view(np.uint32))


def test_vectors_of_the_specification():
    text = FORMAT.read_text().split("Test vectors: of seed 7")[1].split("\n")[0]
    numbers = [int(n, 16) for n in re.findall(r"0x([0-9A-F]{8})", text)]

    assert numbers[:4] == random.uniform_bits(7, "weight", 4).tolist()
    assert numbers[4:] == random.normal(7, "weight", 4, 0.05).view(np.uint32).tolist()


def test_bound_of_the_specification():
    bound = int(re.search(r"it lies within \+-(\d+)\.", FORMAT.read_text()).group(1))

    assert quantile(MASK, coefficients()) == bound
