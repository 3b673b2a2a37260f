"""Every refusal of byte codes and of bit codes, as a reader of whole messages sees it.

A message of one tensor gets another section in place of its own, behind right checksums.
"""

import functools

import numpy as np
import pytest
import test_byte_code
from code_sections import (
    ADDS,
    BITMAP,
    DROPS,
    RANS,
    RANS_BYTES,
    RANS_GAPS,
    RICE,
    ROWS,
    TILES,
    bit_code,
    patched,
    table_code,
    u16,
    u24,
)
from plain_byte_code import GEOMETRIC, write_table, write_words
from test_byte_code import make

from sparsefl import _codec, codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

CODE, CODER, COUNT, SECTION_LENGTH, PADDING, VALUE = (
    CodecReason[name] for name in ("CODE", "CODER", "COUNT", "SECTION_LENGTH", "PADDING", "VALUE")
)


@pytest.fixture
def refusal(forge):
    """A function that gives the reason why a message with another support section is refused."""

    def decode(coder, section, shape, count, profile=RANS):
        schema = codec.Schema({"w": (shape, "bool")})
        kept = Support.from_indices(shape, np.arange(count))
        data = codec.encode(codec.Update({"w": codec.SupportOnly(kept)}), schema)
        forgery = forge(data).put("I", 52, profile).sections(0, section).coders(0, coder, 0)
        with pytest.raises(codec.CodecError) as error:
            codec.decode(forgery.sealed(), schema)
        assert error.value.where == 0
        return error.value.reason

    return decode


# Byte codes, here those of the bytes of a bitmap.

FREQUENCIES = [2000, 1000, 500, 300, 200, 96]
F = FREQUENCIES + [0] * 250
SYMBOLS = bytes(i * i % 7 % 6 for i in range(333))
# Symbol 6 is the first without a frequency, so the escape.
ESCAPED = [*FREQUENCIES[:5], 56]
ESCAPE_F = [*ESCAPED, 40] + [0] * 249
ESCAPES = SYMBOLS[:300] + bytes([6]) * 3 + SYMBOLS[300:]
LISTED = bytes([9, 200, 6])


def words(lanes_log2: int = 0) -> bytes:
    return write_words(SYMBOLS, F, 1 << lanes_log2)


def with_list(listed: bytes) -> bytes:
    return table_code(write_table(ESCAPED, escape=40), write_words(ESCAPES, ESCAPE_F), 0, True) + (
        listed
    )


SOUND = {
    **{f"lanes-2^{k}": (table_code(write_table(FREQUENCIES), words(k), k), SYMBOLS)
       for k in range(7)},
    "list": (with_list(bytes([0]) + LISTED), SYMBOLS[:300] + LISTED + SYMBOLS[300:]),
    "repeated-list": (with_list(b"\x01\x2a"), SYMBOLS[:300] + b"***" + SYMBOLS[300:]),
}  # fmt: skip
BYTE_CODES = {
    "sum-below-4096": (table_code(write_table([2000, 1000, 500, 300, 200, 95]), words()), CODE),
    "sum-above-4096": (table_code(write_table([2000, 1000, 500, 300, 200, 97]), words()), CODE),
    "one-symbol-has-all": (table_code(write_table([4096]), words()), CODE),
    "a-frequency-past-4096": (table_code(write_table([5000]), words()), CODE),
    "unknown-base": (table_code(patched(write_table(FREQUENCIES), 0, b"\x10"), words()), CODE),
    "a-number-of-14-zeros": (table_code(bytes([0, 0, 5, 0, 0x40]), words()), SECTION_LENGTH),
    "escape-of-frequency-0": (
        table_code(write_table(FREQUENCIES, escape=0), words(), 0, True),
        CODE,
    ),
    "escape-of-all": (table_code(write_table([0], escape=4096), words(), 0, True), CODE),
    "no-symbol-left-to-escape": (
        table_code(write_table([15] * 255 + [231], escape=40), words(), 0, True),
        CODE,
    ),
    "table-ends-the-section": (table_code(write_table(FREQUENCIES), b""), SECTION_LENGTH),
    "states-end-the-section": (
        table_code(write_table(FREQUENCIES), words(5)[: 3 + 4 * 31], 5),
        SECTION_LENGTH,
    ),
    "class-ends-the-section": (bytes([GEOMETRIC | 4]), SECTION_LENGTH),
    "list-of-escapes": (with_list(b"\x06" + LISTED), CODE),
    "list-too-short": (with_list(b"\x00\x09\xc8"), SECTION_LENGTH),
    "list-too-long": (with_list(b"\x00" + LISTED + b"\x07"), SECTION_LENGTH),
    "list-missing": (with_list(b""), SECTION_LENGTH),
    "list-of-an-unknown-coder": (with_list(b"\x08" + LISTED), CODE),
    "bytes-left-over": (table_code(write_table(FREQUENCIES), words()) + b"\0", SECTION_LENGTH),
    "repeated-of-no-byte": (b"\x01", SECTION_LENGTH),
    "raw-left-over": (b"\0" + SYMBOLS + b"\0", SECTION_LENGTH),
}
WIDE = {
    "a-low-state": lambda w, k: patched(w, len(w_head(k)) + 4 * ((1 << k) - 1), b"\xff\xff\0\0"),
    "another-end": lambda w, k: patched(w, len(w_head(k)), bytes([w[len(w_head(k))] ^ 1])),
    "another-last-word": lambda w, k: w[:-1] + bytes([w[-1] ^ 0x80]),
    "a-word-too-many": lambda w, k: grown(w, k, 1) + b"\0\0",
    "a-word-too-few": lambda w, k: grown(w, k, -1)[:-2],
}


