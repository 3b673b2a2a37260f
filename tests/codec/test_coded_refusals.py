"""Every reason to refuse what is coded: Golomb-Rice codes, flips, blocks with scales.

Descriptors of the coded sample, a chunk each: 0 mask (coded, no values), 1 flips, 2 same (flips,
none), 3 int8, 4 int4 (coded), 5 zeros (int4), 6 fp32 (coded). Chunk 0 has 3 bytes of lows, 6 times
4 bits, and 2 of unary; chunk 1 has 3 bytes of count, 1 of lows and 1 of unary.
"""

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

# (what is wrong, reason, change of a Forgery)
CASES = [
    ("flips-of-a-bitmap", CodecReason.COMBINATION, lambda f: f.mode(1, "support", 2)),
    ("flips-of-nothing", CodecReason.COMBINATION, lambda f: f.mode(3, "value", 8)),
    ("int8-of-bools", CodecReason.COMBINATION, lambda f: f.mode(0, "value", 4)),
    ("flips-without-scale", CodecReason.SCALE, lambda f: f.mode(1, "scale_mode", 0)),
    (
        "blocks-with-one-scale",
        CodecReason.SCALE,
        lambda f: f.mode(3, "scale_mode", 1).mode(3, "block", 0),
    ),
    ("blocks-and-a-scale", CodecReason.SCALE, lambda f: f.scale(3, 1.0)),
    ("small-blocks", CodecReason.BLOCK, lambda f: f.mode(3, "block", 4)),
    ("large-blocks", CodecReason.BLOCK, lambda f: f.mode(4, "block", 17)),
    ("blocks-of-flips", CodecReason.RESERVED, lambda f: f.mode(1, "block", 10)),
    ("parameter-of-a-bitmap", CodecReason.PARAMETER, lambda f: f.mode(0, "support", 2)),
    ("parameter-of-int8", CodecReason.PARAMETER, lambda f: f.parameter(3, 1)),
    ("parameter-past-the-span", CodecReason.PARAMETER, lambda f: f.parameter(0, 17)),
    ("parameter-255", CodecReason.PARAMETER, lambda f: f.parameter(1, 255)),
    ("parameter-of-no-flips", CodecReason.PARAMETER, lambda f: f.parameter(2, 1)),
    ("code-of-nothing", CodecReason.PARAMETER, lambda f: f.put("H", f.chunk(0) + 8, 0)),
    ("code-of-everything", CodecReason.PARAMETER, lambda f: f.put("H", f.chunk(0) + 8, 120)),
    ("code-as-a-bitmap", CodecReason.SECTION_LENGTH, lambda f: f.parameter(0, 0)),
    ("flips-as-bits", CodecReason.SECTION_LENGTH, lambda f: f.parameter(1, 0)),
    ("code-too-long", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(0), 15)),
    ("code-too-short", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(0), 3)),
    ("code-short-of-lows", CodecReason.SECTION_LENGTH, lambda f: f.parameter(0, 6)),
    ("code-of-too-many", CodecReason.SECTION_LENGTH, lambda f: f.put("H", f.chunk(0) + 8, 9)),
    ("flips-too-long", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(1) + 4, 12)),
    ("flips-too-short", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(1) + 4, 4)),
    ("codes-of-fewer", CodecReason.COUNT, lambda f: f.put("H", f.chunk(0) + 8, 5)),
    ("code-that-ends-in-zero", CodecReason.CODE, lambda f: f.put("B", f.body(0) + 4, 0)),
    ("code-with-a-longer-zero", CodecReason.CODE, lambda f: f.put("I", f.chunk(0), 6)),
    ("code-with-more", CodecReason.CODE, lambda f: f.flip(f.body(0) + 3, 5)),
    ("code-with-fewer", CodecReason.CODE, lambda f: f.flip(f.body(0) + 3, 1)),
    ("code-past-its-end", CodecReason.CODE, lambda f: f.put("H", f.body(0) + 3, 0xFC00)),
    ("lows-past-its-end", CodecReason.CODE, lambda f: f.put("B", f.body(0) + 2, 0xFF)),
    ("no-flips-coded", CodecReason.CODE, lambda f: f.put("H", f.body(1), 0)),
    ("more-flips-than-bytes", CodecReason.CODE, lambda f: f.put("H", f.body(1), 9)),
    ("flips-0xffffff", CodecReason.CODE, lambda f: f.put("I", f.body(1), 0x47FFFFFF)),
    ("flips-past-the-end", CodecReason.CODE, lambda f: f.put("B", f.body(1) + 4, 0xC0)),
    ("lows-padding", CodecReason.PADDING, lambda f: f.parameter(1, 3)),
    ("flips-padding", CodecReason.PADDING, lambda f: f.flip(f.body(1) + 5)),
    ("int4-padding", CodecReason.PADDING, lambda f: f.flip(f.values(5) + 6, 4)),
    ("no-scale", CodecReason.VALUE, lambda f: f.put("H", f.values(3), 0)),
    ("value-of-no-scale", CodecReason.VALUE, lambda f: f.flip(f.values(5) + 2)),
    ("scale-of-zeros", CodecReason.VALUE, lambda f: f.put("H", f.values(5), 0x7F00)),
    ("small-scale", CodecReason.SCALE, lambda f: f.put("H", f.values(3), 0x01FF)),
    ("large-scale", CodecReason.SCALE, lambda f: f.put("H", f.values(3), 0xF803)),
    ("infinite-scale", CodecReason.SCALE, lambda f: f.put("H", f.values(3), 0xFF00)),
    ("large-int4-scale", CodecReason.SCALE, lambda f: f.put("H", f.values(4), 0xFC25)),
    ("int8-of-minus-128", CodecReason.VALUE, lambda f: f.put("B", f.values(3) + 2, 0x80)),
    ("int4-of-minus-8", CodecReason.VALUE, lambda f: f.put("B", f.values(4) + 2, 0x98)),
    ("no-base-fingerprint", CodecReason.BASE_FIELD, lambda f: f.put("Q", 32, 0)),
    ("base-fingerprint", CodecReason.BASE_MISMATCH, lambda f: f.flip(39, 7)),
]


