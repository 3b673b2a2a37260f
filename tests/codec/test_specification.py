"""A decoder written from FORMAT.md alone reads what the codec writes, of every mode."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from second_decoder import read_by_the_specification

from sparsefl import codec
from sparsefl.support import Support

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")


def assert_specification_agrees(data, schema, update, base):
    for name, (kept, values, number) in read_by_the_specification(data, schema, base).items():
        entry = update[name]
        if isinstance(entry, codec.Regenerated):
            assert number == entry.seed
            continue
        if not isinstance(entry, codec.Dense):
            assert np.array_equal(kept, entry.support.indices)
        if values is not None:
            mine = entry.signs if isinstance(entry, codec.Signs) else entry.values
            assert np.array_equal(values, mine.reshape(-1))
        if isinstance(entry, codec.Signs):
            assert number == entry.scale


def random_values(count, dtype, random):
    if dtype in FLOATS:
        held = "float32" if dtype == "bfloat16" else dtype
        return random.standard_normal(count).astype(held)
    return random.integers(0, 2, size=count).astype(dtype)


def random_base(entry, random):
    """Returns what a receiver may have of a tensor: its support, and signs that differ in some."""
    signs = np.where(random.random(entry.support.nnz) < 0.05, -1, 1)
    if isinstance(entry, codec.Signs):
        signs = signs * entry.signs
    held = [
        codec.SupportOnly(entry.support),
        codec.Sparse(entry.support, signs * random.random(entry.support.nnz)),
        codec.Signs(entry.support, signs.astype(np.int8)),
    ]
    return held[random.integers(3)]


def random_entry(kind, spec, random):
    if kind == "regenerated":
        return codec.Regenerated(int(random.integers(2**63)))
    if kind == "dense":
        return codec.Dense(random_values(spec.numel, spec.dtype, random).reshape(spec.shape))
    support = Support.random(
        spec.shape, random.choice([0.0, 0.01, 0.1, 0.5, 1.0]), random.integers(99)
    )
    if kind == "support":
        return codec.SupportOnly(support)
    if kind == "signs":
        signs = np.where(random.random(support.nnz) < 0.5, -1, 1).astype(np.int8)
        return codec.Signs(support, signs, scale=float(random.random()))
    return codec.Sparse(support, random_values(support.nnz, spec.dtype, random))


SHAPES = st.sampled_from(
    [(), (0,), (1,), (7,), (63,), (8, 8), (5, 13), (257,), (2, 3, 5, 7), (41, 53)]
)
KINDS = st.sampled_from(["dense", "sparse", "signs", "support", "regenerated"])


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.lists(st.tuples(SHAPES, st.sampled_from(FLOATS + INTEGERS), KINDS), max_size=6),
    value_format=st.sampled_from(["fp32", "bf16", "int8", "int4", "ternary", "raw"]),
    round_number=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**32),
)
def test_updates_come_back(tensors, value_format, round_number, seed):
    random = np.random.default_rng(seed)
    schema = codec.Schema({f"t{i}": (shape, dtype) for i, (shape, dtype, _) in enumerate(tensors)})
    entries, base = {}, {}
    for (name, spec), (_, _, kind) in zip(schema.items(), tensors, strict=True):
        floating_only = kind in ("signs", "regenerated") and not spec.is_floating
        entries[name] = random_entry("sparse" if floating_only else kind, spec, random)
        if hasattr(entries[name], "support") and random.random() < 0.7:
            base[name] = random_base(entries[name], random)
    update = codec.Update(entries, round=round_number)

    data = codec.encode(update, schema, value_format, base)
    back = codec.decode(data, schema, base)

    assert back.round == round_number
    assert list(back) == list(update)
    assert codec.encode(back, schema, value_format, base) == data
    assert_specification_agrees(data, schema, back, base)
    for name, spec in schema.items():
        if is_lossless(value_format, spec.dtype) or isinstance(back[name], codec.Signs):
            assert np.array_equal(values_of(back[name]), values_of(update[name]))


def is_lossless(value_format, dtype):
    rounded = {"fp32": ["float64"], "raw": ["bfloat16"]}
    return dtype not in rounded.get(value_format, FLOATS)


def values_of(entry):
    return getattr(entry, "values", getattr(entry, "signs", None))


@pytest.mark.isa
@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4"])
def test_tensors_of_several_chunks(value_format):
    shape = (10, 300_007)
    mask = np.zeros(shape, dtype=np.bool_)
    mask.reshape(-1)[: 2**18] = True  # the first spans are full, others empty
    mask.reshape(-1)[2 * 2**18 : 3 * 2**18 : 2] = True
    mask.reshape(-1)[3 * 2**18 :: 71] = True  # and these are worth a code
    support = Support.from_mask(mask)
    random = np.random.default_rng(0)
    schema = codec.Schema(dict.fromkeys("abcd", (shape, "float32")))
    values = random.standard_normal(support.nnz).astype(np.float32)
    signs = np.where(values < 0, -1, 1).astype(np.int8)
    dense = random.standard_normal(shape).astype(np.float32)
    entries = {"a": codec.Sparse(support, values), "b": codec.Signs(support, signs)}
    update = codec.Update({**entries, "c": codec.Dense(dense), "d": codec.SupportOnly(support)})

    data = codec.encode(update, schema, value_format)
    back = codec.decode(data, schema)

    assert struct.unpack_from("<I", data, 48)[0] > 4, "the tensors have one chunk each"
    assert back["a"].support == back["d"].support == support
    assert np.array_equal(back["b"].signs, signs)
    assert_specification_agrees(data, schema, back, {})
    if value_format == "fp32":
        assert back == update


@pytest.mark.isa
@pytest.mark.parametrize("rate", [0.0, 0.004, 0.3])
def test_flips_of_several_chunks(rate):
    """The first spans have few flips, others none, the last too many to be coded."""
    shape = (3, 2**21)
    support = Support.random(shape, 0.9, seed=5)
    schema = codec.Schema({"w": (shape, "float32"), "v": (shape, "float32")})
    random = np.random.default_rng(6)
    theirs = random.standard_normal(support.nnz).astype(np.float32)
    flips = random.random(support.nnz) < np.array([rate, 0.0, 0.5])[support.indices >> 21]
    signs = np.where(flips != (theirs < 0), -1, 1).astype(np.int8)
    update = codec.Update({"w": codec.Signs(support, signs, 0.5), "v": codec.SupportOnly(support)})
    base = {"w": codec.Sparse(support, theirs)}

    data = codec.encode(update, schema, base=base)

    assert struct.unpack_from("<I", data, 48)[0] > 3, "the signs have one chunk"
    assert codec.decode(data, schema, base) == update
    assert_specification_agrees(data, schema, update, base)