def w_head(lanes_log2: int) -> bytes:
    return bytes(6 if lanes_log2 == 6 else 3)


def grown(w: bytes, lanes_log2: int, change: int) -> bytes:
    """Says another number of words of the last stream."""
    at = len(w_head(lanes_log2)) - 3
    return patched(w, at, u24(int.from_bytes(w[at : at + 3], "little") + change))


def bits_in(symbols: bytes) -> int:
    return int(np.unpackbits(np.frombuffer(symbols, np.uint8)).sum())


@pytest.mark.isa
@pytest.mark.parametrize("name", SOUND)
def test_codes_before_they_are_damaged_are_read(name):
    code, symbols = SOUND[name]

    assert _codec.read_byte_code(code, len(symbols)) == (0, len(code), symbols)


@pytest.mark.parametrize("name", BYTE_CODES)
def test_byte_codes_are_refused(refusal, name):
    code, reason = BYTE_CODES[name]
    symbols = SYMBOLS if "list" not in name else SYMBOLS + LISTED

    assert refusal(RANS_BYTES, code, (8 * len(symbols),), bits_in(symbols)) is reason


@pytest.mark.isa
@pytest.mark.parametrize("lanes_log2", range(7))
@pytest.mark.parametrize("name", WIDE)
def test_words_of_any_number_of_lanes_are_refused(refusal, name, lanes_log2):
    changed = WIDE[name](words(lanes_log2), lanes_log2)
    code = table_code(write_table(FREQUENCIES), changed, lanes_log2)

    assert refusal(RANS_BYTES, code, (8 * len(SYMBOLS),), bits_in(SYMBOLS)) is CODE


@pytest.mark.isa
def test_words_belong_to_their_stream(refusal):
    symbols = SYMBOLS * 40
    w = write_words(symbols, F, 64)
    first, second = (int.from_bytes(w[at : at + 3], "little") for at in (0, 3))
    assert second > 1
    code = table_code(write_table(FREQUENCIES), u24(first + 1) + u24(second - 1) + w[6:], 6)

    assert refusal(RANS_BYTES, code, (8 * len(symbols),), bits_in(symbols)) is CODE


@functools.cache
def geometric() -> tuple[bytes, bytes]:
    return test_byte_code.geometric(), make("heads-.1", 300).tobytes()


@pytest.mark.isa
@pytest.mark.parametrize("name", test_byte_code.REFUSED)
def test_byte_codes_that_are_refused_alone(refusal, name):
    change, reason = test_byte_code.REFUSED[name]
    code, symbols = geometric()

    assert refusal(RANS_BYTES, change(code), (2400,), bits_in(symbols)).value == reason


