"""The bytes of the format. A change of any of them is a change of the format: give it a number."""

import numpy as np
import pytest

from sparsefl import _codec, codec
from sparsefl.codec.base import Known, Reference, base_fingerprint
from sparsefl.support import Support


def test_fingerprints_of_the_specification():
    kept = Support.from_indices((3, 5), [0, 7, 14])

    assert codec.Schema({"w": ((3, 5), "float32")}).fingerprint == 0x3729510BF698C7E2
    assert kept.digest.hex() == "6eece179e5d9686b72c01279c173c6ca"
    assert base_fingerprint([Reference(0, Known(kept), False)]) == 0xFBC935BD12F1EA8D
    known = Known(kept, np.array([1, -1, 1]))
    assert known.sign_digest.hex() == "f3949f1d38028693d46449c8fe9b7325"
    assert base_fingerprint([Reference(0, known, True)]) == 0xFD6FF6BA00DC065F


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
