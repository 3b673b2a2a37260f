"""Every reason to refuse a message, reached behind right checksums where there are some before it.

Descriptors of the sample: 0 sparse (sent, fp32), 1 signs (shared), 2 dense (bf16), 3 seed,
4 count (raw int64), 5 flags (raw bool), 6 mask (sent, no values). Chunks: 0, 1, 2, -, 3, 4, 5.
"""

import math
import pathlib
import re

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

ROOT = pathlib.Path(__file__).parents[2]

# (what is wrong, reason, change of a Forgery, whether the checksums are made right again)
CASES = [
    ("short", CodecReason.TRUNCATED, lambda f: f.resized(-len(f.bytes) + 40), False),
    ("magic", CodecReason.MAGIC, lambda f: f.flip(0), True),
    ("major", CodecReason.VERSION, lambda f: f.put("H", 8, 2), True),
    ("critical-flag", CodecReason.FLAGS, lambda f: f.put("I", 12, 1 << 15), True),
    ("profile", CodecReason.PROFILE, lambda f: f.put("I", 52, 2), True),
    ("states-more", CodecReason.TRUNCATED, lambda f: f.put("Q", 16, 2**63), True),
    ("states-less", CodecReason.LENGTH, lambda f: f.put("Q", 16, 64), True),
    ("many-tensors", CodecReason.TABLES, lambda f: f.put("I", 44, 2**32 - 1), True),
    ("many-chunks", CodecReason.TABLES, lambda f: f.put("I", 48, 2**32 - 1), True),
    ("round", CodecReason.HEADER_CHECKSUM, lambda f: f.put("I", 40, 4), False),
    ("header-reserved", CodecReason.RESERVED, lambda f: f.put("I", 60, 1), True),
    ("block", CodecReason.BLOCK, lambda f: f.mode(0, "block", 1), True),
    ("no-such-coder", CodecReason.CODER, lambda f: f.coders(0, 6, 0), True),
    ("no-such-value-coder", CodecReason.CODER, lambda f: f.coders(0, 0, 3), True),
    ("no-such-sign-coder", CodecReason.CODER, lambda f: f.coders(1, 0, 7), True),
    ("coder-without-support", CodecReason.CODER, lambda f: f.coders(1, 1, 0), True),
    ("coder-without-values", CodecReason.CODER, lambda f: f.coders(5, 0, 1), True),
    (
        "coder-of-another-profile",
        CodecReason.CODER,
        lambda f: f.put("I", 52, 0).coders(0, 3, 0),
        True,
    ),
    ("schema", CodecReason.SCHEMA, lambda f: f.flip(24), True),
    ("same-ordinal", CodecReason.ORDINAL, lambda f: f.put("I", f.descriptor(1), 0), True),
    ("no-such-ordinal", CodecReason.ORDINAL, lambda f: f.put("I", f.descriptor(6), 7), True),
    ("huge-ordinal", CodecReason.ORDINAL, lambda f: f.put("I", f.descriptor(6), 2**32 - 1), True),
    ("next-support", CodecReason.SUPPORT_MODE, lambda f: f.mode(0, "support", 5), True),
    ("unknown-support", CodecReason.SUPPORT_MODE, lambda f: f.mode(0, "support", 255), True),
    ("next-value", CodecReason.VALUE_MODE, lambda f: f.mode(0, "value", 10), True),
    ("unknown-value", CodecReason.VALUE_MODE, lambda f: f.mode(0, "value", 255), True),
    ("dense-signs", CodecReason.COMBINATION, lambda f: f.mode(1, "support", 0), True),
    ("dense-none", CodecReason.COMBINATION, lambda f: f.mode(2, "value", 0), True),
    ("seed-values", CodecReason.COMBINATION, lambda f: f.mode(3, "value", 2), True),
    (
        "int-seed",
        CodecReason.COMBINATION,
        lambda f: f.mode(4, "support", 4).mode(4, "value", 0),
        True,
    ),
    ("int-fp32", CodecReason.COMBINATION, lambda f: f.mode(4, "value", 2), True),
    ("float-raw", CodecReason.COMBINATION, lambda f: f.mode(0, "value", 7), True),
    ("short-span", CodecReason.SPAN, lambda f: f.span(0, 2**16 - 64), True),
    ("long-span", CodecReason.SPAN, lambda f: f.span(0, 2**22 + 64), True),
    ("odd-span", CodecReason.SPAN, lambda f: f.span(0, 2**16 + 8), True),
    ("seed-span", CodecReason.SPAN, lambda f: f.span(3, 2**16), True),
    ("scale-nan", CodecReason.SCALE, lambda f: f.scale(1, math.nan), True),
    ("scale-infinite", CodecReason.SCALE, lambda f: f.scale(1, math.inf), True),
    ("scale-negative", CodecReason.SCALE, lambda f: f.scale(1, -0.0), True),
    ("scale-of-fp32", CodecReason.SCALE, lambda f: f.scale(0, 1.0), True),
    ("scale-missing", CodecReason.SCALE, lambda f: f.mode(1, "scale_mode", 0), True),
    ("scale-unknown", CodecReason.SCALE, lambda f: f.mode(1, "scale_mode", 3), True),
    ("scale-mode-of-fp32", CodecReason.SCALE, lambda f: f.mode(0, "scale_mode", 1), True),
    ("count-high", CodecReason.COUNT, lambda f: f.count(0, 16), True),
    ("count-huge", CodecReason.COUNT, lambda f: f.count(0, 2**64 - 1), True),
    ("count-not-the-sum", CodecReason.COUNT, lambda f: f.count(0, 4), True),
    ("count-not-dense", CodecReason.COUNT, lambda f: f.count(2, 2), True),
    ("chunk-count-high", CodecReason.COUNT, lambda f: f.put("H", f.chunk(0) + 8, 16), True),
    ("chunk-count-not-dense", CodecReason.COUNT, lambda f: f.put("H", f.chunk(2) + 8, 2), True),
    ("chunk-missing", CodecReason.CHUNK_COUNT, lambda f: f.put("I", 48, 5), True),
    ("chunk-extra", CodecReason.CHUNK_COUNT, lambda f: f.put("I", 48, 7), True),
    ("support-length", CodecReason.SECTION_LENGTH, lambda f: f.split(0, 3, 11), True),
    ("shared-support", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(1), 3), True),
    ("value-length", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(0) + 4, 13), True),
    ("huge", CodecReason.SECTION_LENGTH, lambda f: f.put("I", f.chunk(0) + 4, 2**32 - 1), True),
    ("bytes-left-over", CodecReason.COVERAGE, lambda f: f.resized(8), True),
    ("bytes-missing", CodecReason.COVERAGE, lambda f: f.resized(-8), True),
    ("no-base-fingerprint", CodecReason.BASE_FIELD, lambda f: f.put("Q", 32, 0), True),
    ("base-fingerprint", CodecReason.BASE_MISMATCH, lambda f: f.flip(32), True),
    ("body", CodecReason.CHUNK_CHECKSUM, lambda f: f.flip(f.body(2)), False),
    ("bitmap-more", CodecReason.BITMAP, lambda f: f.flip(f.body(0), 1), True),
    ("bitmap-fewer", CodecReason.BITMAP, lambda f: f.flip(f.body(5), 1), True),
    ("bitmap-tail", CodecReason.PADDING, lambda f: f.flip(f.body(0) + 1, 7), True),
    ("sign-tail", CodecReason.PADDING, lambda f: f.flip(f.values(1) + 1, 7), True),
    ("nan", CodecReason.VALUE, lambda f: f.put("f", f.values(0), math.nan), True),
    ("infinite", CodecReason.VALUE, lambda f: f.put("f", f.values(0), -math.inf), True),
    ("bf16-nan", CodecReason.VALUE, lambda f: f.put("H", f.values(2), 0x7FC1), True),
    ("bool", CodecReason.VALUE, lambda f: f.put("B", f.values(4) + 1, 2), True),
]
# Reasons that changed bytes of the sample cannot give; tested below and in test_coded_refusals.py.
ELSEWHERE = {
    CodecReason.BASE_MISSING,
    CodecReason.CONTENT,
    CodecReason.BLOCK,
    CodecReason.CODE,
}


