"""Integers with a scale a block, against float64 and the definition of FORMAT.md."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefl import codec

# What the format calls int8 and int4: largest integer, block, last scale.
FORMATS = {"int8": (127, 1024, 0xF802), "int4": (7, 64, 0xFC24)}
BOTH = pytest.mark.parametrize("value_format", FORMATS)
LARGEST = float(np.finfo(np.float32).max)


def scale_of(numbers):
    return (np.asarray(numbers, np.uint32) << 15).view(np.float32).astype(np.float64)


def round_trip(values, value_format):
    schema = codec.Schema({"w": (values.shape, "float32")})
    update = codec.Update({"w": codec.Dense(values)})
    return codec.decode(codec.encode(update, schema, {"w": value_format}), schema)["w"].values


def expected(values, value_format):
    """Returns what is decoded, and half the scale of each value."""
    most, block, last = FORMATS[value_format]
    scales = scale_of(np.arange(0x0200, last + 1))
    result, halves = [], []
    for begin in range(0, values.size, block):
        part = values[begin : begin + block].astype(np.float64)
        largest = np.abs(part).max()
        scale = scales[np.searchsorted(most * scales, largest)] if largest > 2.0**-126 else 0.0
        result.append(np.rint(part / scale) * scale + 0.0 if scale else part * 0 + 0.0)
        halves.append(np.full(part.size, max(scale / 2, 2.0**-126)))
    return np.concatenate(result).astype(np.float32), np.concatenate(halves)


def assert_as_defined(values, value_format):
    back = round_trip(values, value_format)
    wanted, half = expected(values, value_format)

    assert np.array_equal(back.view(np.uint32), wanted.view(np.uint32))
    assert np.array_equal(round_trip(back, value_format), back)
    assert np.all(np.abs(values.astype(np.float64) - back) <= half)


def ordinary(random):
    return random.standard_normal(5000)


def heavy_tailed(random):
    return random.standard_t(1.2, 3000) * 1e-3


def of_every_exponent(random):
    return np.ldexp(random.random(4000) - 0.5, random.integers(-149, 126, 4000))


def of_one_exponent_a_block(random):
    return np.ldexp(
        random.random((60, 1024)) - 0.5, np.linspace(-150, 126, 60)[:, None].astype(int)
    )


def around_the_smallest_scale(random):
    return np.ldexp(random.integers(-256, 257, (9, 1024)), -126 - np.arange(9)[:, None])


def subnormal(random):
    return random.integers(-(2**23), 2**23, 700) * 2.0**-149


def mostly_zero(random):
    return np.where(random.random(4000) < 0.999, -0.0, 1.0)


@BOTH
@pytest.mark.isa
@pytest.mark.parametrize(
    "draw",
    [
        ordinary,
        heavy_tailed,
        of_every_exponent,
        of_one_exponent_a_block,
        around_the_smallest_scale,
        subnormal,
        mostly_zero,
    ],
    ids=lambda draw: draw.__name__,
)
def test_blocks_are_as_defined(value_format, draw):
    assert_as_defined(draw(np.random.default_rng(7)).reshape(-1).astype(np.float32), value_format)


@BOTH
@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=200))
def test_any_floats_are_as_defined(value_format, values):
    assert_as_defined(np.array(values, np.float32), value_format)


@BOTH
def test_ties_go_to_even(value_format):
    most, block, _ = FORMATS[value_format]
    halves = np.arange(-2 * most, 2 * most + 1, dtype=np.float32) / 2  # the scale is 1
    values = np.resize(halves, -(-halves.size // block) * block)
    values[::block] = most

    assert np.array_equal(round_trip(values, value_format), np.rint(values))


@BOTH
@pytest.mark.parametrize("size", [1, 2, 31, 63, 64, 65, 255, 257, 1023, 1024, 1025, 4099])
def test_awkward_lengths(value_format, size):
    assert_as_defined(np.random.default_rng(size).random(size).astype(np.float32), value_format)


@BOTH
def test_blocks_do_not_touch_each_other(value_format):
    block = FORMATS[value_format][1]
    values = np.zeros(3 * block, np.float32)
    values[block - 1], values[block] = 1e30, 1e-30

    back = round_trip(values, value_format)

    assert back[block] == pytest.approx(1e-30, rel=2**-8)
    assert not back[2 * block :].any()


@BOTH
def test_values_up_to_the_last_scale(value_format):
    most, _, last = FORMATS[value_format]
    largest = np.float32(most * scale_of(last))

    assert round_trip(np.array([largest, -largest]), value_format).tolist() == [largest, -largest]
    for value in (np.nextafter(largest, np.float32(np.inf)), LARGEST, np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="'w': values must be finite and at most 3"):
            round_trip(np.array([1.0, value], np.float32), value_format)


@BOTH
def test_flushing_subnormals_changes_nothing(value_format):
    random = np.random.default_rng(3)
    values = np.concatenate([subnormal(random), of_every_exponent(random)]).astype(np.float32)
    plain = round_trip(values, value_format)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormals")
    try:
        flushed = round_trip(values, value_format)
    finally:
        torch.set_flush_denormal(False)

    assert np.array_equal(flushed.view(np.uint32), plain.view(np.uint32))


@BOTH
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_floating_dtypes(value_format, dtype):
    schema = codec.Schema({"w": ((3,), dtype)})
    tensor = torch.tensor([0.5, -1.0, 0.25]).to(getattr(torch, dtype))
    update = codec.Update({"w": codec.Dense(tensor)})

    back = codec.decode(codec.encode(update, schema, {"w": value_format}), schema)["w"].values

    assert back.dtype == np.float32
    assert np.abs(back - tensor.float().numpy()).max() <= 0.5 / FORMATS[value_format][0]


def test_one_format_for_all_leaves_vectors_as_they_are():
    """Norms and biases are few, and what they scale is not."""
    schema = codec.Schema({"w": ((3, 4), "float32"), "b": ((3,), "float32")})
    values = np.array([1.0, 1e-3, 1e-6], np.float32)
    update = codec.Update({"w": codec.Dense(np.ones((3, 4), np.float32)), "b": codec.Dense(values)})

    for value_format in FORMATS:
        back = codec.decode(codec.encode(update, schema, value_format), schema)["b"].values
        assert np.array_equal(back, values)
        named = {"w": value_format, "b": value_format}
        back = codec.decode(codec.encode(update, schema, named), schema)["b"].values
        assert back[2] == 0.0
