import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

SHAPE = (300, 700)


def test_every_tensor_is_described():
    kept, other = Support.random(SHAPE, 0.05, seed=1), Support.random(SHAPE, 0.05, seed=2)
    near = Support.from_indices(SHAPE, kept.indices[:-3])
    schema = codec.Schema({**dict.fromkeys("abcde", (SHAPE, "float32")), "n": ((), "int64")})
    signs = np.where(np.random.default_rng(3).random(kept.nnz) < 0.5, -1, 1).astype(np.int8)
    update = codec.Update(
        {
            "a": codec.Signs(kept, signs),
            "b": codec.SupportOnly(other),
            "c": codec.SupportOnly(near),
            "d": codec.Regenerated(5),
            "n": codec.Dense(np.array(3)),
        },
        round=9,
    )
    data = codec.encode(update, schema, base={"a": kept, "c": kept})

    summary = codec.summarise(data, schema)

    header = summary.header
    assert (header.version, header.round, header.tensors) == ((1, 0), 9, 5)
    assert (header.nbytes, header.schema_fingerprint) == (len(data), schema.fingerprint)
    assert header.base_fingerprint != 0
    modes = {t.name: (t.support_mode, t.value_mode) for t in summary.tensors}
    assert modes == {
        "a": ("shared", "sign"),
        "b": ("sent", "none"),
        "c": ("changes", "none"),
        "d": ("seed", "none"),
        "n": ("dense", "raw"),
    }
    kept_of = {t.name: t.kept for t in summary.tensors}
    assert kept_of == {"a": kept.nnz, "b": other.nnz, "c": near.nnz, "d": 0, "n": 1}
    coders = {t.name: t.coders for t in summary.tensors}
    assert (coders["a"], coders["c"], coders["d"], coders["n"]) == (("bits",), (), (), ("raw",))
    assert {*coders["b"]} <= {"rice", "rans-gaps"}
    assert coders["b"]
    assert 64 + sum(t.nbytes for t in summary.tensors) == len(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:63], CodecReason.TRUNCATED),
        (lambda data: b"X" + data[1:], CodecReason.MAGIC),
        (lambda data: data[:8] + b"\2" + data[9:], CodecReason.VERSION),
        (lambda data: data[:40] + b"\7" + data[41:], CodecReason.HEADER_CHECKSUM),
    ],
)
def test_what_is_no_message_is_refused(change, reason):
    schema = codec.Schema({"w": ((3,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Dense(np.ones(3, np.float32))}), schema)

    for read in (lambda data: codec.summarise(data, schema), codec.outline):
        with pytest.raises(codec.CodecError) as refusal:
            read(change(data))
        assert refusal.value.reason is reason


def test_an_outline_needs_no_schema():
    schema = codec.Schema({"a": ((3,), "float32"), "b": (SHAPE, "float32"), "c": ((2,), "float32")})
    kept = Support.random(SHAPE, 0.05, seed=1)
    update = codec.Update({"b": codec.SupportOnly(kept), "c": codec.Regenerated(7)})
    data = codec.encode(update, schema)

    outline = codec.outline(data)

    summary = codec.summarise(data, schema)
    assert outline.header == summary.header
    assert outline.support_bytes == sum(t.support_bytes for t in summary.tensors)
    assert outline.value_bytes == 0
    named = [(t.ordinal, t.support_mode, t.value_mode, t.kept) for t in outline.tensors]
    assert named == [(1, "sent", "none", kept.nnz), (2, "seed", "none", 0)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + b"\0", CodecReason.LENGTH),
        (lambda data: data[:-1] + b"\7", CodecReason.CHUNK_CHECKSUM),
    ],
    ids=["longer", "flipped"],
)
def test_an_outline_checks_lengths_and_checksums(change, reason):
    schema = codec.Schema({"w": ((3,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Dense(np.ones(3, np.float32))}), schema)

    with pytest.raises(codec.CodecError) as refusal:
        codec.outline(change(data))

    assert refusal.value.reason is reason