@pytest.mark.parametrize(("reason", "change"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_refused_for_its_reason(coded, forge, reason, change):
    with pytest.raises(codec.CodecError) as refusal:
        coded.decode(change(forge(coded.encode())).sealed())

    assert refusal.value.reason is reason


@pytest.mark.parametrize("name", ["flips", "same"])
def test_a_base_without_signs(coded, name):
    base = {**coded.base, name: coded.base[name].support}

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(coded.encode(), coded.schema, base)

    assert refusal.value.reason is CodecReason.BASE_MISSING


@pytest.mark.parametrize("place", [0, 7, 89])
def test_a_base_with_another_sign(coded, place):
    held = coded.base["flips"]
    values = held.values.copy()
    values[place] = -1.0 if values[place] >= 0 else 0.0

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(
            coded.encode(),
            coded.schema,
            {**coded.base, "flips": codec.Sparse(held.support, values)},
        )

    assert refusal.value.reason is CodecReason.BASE_MISMATCH


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f, at: f.put("Q", at, 0), CodecReason.CODE),
        (lambda f, at: f.flip(at + 7, 7), CodecReason.PADDING),
    ],
    ids=["none", "tail"],
)
def test_flips_as_plain_bits(forge, change, reason):
    """The second chunk has 63 values, so many of them flips that they are not coded."""
    support = Support.from_mask(np.ones(2**19 + 63, np.bool_))
    signs = np.ones(support.nnz, np.int8)
    flipped = np.where((np.arange(support.nnz) >= 2**19) & (np.arange(support.nnz) % 2), -1, 1)
    schema = codec.Schema({"w": (support.shape, "float32")})
    update = codec.Update({"w": codec.Signs(support, flipped.astype(np.int8))})
    base = {"w": codec.Signs(support, signs)}
    forgery = forge(codec.encode(update, schema, base=base))
    assert codec.decode(forgery.sealed(), schema, base) == update

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(change(forgery, forgery.values(1)).sealed(), schema, base)

    assert refusal.value.reason is reason
