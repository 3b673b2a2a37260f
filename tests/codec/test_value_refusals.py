"""What value sections refuse: values without a place in the format, damaged bytes."""

import numpy as np
import pytest
from exact_values import (
    BF16,
    BLOCKED,
    BLOCKS,
    FLOATS,
    FP32,
    INT4,
    INT8,
    PLAIN,
    RANS,
    RAW,
    SEED,
    STREAM,
    TERNARY,
    decoded,
    heavy,
    read,
    scale_of,
    section,
)

from sparsefl.codec import CodecReason

NOT_FINITE = (np.inf, -np.inf, np.nan, -np.nan)


@pytest.mark.isa
@FLOATS
@pytest.mark.parametrize("profile", [PLAIN, RANS])
@pytest.mark.parametrize("rounding", [None, (SEED, STREAM, 0)], ids=["nearest", "random"])
@pytest.mark.parametrize("at", [0, 1, 64, 1099])
def test_what_is_not_finite_is_refused(mode, profile, rounding, at):
    for wrong in NOT_FINITE:
        values = heavy(1100)
        values[at] = wrong
        assert section(mode, values, profile, rounding=rounding) is None


@BLOCKS
def test_values_up_to_the_last_scale(mode):
    most, _, last = BLOCKED[mode]
    largest = np.float32(most * float(scale_of(last)))
    above = np.nextafter(largest, np.float32(np.inf))

    assert decoded(mode, np.array([largest, -largest])).tolist() == [largest, -largest]
    if mode == TERNARY:  # the nearest there is; at random it would have no value above it
        assert decoded(mode, np.array([above])).tolist() == [largest]
        assert section(mode, np.array([above]), rounding=(0, 0, 0)) is None
    else:
        assert section(mode, np.array([1, above], np.float32)) is None


@pytest.mark.parametrize(
    ("bits", "nearest", "random"),
    [(0x7F7F0000, True, True), (0x7F7F0001, True, False), (0x7F7F7FFF, True, False),
     (0x7F7F8000, False, False), (0x7F7FFFFF, False, False)],
)  # fmt: skip
def test_bf16_refuses_what_may_round_to_infinity(bits, nearest, random):
    values = np.array([bits], np.uint32).view(np.float32)

    assert (section(BF16, values) is not None) == nearest
    assert (section(BF16, values, rounding=(0, 0, 0)) is not None) == random


@pytest.mark.parametrize("profile", [PLAIN, RANS])
@pytest.mark.parametrize(("dtype", "name"), [(2, "float64"), (3, "float16")])
def test_raw_floats_that_are_not_finite_are_refused(profile, dtype, name):
    for wrong in NOT_FINITE:
        values = np.ones(500, name)
        values[333] = wrong
        assert section(RAW, values, profile, dtype) is None


@pytest.mark.parametrize("profile", [PLAIN, RANS])
def test_a_bool_is_0_or_1(profile):
    assert section(RAW, np.array([1, 0, 2], np.uint8), profile, 10) is None
    assert read(RAW, 0, b"\x01\x02", 2, 10)[0] is CodecReason.VALUE


@pytest.mark.parametrize(
    ("mode", "data", "reason"),
    [
        (FP32, (0x7F800000).to_bytes(4, "little"), CodecReason.VALUE),
        (BF16, (0xFFC0).to_bytes(2, "little"), CodecReason.VALUE),
        (INT8, b"\x00\x40\x80", CodecReason.VALUE),
        (INT8, b"\x00\x40\x00", CodecReason.VALUE),
        (INT8, b"\x00\x00\x01", CodecReason.VALUE),
        (INT8, b"\x03\xf8\x01", CodecReason.SCALE),
        (INT8, b"\xff\x01\x01", CodecReason.SCALE),
        (INT4, b"\x00\x40\x08", CodecReason.VALUE),
        (INT4, b"\x00\x40\x11", CodecReason.PADDING),
        (INT4, b"\x25\xfc\x01", CodecReason.SCALE),
        (TERNARY, b"\x00\x40\xf3", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\xff", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\x00", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\x03", CodecReason.PADDING),
        (TERNARY, b"\x00\xff\x01", CodecReason.SCALE),
    ],
)
def test_raw_sections_that_are_refused(mode, data, reason):
    assert read(mode, 0, data, 1)[0] is reason


@FLOATS
def test_lengths_and_coders_are_checked(mode):
    _, data = section(mode, heavy(100), PLAIN)

    assert read(mode, 0, data[:-1], 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 0, data + b"\0", 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 1, data, 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 2, data, 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 3, data, 100)[0] is CodecReason.CODER
    assert read(mode, 0, b"", 0)[0] is None
    assert read(mode, 1, b"", 0)[0] is CodecReason.SECTION_LENGTH


# Sixteen fives among zeros, as in FORMAT.md, behind the bytes of a scale of 2.
CLASSED = bytes.fromhex("140000010001000105")
SCALES = b"\x00\x80\x00\x00"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (CLASSED, None),
        (b"\x13" + CLASSED[1:], CodecReason.CODE),
        (b"\x04" + CLASSED[1:], CodecReason.CODE),
        (CLASSED[:3] + b"\x02" + CLASSED[4:], CodecReason.CODE),
        (CLASSED + b"\0", CodecReason.SECTION_LENGTH),
        *((CLASSED[:size], CodecReason.SECTION_LENGTH) for size in range(len(CLASSED))),
    ],
)
def test_classed_codes_that_are_refused(code, reason):
    refusal, values = read(INT8, 2, SCALES + code, 48)

    assert refusal is reason
    if reason is None:
        assert values.view(np.float32).tolist() == [0.0] * 16 + [10.0] * 16 + [0.0] * 16


@pytest.mark.isa
@FLOATS
@pytest.mark.parametrize("coder", [0, 1], ids=["raw", "planes"])
def test_damage_is_refused_or_decodes_to_values_of_the_format(mode, coder):
    values = np.tile(heavy(8) * (np.arange(8) < 2), 64)
    found, data = section(mode, values, RANS if coder else PLAIN)
    assert found == coder

    for size in range(len(data)):
        assert read(mode, coder, data[:size], values.size)[0] is not None
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        reason, back = read(mode, coder, bytes(changed), values.size)
        if reason is None:
            assert np.isfinite(back.view(np.float32)).all()
