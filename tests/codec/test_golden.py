"""The bytes of version 1.0. A change of any of them is a change of the format: give it a number."""

import numpy as np
import pytest

from sparsefl import _codec, codec
from sparsefl.codec.plan import base_fingerprint
from sparsefl.support import Support

EVERY_MODE = bytes.fromhex(
    "895350464c0d0a1a0100000000000000880100000000000016ff3d4fd482157e"
    "3ac3f3645d56d1a6030000000700000006000000000000000ccbebf800000000"
    "0000000002020010000000000000000003000000000000000100000001010010"
    "010000000000803e0a0000000000000002000000000300100000000000000000"
    "030000000000000003000000080000000000000000000000efcdab8967452301"
    "0400000000070010000000000000000001000000000000000500000000070010"
    "0000000000000000030000000000000006000000020000100000000000000000"
    "0a00000000000000020000000c00000003000000d55aa63f0000000002000000"
    "0a0000000b584bf5000000000600000003000000ef7355ce0000000008000000"
    "01000000e0365b01000000000300000003000000b4a4242a0300000000000000"
    "0a000000cbc64b9e81400000000000000000c03f000000800100000000000000"
    "4602000000000000803f00c0003f0000feffffffffffffff0100010000000000"
    "2ee1030000000000"
)


def test_every_mode(sample):
    assert sample.encode() == EVERY_MODE


def test_every_mode_reads_back(sample):
    assert sample.decode(EVERY_MODE) == sample.update


def test_a_support_alone():
    data = codec.encode_support(Support.from_indices((3, 5), [0, 7, 14]))

    assert data == bytes.fromhex(
        "895350464c0d0a1a010000000000000070000000000000006be29f53a43aacf7"
        "000000000000000000000000010000000100000000000000b0c5df9500000000"
        "0000000002000010000000000000000003000000000000000200000000000000"
        "03000000b35ea28b8140000000000000"
    )


def test_fingerprints_of_the_specification():
    kept = Support.from_indices((3, 5), [0, 7, 14])

    assert codec.Schema({"w": ((3, 5), "float32")}).fingerprint == 0x3729510BF698C7E2
    assert kept.digest.hex() == "6eece179e5d9686b72c01279c173c6ca"
    assert base_fingerprint([(0, kept)]) == 0xFBC935BD12F1EA8D


def crc32c_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_known_answer():
    assert _codec.crc32c(b"123456789") == 0xE3069283


# The instruction joins three lanes of 1024 bytes.
@pytest.mark.isa
@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 3071, 3072, 3073, 6151, 10007])
def test_crc32c_matches_its_definition(size):
    data = np.random.default_rng(size).bytes(size)

    assert _codec.crc32c(data) == crc32c_bit_by_bit(data)