@pytest.mark.parametrize("name", test_byte_code.TABLES)
def test_tables_that_are_refused_alone(refusal, name):
    table, reason = test_byte_code.TABLES[name]

    assert refusal(RANS_BYTES, b"\x02" + table, (800,), 9).value == reason


# Bit codes. The string of 64 bits of which 3, 4, 50, 51 and 63 are set is that of FORMAT.md.

KEPT = np.isin(np.arange(64), [3, 4, 50, 51, 63])
RICE_CODE, GAPS_CODE = (bytes.fromhex(h) for h in ("0343318305", "00000003002d000b"))
FLAT_CODES = {
    "bitmap-tail": (BITMAP, 60, 5, b"\x18\0\0\0\0\0\x0c\x80", PADDING),
    "bitmap-too-long": (BITMAP, 64, 5, bytes(9), SECTION_LENGTH),
    "bitmap-of-nothing": (BITMAP, 64, 0, bytes(8), SECTION_LENGTH),
    "rice-of-no-byte": (RICE, 64, 5, b"", SECTION_LENGTH),
    "rice-parameter-0": (RICE, 64, 5, b"\0" + RICE_CODE[1:], CODE),
    "rice-parameter-23": (RICE, 64, 5, b"\x17" + RICE_CODE[1:], CODE),
    "rice-parameter-past-4-n": (RICE, 64, 5, b"\x06" + bytes(4) + b"\x1f", CODE),
    "rice-short-of-lows": (RICE, 64, 5, RICE_CODE[:2], SECTION_LENGTH),
    "rice-without-unary": (RICE, 64, 5, RICE_CODE[:3], SECTION_LENGTH),
    "rice-padding": (RICE, 64, 5, patched(RICE_CODE, 2, b"\xb1"), PADDING),
    "rice-ends-in-zero": (RICE, 64, 5, RICE_CODE + b"\0", CODE),
    "rice-with-more": (RICE, 64, 5, patched(RICE_CODE, 4, b"\x07"), CODE),
    "rice-with-fewer": (RICE, 64, 5, patched(RICE_CODE, 4, b"\x04"), CODE),
    "rice-past-its-end": (RICE, 64, 5, patched(RICE_CODE, 4, b"\x82"), CODE),
    "rice-far-past-its-end": (RICE, 64, 5, patched(RICE_CODE, 4, b"\0\x05"), CODE),
    "rice-of-nothing": (RICE, 64, 0, RICE_CODE, CODE),
    "rice-of-everything": (RICE, 64, 64, RICE_CODE, CODE),
    "rans-bytes-of-nothing": (RANS_BYTES, 64, 0, b"\x01\0", CODE),
    "rans-bytes-of-everything": (RANS_BYTES, 64, 64, b"\x01\xff", CODE),
    "rans-bytes-tail": (RANS_BYTES, 60, 5, b"\0\x18\0\0\0\0\0\x0c\x80", PADDING),
    "rans-bytes-of-fewer": (RANS_BYTES, 64, 5, b"\0" + bytes(8), CodecReason.BITMAP),
    "rans-bytes-left-over": (RANS_BYTES, 64, 5, b"\0" + bytes(9), SECTION_LENGTH),
    "gaps-of-no-byte": (RANS_GAPS, 64, 5, b"", SECTION_LENGTH),
    "gaps-of-nothing": (RANS_GAPS, 64, 0, GAPS_CODE, CODE),
    "gaps-of-everything": (RANS_GAPS, 64, 64, GAPS_CODE, CODE),
    "gaps-parameter-23": (RANS_GAPS, 64, 5, b"\x17" + GAPS_CODE[1:], CODE),
    "gaps-parameter-past-4-n": (RANS_GAPS, 64, 5, b"\x06" + GAPS_CODE[1:], CODE),
    "gaps-without-a-number": (RANS_GAPS, 64, 5, b"\0", SECTION_LENGTH),
    "gaps-number-without-an-end": (RANS_GAPS, 64, 5, b"\0\x80", SECTION_LENGTH),
    "gaps-number-of-5-bytes": (RANS_GAPS, 64, 5, b"\0" + b"\x80" * 4 + b"\x01", SECTION_LENGTH),
    "gaps-number-with-zeros": (RANS_GAPS, 64, 5, b"\0\x80\0" + GAPS_CODE[2:], SECTION_LENGTH),
    "gaps-more-than-positions": (RANS_GAPS, 64, 5, b"\0\x41" + GAPS_CODE[2:], CODE),
    "gaps-more-than-fit": (RANS_GAPS, 254, 5, b"\0\x01\0\xff\1\1\1\1\1", CODE),
    "gaps-more-than-fit-shifted": (RANS_GAPS, 509, 5, b"\1\x01\0\xff\1\1\1\1\1\0", CODE),
    "gaps-fewer-mores-than-stated": (RANS_GAPS, 999, 5, b"\0\x01\0\1\1\1\1\1\1", CODE),
    "gaps-more-mores-than-stated": (RANS_GAPS, 999, 5, b"\0\x01\0\xff\xff\1\1\1\1", CODE),
    "gaps-end-in-a-more": (RANS_GAPS, 999, 5, b"\0\x01\0\1\1\1\1\1\xff", CODE),
    "gaps-past-the-end": (RANS_GAPS, 64, 5, patched(GAPS_CODE, 7, b"\x0c"), CODE),
    "gaps-far-past-the-end": (RANS_GAPS, 999, 5, b"\0\x01\0\1\1\xff\xfe\xfe\xfe", CODE),
    "gaps-short-of-lows": (RANS_GAPS, 64, 5, b"\1\0\0\1\1\1\1\1", SECTION_LENGTH),
    "gaps-with-more-lows": (RANS_GAPS, 64, 5, b"\1\0\0\1\1\1\1\1\0\0", SECTION_LENGTH),
    "gaps-padding": (RANS_GAPS, 64, 5, b"\1\0\0\1\1\1\1\1\x20", PADDING),
    "gaps-wide-past-the-end": (
        *(RANS_GAPS, 70000, 1),
        b"\0\x92\x02\0" + b"\xff" * 274 + b"\xfe",
        CODE,
    ),
    "rice-wide-past-the-end": (RICE, 140000, 1, b"\x01\0" + bytes(8750) + b"\x02", CODE),
    "rows-without-rows": (ROWS, 64, 5, b"", CODE),
    "tiles-without-rows": (TILES, 64, 5, b"", CODE),
}


