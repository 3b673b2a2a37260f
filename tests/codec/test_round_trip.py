"""Updates come back as they were sent, and a decoder written from FORMAT.md alone agrees."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefl import codec
from sparsefl.support import Support

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8", "bool")
RAW_DTYPE = {d: np.dtype(d) for d in (*FLOATS, *INTEGERS) if d != "bfloat16"}


def read_by_the_specification(data, schema, base):
    """Returns {name: (kept positions | None, values | None, scale or seed)}."""
    descriptors, chunks = struct.unpack_from("<II", data, 44)
    entry = 64 + 24 * descriptors
    body = entry + 16 * chunks
    result = {}
    for i in range(descriptors):
        fields = struct.unpack_from("<IBBBBBBBBfQ", data, 64 + 24 * i)
        ordinal, support_mode, value_mode, span_log2, scale, k = *fields[:3], fields[4], *fields[9:]
        name, spec = list(schema.items())[ordinal]
        if support_mode == 8:
            result[name] = (None, None, k)
            continue
        kept, values = [], []
        for begin in range(0, spec.numel, 2**span_log2):
            support_bytes, value_bytes, count = struct.unpack_from("<III", data, entry)
            span = min(2**span_log2, spec.numel - begin)
            bits = data[body : body + support_bytes]
            body += -(-support_bytes // 8) * 8
            section = data[body : body + value_bytes]
            body += -(-value_bytes // 8) * 8
            entry += 16
            positions = np.arange(span)
            if support_mode == 1:
                positions = base[name].indices
                positions = positions[(positions >= begin) & (positions < begin + span)] - begin
            elif support_mode == 2 and count < span:
                set_bits = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
                positions = np.flatnonzero(set_bits)
            assert len(positions) == count
            kept.append(begin + positions)
            values.append(values_by_the_specification(section, value_mode, count, spec.dtype))
        assert sum(map(len, kept)) == k
        positions = None if support_mode == 0 else np.concatenate([np.array([], np.int64), *kept])
        flat = np.concatenate(values) if values and value_mode else None
        result[name] = (positions, flat, scale)
    assert body == len(data)
    return result


def values_by_the_specification(section, value_mode, count, dtype):
    if value_mode == 1:
        bits = np.unpackbits(np.frombuffer(section, np.uint8), count=count, bitorder="little")
        return 1 - 2 * bits.astype(np.int8)
    if value_mode == 3:
        return (np.frombuffer(section, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if value_mode == 2:
        return np.frombuffer(section, np.float32)
    return np.frombuffer(section, RAW_DTYPE[dtype]) if value_mode else np.array([])


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


def random_entry(kind, spec, random):
    if kind == "regenerated":
        return codec.Regenerated(int(random.integers(2**63)))
    if kind == "dense":
        return codec.Dense(random_values(spec.numel, spec.dtype, random).reshape(spec.shape))
    support = Support.random(spec.shape, random.choice([0.0, 0.1, 0.5, 1.0]), random.integers(99))
    if kind == "support":
        return codec.SupportOnly(support)
    if kind == "signs":
        signs = np.where(random.random(support.nnz) < 0.5, -1, 1).astype(np.int8)
        return codec.Signs(support, signs, scale=float(random.random()))
    return codec.Sparse(support, random_values(support.nnz, spec.dtype, random))


SHAPES = st.sampled_from([(), (0,), (1,), (7,), (63,), (8, 8), (5, 13), (257,), (2, 3, 5, 7)])
KINDS = st.sampled_from(["dense", "sparse", "signs", "support", "regenerated"])


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.lists(st.tuples(SHAPES, st.sampled_from(FLOATS + INTEGERS), KINDS), max_size=6),
    value_format=st.sampled_from(["fp32", "bf16", "raw"]),
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
        if hasattr(entries[name], "support") and random.random() < 0.5:
            base[name] = entries[name].support
    update = codec.Update(entries, round=round_number)

    data = codec.encode(update, schema, value_format, base)
    back = codec.decode(data, schema, base)

    assert back.round == round_number
    assert list(back) == list(update)
    assert codec.encode(back, schema, value_format, base) == data
    assert len(data) == codec.nbytes(update, schema, value_format, base)
    assert len(data) >= codec.bound_bytes(update, schema, value_format, base)
    assert_specification_agrees(data, schema, back, base)
    for name, spec in schema.items():
        if is_lossless(value_format, spec.dtype) or isinstance(back[name], codec.Signs):
            assert np.array_equal(values_of(back[name]), values_of(update[name]))


def is_lossless(value_format, dtype):
    rounded = {"fp32": ["float64"], "bf16": FLOATS, "raw": ["bfloat16"]}
    return dtype not in rounded[value_format]


def values_of(entry):
    return getattr(entry, "values", getattr(entry, "signs", None))


@pytest.mark.isa
@pytest.mark.parametrize("value_format", ["fp32", "bf16"])
def test_tensors_of_several_chunks(value_format):
    shape = (5, 60_001)
    mask = np.zeros(shape, dtype=np.bool_)
    mask.reshape(-1)[: 2**16] = True  # the first span is full, the second empty
    mask.reshape(-1)[2 * 2**16 :: 2] = True
    support = Support.from_mask(mask)
    random = np.random.default_rng(0)
    schema = codec.Schema(
        {"a": (shape, "float32"), "b": (shape, "float32"), "c": (shape, "float32")}
    )
    values = random.standard_normal(support.nnz).astype(np.float32)
    signs = np.where(values < 0, -1, 1).astype(np.int8)
    dense = random.standard_normal(shape).astype(np.float32)
    entries = {"a": codec.Sparse(support, values), "b": codec.Signs(support, signs)}
    update = codec.Update({**entries, "c": codec.Dense(dense)})

    data = codec.encode(update, schema, value_format)
    back = codec.decode(data, schema)

    assert struct.unpack_from("<I", data, 48)[0] > 6, "the tensors have one chunk each"
    assert back["a"].support == support
    assert np.array_equal(back["b"].signs, signs)
    assert_specification_agrees(data, schema, back, {})
    if value_format == "fp32":
        assert back == update


def test_bf16_rounds_to_nearest_even():
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, size=50_000, dtype=np.uint32)
    ties = np.arange(0x3F808000, 0x3F888000, 0x8000, dtype=np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.abs(values) < 3.38e38]
    schema = codec.Schema({"w": (values.shape, "float32")})

    back = codec.decode(
        codec.encode(codec.Update({"w": codec.Dense(values)}), schema, "bf16"), schema
    )

    expected = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(back["w"].values.view(np.uint32), expected.view(np.uint32))


def test_torch_tensors_of_any_strides_and_dtype():
    schema = codec.Schema({"w": ((4, 6), "float32"), "h": ((3,), "bfloat16")})
    w = torch.randn(6, 4, requires_grad=True).t()
    h = torch.randn(3).bfloat16()
    update = codec.Update({"w": codec.Dense(w), "h": codec.Dense(h)})

    back = codec.decode(codec.encode(update, schema, "raw"), schema)

    assert torch.equal(torch.as_tensor(back["w"].values), w.detach())
    assert torch.equal(torch.as_tensor(back["h"].values).bfloat16(), h)


def test_decoded_arrays_are_the_receivers_own():
    schema = codec.Schema({"w": ((3,), "float32")})
    data = codec.encode(codec.Update({"w": codec.Dense(np.ones(3, np.float32))}), schema)
    first, second = (codec.decode(bytearray(data), schema)["w"].values for _ in range(2))

    first += 1

    assert second.tolist() == [1.0, 1.0, 1.0]
    assert first.flags.aligned


def test_the_order_of_an_update_does_not_matter(sample):
    turned = codec.Update(dict([*sample.update.items()][::-1]), round=sample.update.round)

    assert codec.encode(turned, sample.schema, sample.formats, sample.base) == sample.encode()


def test_a_base_may_be_an_update_and_hold_more(sample):
    data = sample.encode()

    assert codec.encode(sample.update, sample.schema, sample.formats, sample.update) != data
    assert codec.decode(data, sample.schema, sample.update) == sample.update


def test_a_base_with_another_support_is_not_referred_to(sample):
    other = {"signs": Support.random((2, 9), 0.5, seed=4)}

    data = codec.encode(sample.update, sample.schema, sample.formats, other)

    assert codec.decode(data, sample.schema) == sample.update


@pytest.mark.parametrize("shape", [(), (0,), (7,), (63, 65), (8, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_supports_alone_come_back(shape, density):
    support = Support.random(shape, density, seed=2)

    for mask in (support, support.to_numpy_mask(), support.to_mask()):
        assert codec.decode_support(codec.encode_support(mask), shape) == support


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_uniform_spans_send_no_bitmap(density):
    assert len(codec.encode_support(Support.random((999, 999), density))) < 600
