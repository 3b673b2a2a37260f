"""Sums of messages against plain numpy in float64, and bit for bit where they are exact."""

import itertools

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

SHAPES = [(0,), (1,), (7,), (63,), (65,), (13, 101), (331, 613)]
DENSITIES = [0.0, 0.003, 0.02, 0.05, 0.3, 1.0]
FORMATS = ["fp32", "bf16", "int8", "int4", "raw"]


def assert_near(sums, expected, magnitude):
    eps = np.finfo(sums.dtype).eps
    assert np.all(np.abs(sums - expected) <= 4 * eps * magnitude)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_of_decoded_updates(updates, shape, density, dtype, isa_name):
    schema = updates.schema(shape)
    accumulator = updates.native(codec.Accumulator(schema, dtype=dtype), isa=isa_name)
    expected, magnitude = np.zeros(shape), np.zeros(shape)
    for seed, value_format in enumerate(FORMATS):
        message = codec.encode(updates.sparse(shape, density, seed), schema, {"w": value_format})
        accumulator.add(message, weight=0.5 + seed)
        one = updates.dense(codec.decode(message, schema)["w"], shape)
        expected += (0.5 + seed) * one
        magnitude += (0.5 + seed) * np.abs(one)

    assert_near(accumulator.sum()["w"], expected, magnitude)
    assert accumulator.messages == 5
    assert accumulator.total_weight == 12.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_signs_are_exact(updates, shape, density, dtype, isa_name):
    schema = updates.schema(shape)
    accumulator = updates.native(codec.Accumulator(schema, dtype=dtype), isa=isa_name)
    expected = np.zeros(shape)
    for seed in range(4):
        update = updates.signs(Support.random(shape, density, seed), seed, scale=0.25)
        accumulator.add(codec.encode(update, schema), weight=seed + 1)
        expected += (seed + 1) * updates.dense(update["w"], shape)

    assert np.array_equal(accumulator.sum()["w"], expected)


@pytest.mark.parametrize("changed", [None, 0, 50], ids=["sent", "shared", "changes"])
@pytest.mark.parametrize("kind", ["values", "signs"])
def test_few_kept_positions_of_every_support_mode(updates, kind, changed, isa_name):
    shape = (331, 613)
    update = (
        updates.sparse(shape, 0.02, 1)
        if kind == "values"
        else updates.signs(Support.random(shape, 0.02, 1), 1)
    )
    support = update["w"].support
    schema, base = updates.schema(shape), None
    if changed is not None:
        others = Support.random(shape, 0.02, 2).indices[:changed]
        near = np.union1d(support.indices[changed:], others)
        base = {"w": Support.from_indices(shape, near)}
    message = codec.encode(update, schema, base=base)
    accumulator = updates.native(
        codec.Accumulator(schema, base=base, per_position=True, dtype="float64"), isa=isa_name
    )

    accumulator.add(message, weight=3)

    dense = updates.dense(codec.decode(message, schema, base)["w"], shape)
    assert np.array_equal(accumulator.sum()["w"], 3 * dense)
    assert np.array_equal(accumulator.mean()["w"], dense)


RAW = {
    "int64": [-3, 0, 2**40],
    "int32": [-3, 0, 2**30],
    "int16": [-3, 0, 2**14],
    "int8": [-3, 0, 100],
    "uint8": [3, 0, 200],
    "bool": [True, False, True],
    "float64": [-1e300, 1e-300, 0.1],
    "float16": [-1.5, 6e-8, 65504.0],
}