@pytest.mark.isa
@pytest.mark.parametrize("name", FLAT_CODES)
def test_bit_codes_are_refused(refusal, name):
    coder, n, count, section, reason = FLAT_CODES[name]

    assert refusal(coder, section, (n,), count) is reason


# Rows of 16 bits, of two classes, and tiles of whole rows: the vectors of FORMAT.md.
ROWS_CODE = bytes.fromhex("0007010700000000000000000100000002000008001b000000040000ff3fff1f")
ROWS_BITS = bytes.fromhex("ff3f0800ff1f0000")
TILES_CODE = bytes.fromhex("01000000000200000a")
ROW_CODES = {
    "classes-missing": (ROWS, b"", SECTION_LENGTH),
    "classes-cut": (ROWS, ROWS_CODE[:4], SECTION_LENGTH),
    "class-16": (ROWS, patched(ROWS_CODE, 1, b"\x10"), CODE),
    "class-head-cut": (ROWS, ROWS_CODE[:11], SECTION_LENGTH),
    "class-with-more-than-its-rows": (ROWS, patched(ROWS_CODE, 5, u24(17)), CODE),
    "class-code-past-the-end": (ROWS, ROWS_CODE[:-1], SECTION_LENGTH),
    "class-code-too-long": (ROWS, patched(ROWS_CODE, 23 + 4, u24(5)) + b"\0", SECTION_LENGTH),
    "class-of-rows": (ROWS, patched(ROWS_CODE, 8, b"\x04"), CODER),
    "class-of-tiles": (ROWS, patched(ROWS_CODE, 8, b"\x05"), CODER),
    "class-of-an-unknown-coder": (ROWS, patched(ROWS_CODE, 8, b"\xff"), CODER),
    "class-with-another-code": (ROWS, patched(ROWS_CODE, 15, b"\x01"), CODE),
    "rows-of-fewer": (ROWS, ROWS_CODE[:-1] + b"\x0f", CodecReason.BITMAP),
    "rows-left-over": (ROWS, ROWS_CODE + b"\0", SECTION_LENGTH),
    "tiles-cut": (TILES, TILES_CODE[:7], SECTION_LENGTH),
    "tiles-without-grid": (TILES, TILES_CODE[:8], SECTION_LENGTH),
    "tiles-of-more-than-the-grid": (TILES, patched(TILES_CODE, 5, u24(5)), CODE),
    "tiles-of-rows": (TILES, patched(TILES_CODE, 4, b"\x04"), CODER),
    "tiles-of-tiles": (TILES, patched(TILES_CODE, 4, b"\x05"), CODER),
    "tiles-of-an-unknown-coder": (TILES, patched(TILES_CODE, 4, b"\x80"), CODER),
    "tiles-of-another-count": (TILES, patched(TILES_CODE, 8, b"\x0b"), CodecReason.BITMAP),
    "tiles-padding": (TILES, patched(TILES_CODE, 8, b"\x1a"), PADDING),
    "tiles-left-over": (TILES, TILES_CODE + b"\0", SECTION_LENGTH),
    "tiles-of-half-a-row": (TILES, patched(TILES_CODE, 2, u16(8)), CodecReason.BITMAP),
    # All of their grid is set then, for which a bitmap has no bytes.
    "tiles-of-two-rows": (TILES, patched(TILES_CODE, 0, u16(2)), SECTION_LENGTH),
    "tiles-of-more-rows-than-there-are": (TILES, patched(TILES_CODE, 0, u16(65535)), CODE),
}


