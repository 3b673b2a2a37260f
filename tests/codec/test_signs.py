"""Signs of float32 as bits, and back: equal to numpy's, for every instruction set."""

import numpy as np
import pytest
import torch

from sparsefl import _codec, codec

SIZES = [0, 1, 7, 8, 15, 16, 63, 64, 65, 127, 128, 129, 255, 1021, 4099]
TINY = np.float32(1e-45)


def draw(n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    special = np.array([0.0, -0.0, TINY, -TINY, np.inf, -np.inf, 3e38, -3e38], np.float32)
    x[::3] = np.resize(special, x[::3].size)
    return x


@pytest.mark.parametrize("n", SIZES)
def test_packed_signs_are_those_of_numpy(n, isa_name):
    x, bits = draw(n), np.full((n + 7) // 8, 0xA5, np.uint8)

    assert _codec.pack_signs(x, bits, isa_name)

    assert np.array_equal(bits, np.packbits(x < 0, bitorder="little"))


@pytest.mark.parametrize("at", [0, 5, 64, 127, 128, 129])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_found_wherever_it_lies(at, sign, isa_name):
    x = np.ones(130, np.float32)
    x[at] = np.copysign(np.float32(np.nan), np.float32(sign))

    assert not _codec.pack_signs(x, np.empty(17, np.uint8), isa_name)


@pytest.mark.parametrize("offset", [0, 1, 3, 15], ids="offset={}".format)
@pytest.mark.parametrize("n", SIZES)
def test_unpacked_signs_are_those_of_numpy(n, offset, isa_name):
    bits = np.packbits(draw(n) < 0, bitorder="little")
    room = np.full(n + 32, np.nan, np.float32)
    out = room[offset : offset + n]

    _codec.unpack_signs(bits, 0.75, out, isa_name)

    assert np.array_equal(out, np.where(draw(n) < 0, np.float32(-0.75), np.float32(0.75)))
    assert np.isnan(room[:offset]).all()
    assert np.isnan(room[offset + n :]).all()


@pytest.mark.parametrize("offset", [0, 7], ids="offset={}".format)
def test_outputs_beyond_the_caches_are_written_to_the_last(offset, isa_name):
    n = (2 << 20) + 77
    bits = np.random.default_rng(0).integers(0, 256, (n + 7) // 8, dtype=np.uint8)
    bits[-1] &= (1 << n % 8) - 1
    room = np.full(n + 16, np.nan, np.float32)
    out = room[offset : offset + n]

    _codec.unpack_signs(bits, 2.0, out, isa_name)

    signs = 1 - 2 * np.unpackbits(bits, count=n, bitorder="little").astype(np.float32)
    assert np.array_equal(out, 2 * signs)
    assert np.isnan(room[offset + n :]).all()


def test_signs_survive_the_round_trip_of_a_tensor():
    x = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))

    back = codec.unpack_signs(codec.pack_signs(x), x.numel())

    assert np.array_equal(back.reshape(x.shape), np.sign(x.numpy()))


def test_denormals_keep_their_sign_where_the_process_flushes_them():
    assert torch.set_flush_denormal(True)
    try:
        assert codec.pack_signs(np.array([-TINY, TINY], np.float32)) == [1]
    finally:
        torch.set_flush_denormal(False)


def test_a_transposed_tensor_is_read_row_major():
    x = draw(35).reshape(5, 7).T

    assert np.array_equal(codec.pack_signs(x), np.packbits(x < 0, bitorder="little"))


def test_given_memory_is_written():
    bits, out = np.empty(2, np.uint8), np.empty(9, np.float32)

    assert codec.pack_signs(-np.ones(9, np.float32), out=bits) is bits
    assert codec.unpack_signs(bits, 9, out=out) is out
    assert (out == -1).all()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: codec.pack_signs(np.ones(3)), TypeError, "x must be float32, got float64"),
        (lambda: codec.pack_signs([1.0]), TypeError, "x must be a numpy array"),
        (lambda: codec.pack_signs(np.full(3, np.nan, np.float32)), ValueError, "x has a NaN"),
        (
            lambda: codec.pack_signs(np.ones(9, np.float32), np.empty(1, np.uint8)),
            ValueError,
            r"out must be \[2\], got \[1\]",
        ),
        (
            lambda: codec.unpack_signs(np.zeros(1, np.uint8), 8, out=np.empty(8)),
            TypeError,
            "out must be an array of float32, got float64",
        ),
        (
            lambda: codec.unpack_signs(np.zeros(1, np.uint8), 8, out=np.empty(16, "f4")[::2]),
            ValueError,
            "out must be contiguous",
        ),
        (lambda: codec.unpack_signs(np.zeros(1, np.uint8), 9), ValueError, r"bits must be \[2\]"),
        (lambda: codec.unpack_signs(np.ones(1, np.uint8), 0), ValueError, r"bits must be \[0\]"),
        (lambda: codec.unpack_signs(np.zeros(1, np.uint8), 8, 1e39), ValueError, "scale must be"),
        (
            lambda: codec.unpack_signs(np.zeros(1, np.uint8), 8, float("nan")),
            ValueError,
            "scale must be finite",
        ),
    ],
    ids=[
        *("float64", "list", "nan", "bits too short", "out dtype", "strided out"),
        *("too few bits", "too many bits", "scale too large", "scale nan"),
    ],
)
def test_bad_arguments_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
