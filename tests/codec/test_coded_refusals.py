"""Every reason to refuse what is coded: Golomb-Rice codes, flips, blocks with scales.

More of blocks in test_value_refusals.py.

Descriptors of the coded sample, a chunk each: 0 mask (rice, no values), 1 flips, 2 same (flips,
none), 3 int8, 4 int4 (rice), 5 zeros (int4), 6 fp32 (rice). The code of chunk 0 has its parameter,
3 bytes of lows, 6 times 4 bits, and 2 of unary; that of chunk 1, after 3 bytes of count, its
parameter, 1 of lows and 1 of unary.
"""

import pytest

from sparsefl import codec
from sparsefl.codec import CodecReason

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
    ("blocks-of-flips", CodecReason.BLOCK, lambda f: f.mode(1, "block", 10)),
    ("rice-parameter-0", CodecReason.CODE, lambda f: f.put("B", f.body(0), 0)),
    ("rice-parameter-23", CodecReason.CODE, lambda f: f.put("B", f.body(0), 23)),
    ("rice-of-nothing", CodecReason.CODE, lambda f: f.kept(0, 0)),
    ("rice-of-everything", CodecReason.CODE, lambda f: f.kept(0, 120)),
    ("rice-of-fewer", CodecReason.COUNT, lambda f: f.put("H", f.chunk(0) + 8, 5)),
    ("rice-as-a-bitmap", CodecReason.SECTION_LENGTH, lambda f: f.coders(0, 0, 0)),
    ("flips-as-bits", CodecReason.SECTION_LENGTH, lambda f: f.coders(1, 0, 0)),
    ("rice-short-of-lows", CodecReason.SECTION_LENGTH, lambda f: f.put("B", f.body(0), 6)),
    ("rice-of-too-many", CodecReason.SECTION_LENGTH, lambda f: f.kept(0, 9)),
    ("rice-that-ends-in-zero", CodecReason.CODE, lambda f: f.put("B", f.body(0) + 5, 0)),
    ("rice-with-more", CodecReason.CODE, lambda f: f.flip(f.body(0) + 4, 5)),
    ("rice-with-fewer", CodecReason.CODE, lambda f: f.flip(f.body(0) + 4, 1)),
    ("rice-past-its-end", CodecReason.CODE, lambda f: f.put("H", f.body(0) + 4, 0xFC00)),
    ("lows-past-its-end", CodecReason.CODE, lambda f: f.put("B", f.body(0) + 3, 0xFF)),
    ("more-flips-than-bytes", CodecReason.SECTION_LENGTH, lambda f: f.put("H", f.body(1), 9)),
    ("more-flips-than-signs", CodecReason.CODE, lambda f: f.put("H", f.body(1), 91)),
    ("flips-past-the-end", CodecReason.CODE, lambda f: f.put("B", f.body(1) + 5, 0xC0)),
    ("lows-padding", CodecReason.PADDING, lambda f: f.put("B", f.body(1) + 3, 3)),
    ("no-scale", CodecReason.VALUE, lambda f: f.put("H", f.values(3), 0)),
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