@pytest.mark.parametrize("name", ROW_CODES)
def test_codes_of_rows_are_refused(refusal, name):
    coder, section, reason = ROW_CODES[name]
    count = bits_in(ROWS_BITS) if coder == ROWS else 32

    assert refusal(coder, section, (4, 16), count) is reason


def test_classes_that_add_up_to_another_count_are_refused(refusal):
    assert refusal(ROWS, ROWS_CODE, (4, 16), bits_in(ROWS_BITS) + 1) is CODE


def test_tiles_that_add_up_to_another_count_are_refused(refusal):
    assert refusal(TILES, TILES_CODE, (4, 16), 31) is CodecReason.BITMAP


# Changes of the base of code_sections.py.


def changes(drops=3, coders=RICE | RICE << 4, drop_bytes=None, tail=b"", code=None) -> bytes:
    dropped = bit_code(RICE, DROPS) if code is None else code
    size = len(dropped) if drop_bytes is None else drop_bytes
    return u24(drops) + bytes([coders]) + u24(size) + dropped + bit_code(RICE, ADDS) + tail


CHANGES = {
    "cut": (changes()[:6], SECTION_LENGTH),
    "more-drops-than-the-base": (changes(drops=41), COUNT),
    "drops-past-the-end": (changes(drop_bytes=99), SECTION_LENGTH),
    "drops-of-another-number": (changes(drops=4), CODE),
    "drops-cut": (changes(drop_bytes=len(bit_code(RICE, DROPS)) - 1), SECTION_LENGTH),
    "drops-of-an-unknown-coder": (changes(coders=6 | RICE << 4), CODER),
    "drops-of-rows": (changes(coders=ROWS | RICE << 4), CODE),
    "drops-of-tiles": (changes(coders=TILES | RICE << 4), CODE),
    "adds-of-an-unknown-coder": (changes(coders=RICE | 15 << 4), CODER),
    "adds-of-rows": (changes(coders=RICE | ROWS << 4), CODE),
    "adds-left-over": (changes(tail=b"\0"), CODE),
    "drops-are-a-bitmap": (changes(coders=BITMAP | RICE << 4), SECTION_LENGTH),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_refused(changed, name):
    section, reason = CHANGES[name]

    assert changed(changes()) is None
    assert changed(section) is reason


@pytest.mark.parametrize(
    ("drops", "count"), [(0, 39), (40, 61), (41, 42)], ids=["below-0", "above-all", "drops"]
)
def test_additions_that_do_not_fit_are_refused(changed, drops, count):
    assert changed(changes(drops=drops), count=count) is COUNT