@pytest.mark.parametrize(
    ("reason", "change", "seal"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused_for_its_reason(sample, forge, reason, change, seal):
    forgery = change(forge(sample.encode()))
    data = forgery.sealed() if seal else forgery.unsealed()

    with pytest.raises(codec.CodecError) as refusal:
        sample.decode(data)

    assert refusal.value.reason is reason
    assert reason.name in str(refusal.value)


def test_every_reason_is_tested():
    assert {reason for _, reason, _, _ in CASES} | ELSEWHERE == set(CodecReason)


def test_reasons_are_those_of_the_compiled_codec():
    text = (ROOT / "csrc" / "codec" / "format.h").read_text()
    listed = re.search(r"enum class Reason : int \{\s*kNone = 0,(.*?)\}", text, re.DOTALL)
    names = re.findall(r"k(\w+)", listed.group(1))

    assert [re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() for name in names] == [
        reason.name for reason in sorted(CodecReason, key=lambda r: r.value)
    ]
    assert [reason.value for reason in CodecReason] == list(range(1, len(CodecReason) + 1))


def test_the_specification_names_every_reason():
    text = (ROOT / "sparsefl" / "codec" / "FORMAT.md").read_text()

    assert not [reason for reason in CodecReason if f"`{reason.name}`" not in text]


def test_base_missing(sample):
    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(sample.encode(), sample.schema, {"sparse": Support.random((3, 5), 0.5)})

    assert refusal.value.reason is CodecReason.BASE_MISSING
    assert refusal.value.where == 1


def test_another_base(sample):
    other = Support.from_indices((2, 9), sample.base["signs"].indices[:-1])

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(sample.encode(), sample.schema, {"signs": other})

    assert refusal.value.reason is CodecReason.BASE_MISMATCH


def test_base_fingerprint_without_shared_support(forge):
    schema = codec.Schema({"w": ((3,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Dense(np.ones(3, np.float32))}), schema)

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(forge(data).put("Q", 32, 5).sealed(), schema)

    assert refusal.value.reason is CodecReason.BASE_FIELD


@pytest.mark.parametrize(
    ("dtype", "kind", "infinity"), [("float16", "H", 0x7C00), ("float64", "Q", 0x7FF0 << 48)]
)
def test_raw_floats_must_be_finite(forge, dtype, kind, infinity):
    schema = codec.Schema({"w": ((3,), dtype)})
    values = np.array([1 / 3, np.pi, -np.e]).astype(dtype)  # too few for a code
    data = codec.encode(codec.Update({"w": codec.Dense(values)}), schema, "raw")
    forgery = forge(data)

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(forgery.put(kind, forgery.values(0), infinity).sealed(), schema)

    assert refusal.value.reason is CodecReason.VALUE


@pytest.mark.parametrize(
    "update",
    [codec.Update({}), codec.Update({"support": codec.Dense(np.ones((3, 5), np.bool_))})],
    ids=["nothing", "dense"],
)
def test_decode_support_of_something_else(update):
    data = codec.encode(update, codec.Schema({"support": ((3, 5), "bool")}))

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode_support(data, (3, 5))

    assert refusal.value.reason is CodecReason.CONTENT


def test_decode_support_of_another_shape():
    data = codec.encode_support(Support.random((3, 5), 0.5))

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode_support(data, (5, 3))

    assert refusal.value.reason is CodecReason.SCHEMA


@pytest.mark.isa
def test_truncated_at_every_byte(any_sample):
    data = any_sample.encode()

    for size in range(len(data)):
        with pytest.raises(codec.CodecError) as refusal:
            any_sample.decode(data[:size])
        assert refusal.value.reason is CodecReason.TRUNCATED


@pytest.mark.isa
def test_every_single_bit_flip(any_sample):
    data = any_sample.encode()

    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(codec.CodecError):
            any_sample.decode(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"\x80\x04N.", bytes(392), b"\xff" * 392], ids=len)
def test_other_bytes(sample, data):
    with pytest.raises(codec.CodecError):
        sample.decode(data)


def test_sealed_damage_gives_an_update_or_a_refusal(any_sample, forge):
    data = any_sample.encode()
    random = np.random.default_rng(5)
    accepted = 0

    for _ in range(3000):
        forgery = forge(data)
        for at in random.integers(0, len(data), size=random.integers(1, 4)):
            forgery.put("B", int(at), int(random.integers(256)))
        try:
            accepted += isinstance(any_sample.decode(forgery.sealed()), codec.Update)
        except codec.CodecError:
            continue

    assert 0 < accepted < 1500


@pytest.mark.parametrize("minor", [0, 1, 65535])
def test_other_minor_versions_are_read(any_sample, forge, minor):
    data = forge(any_sample.encode()).put("H", 10, minor).sealed()

    assert any_sample.decode(data) == any_sample.update


def test_flags_that_are_not_critical_are_ignored(sample, forge):
    data = forge(sample.encode()).put("I", 12, 0xFFFF0000).sealed()

    assert sample.decode(data) == sample.update


def test_nothing_is_allocated_for_a_message_that_lies_about_a_large_tensor(forge):
    schema = codec.Schema({"w": ((2**40,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Regenerated(1)}), schema)
    forgery = forge(data).mode(0, "support", 0).mode(0, "value", 2).span(0, 2**22)

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(forgery.count(0, 2**40).sealed(), schema)

    assert refusal.value.reason is CodecReason.CHUNK_COUNT
