"""A message of the profile without rANS has none within its codes either."""

import numpy as np
import pytest
from code_sections import (
    ADDS,
    BITMAP,
    DROPS,
    PLAIN,
    RANS,
    RANS_BYTES,
    RANS_GAPS,
    RICE,
    ROWS,
    TILES,
    bit_code,
    draw,
    table_code,
    u16,
    u24,
)
from plain_byte_code import write_table, write_words

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

CODER = CodecReason.CODER


def rows_of(classes: bytes, coders: tuple[int, int]) -> tuple[bytes, np.ndarray]:
    """Rows of 64 bits of two classes, whose byte code and codes are given."""
    kept = np.vstack([draw(64 * 40, 0.05).reshape(40, 64), draw(64 * 20, 0.5, 1).reshape(20, 64)])
    parts = [kept[:40].reshape(-1), kept[40:].reshape(-1)]
    codes = [bit_code(coder, part) for coder, part in zip(coders, parts, strict=True)]
    section = classes
    for part, coder, code in zip(parts, coders, codes, strict=True):
        section += u24(int(part.sum())) + bytes([coder]) + u24(len(code)) + code
    return section, kept


def raw_classes() -> bytes:
    return b"\0" + bytes(40) + bytes([1] * 20)


def table_classes() -> bytes:
    f = [2731, 1365] + [0] * 254
    return table_code(write_table(f[:2]), write_words(bytes(40) + bytes([1] * 20), f))


NESTED = {
    "classes": (table_classes, (RICE, BITMAP)),
    "rans-bytes-of-a-class": (raw_classes, (RICE, RANS_BYTES)),
    "rans-gaps-of-a-class": (raw_classes, (RANS_GAPS, BITMAP)),
}


def decoded(forge, coder, section, kept, profile):
    schema = codec.Schema({"w": (kept.shape, "bool")})
    update = codec.Update({"w": codec.SupportOnly(Support.from_mask(kept))})
    forgery = forge(codec.encode(update, schema)).put("I", 52, profile)
    data = forgery.sections(0, section).coders(0, coder, 0).sealed()
    return codec.decode(data, schema) == update


def assert_needs_rans(forge, coder, section, kept):
    """The section is sound in one profile, and refused in the other for what it is."""
    assert decoded(forge, coder, section, kept, RANS)
    with pytest.raises(codec.CodecError) as error:
        decoded(forge, coder, section, kept, PLAIN)
    assert error.value.reason is CODER


@pytest.mark.parametrize("name", NESTED)
def test_plain_messages_have_no_rans_within_rows(forge, name):
    classes, coders = NESTED[name]
    section, kept = rows_of(classes(), coders)

    assert_needs_rans(forge, ROWS, section, kept)


def test_plain_messages_have_rows_without_rans(forge):
    section, kept = rows_of(raw_classes(), (RICE, BITMAP))

    assert decoded(forge, ROWS, section, kept, PLAIN)


@pytest.mark.parametrize("coder", [RANS_BYTES, RANS_GAPS])
def test_plain_messages_have_no_rans_within_tiles(forge, coder):
    grid = draw(400, 0.2).reshape(20, 20)
    code = u16(2, 2) + bytes([coder]) + u24(int(grid.sum())) + bit_code(coder, grid.reshape(-1))

    assert_needs_rans(forge, TILES, code, np.kron(grid, np.ones((2, 2), bool)))


@pytest.mark.parametrize("coder", [RANS_BYTES, RANS_GAPS])
def test_plain_messages_have_no_rans_of_supports(forge, coder):
    kept = draw(2000, 0.1)

    assert_needs_rans(forge, coder, bit_code(coder, kept), kept)


@pytest.mark.parametrize("coder", [RANS_BYTES, RANS_GAPS])
@pytest.mark.parametrize("place", ["drops", "adds"])
def test_plain_messages_have_no_rans_within_changes(changed, place, coder):
    coders = [RICE, RICE]
    coders[place == "adds"] = coder
    dropped, added = bit_code(coders[0], DROPS), bit_code(coders[1], ADDS)
    section = u24(3) + bytes([coders[0] | coders[1] << 4]) + u24(len(dropped)) + dropped + added

    assert changed(section, RANS) is None
    assert changed(section, PLAIN) is CODER


@pytest.mark.parametrize("coder", [RANS_BYTES, RANS_GAPS])
def test_plain_messages_have_no_rans_of_signs(forge, coder):
    kept = Support.from_indices((4000,), np.arange(4000))
    negative = draw(4000, 0.02)
    schema, base = codec.Schema({"w": ((4000,), "float32")}), {"w": kept}
    update = codec.Update({"w": codec.Signs(kept, np.where(negative, -1, 1).astype(np.int8), 1.0)})
    section = u24(int(negative.sum())) + bit_code(coder, negative)
    forgery = forge(codec.encode(update, schema, base=base))
    forgery.sections(0, b"", section).coders(0, 0, 1 + coder)

    assert codec.decode(forgery.put("I", 52, RANS).sealed(), schema, base) == update
    with pytest.raises(codec.CodecError) as error:
        codec.decode(forgery.put("I", 52, PLAIN).sealed(), schema, base)
    assert error.value.reason is CODER


@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4", "ternary"])
def test_plain_messages_have_no_planes(forge, value_format):
    schema = codec.Schema({"w": ((3000,), "float32")})
    values = np.random.default_rng(0).standard_t(3, 3000).astype(np.float32) ** 3
    data = codec.encode(codec.Update({"w": codec.Dense(values)}), schema, value_format)
    forgery = forge(data)
    assert forgery.get("B", forgery.chunk(0) + 11) >> 4 == 1
    codec.decode(data, schema)

    with pytest.raises(codec.CodecError) as error:
        codec.decode(forgery.put("I", 52, PLAIN).sealed(), schema)

    assert error.value.reason is CODER
