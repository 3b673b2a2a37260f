"""Every instruction set writes the same bytes; the choice is made once a process."""

import hashlib
import os

import numpy as np
import pytest

from sparsefl import _codec, codec
from sparsefl.support import Support


def message():
    shape = (301, 997)
    random = np.random.default_rng(3)
    support = Support.random(shape, 0.3, seed=1)
    values = random.standard_normal(support.nnz).astype(np.float32)
    names = ("fp32", "bf16", "int8", "int4", "sign", "flips")
    schema = codec.Schema(dict.fromkeys(names, (shape, "float32")))
    signs = np.where(values < 0, -1, 1).astype(np.int8)
    coded = Support.random(shape, 0.02, seed=2)
    update = codec.Update(
        {
            "fp32": codec.Sparse(support, values),
            "bf16": codec.Sparse(support, values),
            "int8": codec.Sparse(support, values),
            "int4": codec.Sparse(coded, values[: coded.nnz]),
            "sign": codec.Signs(support, signs),
            "flips": codec.Signs(support, np.where(np.abs(values) > 2, -signs, signs)),
        }
    )
    base = {"flips": codec.Signs(support, signs)}
    data = codec.encode(update, schema, {name: name for name in names[:4]}, base)
    back = codec.decode(data, schema, base)
    assert (back["fp32"], back["flips"]) == (update["fp32"], update["flips"])
    return data + back["int8"].values.tobytes() + back["int4"].values.tobytes()


def digest():
    return hashlib.sha256(message()).hexdigest()


# The widest gaps of a support; of 65,536 and more they need more than 16 bits.
WIDEST = (2, 9, 60, 1000, 8000, 16_000, 30_000, 65_535, 65_536, 200_000)


def gap_codes():
    """Supports of gaps that ask for every parameter, at lengths that fill no vector: all bytes."""
    random = np.random.default_rng(4)
    codes = hashlib.sha256()
    for widest in WIDEST:
        for count in (1, 7, 15, 16, 17, 4097):
            gaps = random.integers(0, widest + 1, count)
            places = np.cumsum(gaps + 1) - 1
            n = min(int(places[-1]) + 1 + int(random.integers(0, 70)), 2**22)
            support = Support.from_indices((n,), places[places < n])
            for rans in (False, True):
                data = codec.encode_support(support, rans=rans)
                assert codec.decode_support(data, (n,)) == support
                codes.update(data)
    return codes.hexdigest()


def digest_and_path():
    return f"{digest()} {_codec.crc32c_path()}"


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_messages_are_the_same_bytes(isa, printed):
    found, path = printed(isa, "test_instruction_sets", "t.digest_and_path()").split()

    assert found == digest()
    assert (path == "table") == (isa == "scalar" and "aarch64" not in os.uname().machine)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_codes_of_gaps_are_the_same_bytes(isa, printed):
    assert printed(isa, "test_instruction_sets", "t.gap_codes()") == gap_codes()