@pytest.mark.parametrize("kept", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", RAW)
def test_tensors_in_their_own_dtype(updates, dtype, kept):
    values = np.array(RAW[dtype], dtype=dtype)
    support = Support.from_indices((5,), [0, 2, 4])
    shape = (3,) if kept == "dense" else (5,)
    entry = codec.Dense(values) if kept == "dense" else codec.Sparse(support, values)
    schema = updates.schema(shape, dtype)
    accumulator = codec.Accumulator(schema, dtype="float64")

    accumulator.add(codec.encode(codec.Update({"w": entry}), schema, "raw"), weight=2)

    assert np.array_equal(accumulator.sum()["w"], 2 * updates.dense(entry, shape))


@pytest.mark.parametrize("votes", [False, True], ids=["values", "votes"])
def test_every_mode_beside_the_others(updates, any_sample, votes):
    message = any_sample.encode()
    update = any_sample.decode(message)
    wanted = {
        name: np.zeros(any_sample.schema[name].shape, np.float64)
        for name, entry in update.items()
        if isinstance(entry, codec.Sparse | codec.Dense)
        or (isinstance(entry, codec.Signs) and not votes)
    }
    # What has no values, and what is to be counted, is left out.
    accumulator = codec.Accumulator(any_sample.schema, base=any_sample.base, into=wanted)

    accumulator.add(message, weight=-3)

    for name, total in wanted.items():
        assert np.array_equal(total, -3 * updates.dense(update[name], total.shape)), name


@pytest.mark.parametrize("held_bytes", [0, 1 << 18, 1 << 24], ids=["twice", "some", "held"])
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("value_format", ["fp32", "int8"])
def test_threads_and_memory_change_no_bit(updates, value_format, threads, held_bytes):
    schema, message = updates.many_chunks(value_format)
    plain = codec.Accumulator(schema)
    parallel = updates.native(codec.Accumulator(schema, threads=threads), held_bytes)
    for weight in (1.0, 0.3):
        plain.add(message, weight)
        parallel.add(message, weight)

    assert updates.bits(parallel.sum()) == updates.bits(plain.sum())


def test_instruction_sets_change_no_bit(updates, isa_name):
    for density in (0.02, 0.4):
        schema, message = updates.many_chunks("int8", density)
        for dtype in ("float32", "float64"):
            plain = updates.native(codec.Accumulator(schema, dtype=dtype), isa="scalar")
            fast = updates.native(codec.Accumulator(schema, dtype=dtype), isa=isa_name)
            for weight in (1.0, 0.3):
                plain.add(message, weight)
                fast.add(message, weight)
            assert updates.bits(fast.sum()) == updates.bits(plain.sum())


@pytest.mark.parametrize(
    ("dtype", "scale", "votes"),
    [("float64", 0.1, False), ("float32", 0.5, False), ("float32", 0.1, True)],
    ids=["float64", "float32-power-of-two", "votes"],
)
def test_order_changes_no_bit_of_signs_that_share_a_scale(updates, dtype, scale, votes):
    shape = (3, 67)
    schema = updates.schema(shape)
    messages = [
        codec.encode(updates.signs(Support.random(shape, 0.6, seed), seed, scale), schema)
        for seed in range(4)
    ]
    weighted = list(zip(messages, [3, 1, 1_000_003, 77], strict=True))
    seen = set()
    for order in itertools.permutations(weighted):
        accumulator = codec.Accumulator(schema, dtype=dtype, votes=votes)
        for message, weight in order:
            accumulator.add(message, weight)
        seen.add(accumulator.sum()["w"].tobytes())

    assert len(seen) == 1


@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("held_bytes", [0, 1 << 24], ids=["twice", "held"])
def test_damage_in_any_chunk_leaves_every_bit(updates, forge, threads, held_bytes):
    schema, message = updates.many_chunks()
    accumulator = updates.native(codec.Accumulator(schema, threads=threads), held_bytes)
    accumulator.add(message)
    before = updates.bits(accumulator.sum())
    chunks = forge(message).get("I", 48)
    assert chunks > 3
    for index in range(chunks):
        forgery = forge(message)
        where = forgery.body(index) + forgery.body_bytes(index) - 1
        with pytest.raises(codec.CodecError) as caught:
            accumulator.add(forgery.flip(where).unsealed())
        assert caught.value.reason is CodecReason.CHUNK_CHECKSUM
    assert updates.bits(accumulator.sum()) == before
    assert (accumulator.messages, accumulator.total_weight) == (1, 1.0)


def test_a_value_that_is_not_finite_in_the_last_chunk_leaves_every_bit(updates, forge):
    schema = codec.Schema({"w": ((200_000,), "float32")})
    message = codec.encode(
        codec.Update({"w": codec.Dense(np.arange(200_000, dtype=np.float32))}), schema, rans=False
    )
    forgery = forge(message)
    last = forgery.get("I", 48) - 1
    forgery.put("f", forgery.body(last) + forgery.body_bytes(last) - 4, float("nan"))
    target = {"w": np.full(200_000, -0.0, np.float32)}
    before = updates.bits(target)

    with pytest.raises(codec.CodecError) as caught:
        codec.Accumulator(schema, into=target).add(forgery.sealed())

    assert last > 0
    assert caught.value.reason is CodecReason.VALUE
    assert updates.bits(target) == before


@pytest.mark.parametrize("threads", [2, 7])
def test_decode_on_several_threads(updates, forge, threads):
    schema, message = updates.many_chunks()

    assert codec.decode(message, schema, threads=threads) == codec.decode(message, schema)
    forgery = forge(message)
    chunks = forgery.get("I", 48)
    # The first in the message's order is the one that is named: "b" follows "w".
    damaged = forgery.flip(forgery.body(chunks - 2)).flip(forgery.body(chunks - 1)).unsealed()
    with pytest.raises(codec.CodecError) as caught:
        codec.decode(damaged, schema, threads=threads)
    with pytest.raises(codec.CodecError) as expected:
        codec.decode(damaged, schema)
    assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("value", ["signs", "flips", "values"])
def test_sums_of_a_shared_support_are_one_a_kept_position(updates, value, isa_name):
    shape = (29, 71)
    support = Support.random(shape, 0.3, 5)
    schema = updates.schema(shape)
    if value == "values":
        update = updates.sparse(shape, 0.3, 5)
    else:
        update = updates.signs(support, 1, scale=0.5)
    base = {"w": support}
    if value == "flips":
        near = update["w"].signs.copy()
        near[:3] *= -1
        base = {"w": codec.Signs(support, near)}
    accumulator = updates.native(
        codec.Accumulator(schema, base=base, supports={"w": support}), isa=isa_name
    )

    accumulator.add(codec.encode(update, schema, base=base), weight=2)

    dense = updates.dense(update["w"], shape)
    assert np.array_equal(accumulator.sum()["w"], 2 * dense[support.to_numpy_mask()])
