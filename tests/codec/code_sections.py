"""Sections of messages, written piece by piece."""

import numpy as np
from plain_byte_code import TABLE

from sparsefl import _codec

BITMAP, RICE, RANS_BYTES, RANS_GAPS, ROWS, TILES = range(6)
PLAIN, RANS = range(2)
# Changes of a base that keeps 40 of 100 positions: 3 dropped and 5 added make 42.
THEIRS = np.arange(100) % 5 < 2
DROPS, ADDS = np.isin(np.arange(40), [0, 7, 39]), np.isin(np.arange(60), [1, 2, 30, 58, 59])


def u16(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "little") for number in numbers)


def u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def patched(code: bytes, at: int, new: bytes) -> bytes:
    return code[:at] + new + code[at + len(new) :]


def draw(n: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def bit_code(coder: int, kept: np.ndarray, row: int = 0, profile: int = RANS) -> bytes:
    bits = np.packbits(kept, bitorder="little")
    return _codec.bit_code(bits, kept.size, int(kept.sum()), row, profile, coder)[1].tobytes()


def table_code(table: bytes, words: bytes, lanes_log2: int = 0, escape: bool = False) -> bytes:
    return bytes([TABLE | escape << 2 | lanes_log2 << 4]) + table + words
