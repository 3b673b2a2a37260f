"""What an accumulator makes of its sums: means, votes, models and residuals in place."""

import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support


def test_another_support_than_agreed_is_refused(updates):
    shape = (29, 71)
    schema, agreed = updates.schema(shape), Support.random(shape, 0.3, 5)
    accumulator = codec.Accumulator(schema, supports={"w": agreed})
    other = Support.random(shape, 0.3, 6)
    update = updates.signs(other, 1)
    for message, base in [
        (codec.encode(update, schema), None),
        (codec.encode(update, schema, base={"w": other}), {"w": other}),
    ]:
        with pytest.raises(codec.CodecError) as caught:
            accumulator.add(message, base=base)
        assert caught.value.reason is CodecReason.CONTENT
    assert accumulator.messages == 0


def test_votes_count_signs_whatever_their_scales(updates, isa_name):
    shape = (5, 77)
    schema = updates.schema(shape)
    accumulator = updates.native(codec.Accumulator(schema, votes=True), isa=isa_name)
    expected = np.zeros(shape)
    for seed, weight in enumerate([1, 2, 5]):
        update = updates.signs(Support.random(shape, 0.5, seed), seed, scale=0.1 * seed)
        accumulator.add(codec.encode(update, schema), weight)
        expected += weight * updates.dense(
            codec.Signs(update["w"].support, update["w"].signs), shape
        )

    votes = accumulator.votes()["w"]

    assert votes.dtype == np.int32
    assert np.array_equal(votes, expected)
    assert np.array_equal(accumulator.mean()["w"], (expected / 8).astype(np.float32))


def test_votes_refuse_what_they_cannot_count(updates):
    schema = updates.schema((9,))
    accumulator = codec.Accumulator(schema, votes=True)
    signs = codec.encode(updates.signs(Support.random((9,), 0.5, 0), 0), schema)
    with pytest.raises(ValueError, match="integer"):
        accumulator.add(signs, weight=0.5)
    accumulator.add(signs, weight=2**31 - 2)
    with pytest.raises(ValueError, match="32 bits"):
        accumulator.add(signs, weight=2)
    assert accumulator.messages == 1
    with pytest.raises(codec.CodecError) as caught:
        accumulator.add(codec.encode(updates.sparse((9,), 0.5), schema))
    assert caught.value.reason is CodecReason.CONTENT


def test_means_divide_by_the_weights_of_the_messages_that_had_the_tensor():
    schema = codec.Schema({"a": ((2,), "float32"), "b": ((2,), "float32")})
    accumulator = codec.Accumulator(schema)
    ones = codec.Dense(np.ones(2, np.float32))
    half = codec.Sparse(Support.from_indices((2,), [1]), np.array([5], np.float32))
    accumulator.add(codec.encode(codec.Update({"a": ones, "b": ones}), schema), weight=3)
    accumulator.add(codec.encode(codec.Update({"a": half}), schema), weight=1)

    mean = accumulator.mean()

    assert np.array_equal(mean["a"], [0.75, 2])
    assert np.array_equal(mean["b"], [1, 1])


@pytest.mark.parametrize("votes", [False, True], ids=["values", "votes"])
def test_means_per_position(updates, votes, isa_name):
    shape = (3, 131)
    schema = updates.schema(shape)
    accumulator = updates.native(
        codec.Accumulator(schema, per_position=True, votes=votes, dtype="float64"), isa=isa_name
    )
    total, weights = np.zeros(shape), np.zeros(shape)
    for seed, weight in enumerate([1, 2, 5]):
        support = Support.random(shape, 0.4, seed)
        update = updates.signs(support, seed)
        accumulator.add(codec.encode(update, schema), weight)
        total += weight * updates.dense(update["w"], shape)
        weights += weight * support.to_numpy_mask()

    expected = np.divide(total, weights, out=np.zeros(shape), where=weights != 0)
    assert (weights == 0).any()
    assert np.array_equal(accumulator.mean()["w"], expected)


def test_weights_that_add_up_to_zero_have_no_mean(updates):
    schema = updates.schema((9,))
    accumulator = codec.Accumulator(schema)
    message = codec.encode(updates.sparse((9,), 0.5), schema)
    accumulator.add(message, 1)
    accumulator.add(message, -1)
    with pytest.raises(ValueError, match="add up to 0"):
        accumulator.mean()


@pytest.mark.parametrize("kind", ["numpy", "torch", "parameter"])
def test_the_mean_is_added_into_a_model(updates, kind):
    shape = (200, 431)
    schema = updates.schema(shape)
    accumulator = codec.Accumulator(schema)
    expected = np.zeros(shape)
    for seed in range(2):
        update = updates.sparse(shape, 0.1, seed)
        accumulator.add(codec.encode(update, schema))
        expected += 0.5 * updates.dense(update["w"], shape)
    array = np.ones(shape, np.float32)
    tensor = torch.from_numpy(array)
    model = {"numpy": array, "torch": tensor, "parameter": torch.nn.Parameter(tensor)}[kind]

    accumulator.add_into({"w": model, "other": None}, rate=0.5)

    assert np.allclose(array, 1 + 0.5 * expected, rtol=0, atol=1e-6)


def test_into_sums_in_the_model_itself(updates):
    shape = (91, 43)
    schema = updates.schema(shape)
    update = updates.sparse(shape, 0.1)
    model = torch.full(shape, -0.0, dtype=torch.float64)
    accumulator = codec.Accumulator(schema, into={"w": model})

    accumulator.add(codec.encode(update, schema), weight=0.5)

    expected = 0.5 * updates.dense(update["w"], shape)
    assert np.array_equal(model.numpy(), expected)
    # Positions that no message keeps are not touched.
    assert np.signbit(model.numpy()[~update["w"].support.to_numpy_mask()]).all()
    with pytest.raises(ValueError, match="no mean"):
        accumulator.mean()


@pytest.mark.parametrize(
    ("into", "error"),
    [
        ({"w": np.zeros((3, 4), np.float32)}, ValueError),
        ({"v": np.zeros((3, 5), np.float32)}, ValueError),
        ({"w": np.zeros((3, 10), np.float32)[:, ::2]}, ValueError),
        ({"w": torch.zeros(5, 3).T}, ValueError),
        ({"w": np.zeros((3, 5), np.int64)}, TypeError),
        ({"w": torch.zeros(3, 5, dtype=torch.bfloat16)}, TypeError),
        ({"w": [0.0]}, TypeError),
    ],
    ids=["shape", "name", "strided", "transposed", "int64", "bfloat16", "list"],
)
def test_wrong_targets_are_refused(updates, into, error):
    schema = updates.schema((3, 5))
    with pytest.raises(error, match=f"'{next(iter(into))}'"):
        codec.Accumulator(schema, into=into)


@pytest.mark.parametrize("overlap", [0, 14, 15], ids=["tied", "one-element", "apart"])
def test_memory_that_two_names_share_is_refused(overlap):
    schema = codec.Schema(dict.fromkeys(("encoder", "decoder", "other"), ((3, 5), "float32")))
    memory = torch.zeros(2, 15).view(-1)
    model = {
        "encoder": memory[:15].view(3, 5),
        "other": torch.zeros(3, 5),
        "decoder": memory[overlap : overlap + 15].view(3, 5),
    }
    update = codec.Update({name: codec.Dense(torch.ones(3, 5)) for name in schema})
    message = codec.encode(update, schema)
    accumulator = codec.Accumulator(schema)
    accumulator.add(message)
    for adds in (
        lambda: accumulator.add_into(model),
        lambda: codec.Accumulator(schema, into=model).add(message),
        lambda: codec.feedback(model, message, schema),
    ):
        if overlap == 15:
            adds()
            continue
        with pytest.raises(ValueError, match="'encoder' and 'decoder' share memory"):
            adds()
        assert not memory.any()
    assert memory.any() == (overlap == 15)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"dtype": "float16"}, ValueError),
        ({"threads": 0}, ValueError),
        ({"threads": 1.5}, TypeError),
        ({"supports": {"w": np.ones((3, 5), bool)}}, TypeError),
        ({"supports": {"v": Support.random((3, 5), 0.5)}}, ValueError),
        ({"supports": {"w": Support.random((5, 3), 0.5)}}, ValueError),
        ({"votes": True, "into": {}}, ValueError),
    ],
    ids=["dtype", "threads", "threads-type", "support-type", "name", "shape", "votes-into"],
)
def test_wrong_arguments_are_refused(updates, arguments, error):
    with pytest.raises(error):
        codec.Accumulator(updates.schema((3, 5)), **arguments)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(updates, weight):
    schema = updates.schema((9,))
    with pytest.raises(ValueError, match="finite"):
        codec.Accumulator(schema).add(codec.encode(updates.sparse((9,), 0.5), schema), weight)


@pytest.mark.parametrize(
    "entry",
    [
        codec.Regenerated(3),
        codec.SupportOnly(Support.random((9,), 0.5)),
        codec.Modular.of(np.ones(9, np.float32), 0.5),
    ],
    ids=["seed", "support", "modular"],
)
def test_what_has_no_values_is_refused(updates, entry):
    schema = updates.schema((9,))
    with pytest.raises(codec.CodecError) as caught:
        codec.Accumulator(schema).add(codec.encode(codec.Update({"w": entry}), schema))
    assert caught.value.reason is CodecReason.CONTENT


@pytest.mark.parametrize("votes", [False, True], ids=["values", "votes"])
def test_reset_begins_anew(updates, votes):
    shape = (9, 31)
    schema = updates.schema(shape)
    messages = [
        codec.encode(updates.signs(Support.random(shape, 0.4, seed), seed), schema)
        for seed in range(2)
    ]
    accumulator = codec.Accumulator(schema, votes=votes, per_position=True)
    fresh = codec.Accumulator(schema, votes=votes, per_position=True)
    accumulator.add(messages[0], 3)

    accumulator.reset()

    assert (accumulator.messages, accumulator.total_weight, accumulator.sum()) == (0, 0, {})
    for one in (accumulator, fresh):
        one.add(messages[1], 2)
    assert updates.bits(accumulator.sum()) == updates.bits(fresh.sum())
    assert updates.bits(accumulator.mean()) == updates.bits(fresh.mean())


def test_messages_from_several_threads_follow_each_other(updates):
    schema, message = updates.many_chunks()
    alone, shared = codec.Accumulator(schema), codec.Accumulator(schema)
    callers = [threading.Thread(target=shared.add, args=(message,)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for _ in callers:
        alone.add(message)

    assert updates.bits(shared.sum()) == updates.bits(alone.sum())
    assert shared.messages == 4


@pytest.mark.parametrize("kept", ["all", "ranks"])
@pytest.mark.parametrize("value_format", ["fp32", "int4"])
def test_feedback_leaves_what_was_not_sent(updates, value_format, kept):
    shape = (67, 29)
    schema = updates.schema(shape)
    support = Support.random(shape, 0.2, 3)
    residual = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mask = support.to_numpy_mask()
    update = codec.Update({"w": codec.Sparse(support, residual[mask])})
    base = {"w": support}
    message = codec.encode(update, schema, {"w": value_format}, base)
    decoded = codec.decode(message, schema, base)["w"].values
    expected = residual.copy()
    expected[mask] -= decoded

    if kept == "all":
        codec.feedback({"w": residual}, message, schema, base)
        left = residual
    else:
        left = torch.from_numpy(residual[mask])
        codec.feedback({"w": left}, message, schema, supports=base)
        left, expected = left.numpy(), expected[mask]

    assert left.tobytes() == expected.tobytes()
    assert (value_format == "fp32") == (not left[mask if kept == "all" else ...].any())


MEMORY = """
import sys
import numpy as np
from sparsefl import codec

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

with open(sys.argv[1], "rb") as file:
    message = file.read()
schema = codec.Schema({"w": ((2**23,), "float32")})
model = np.ones(2**23, np.float32)
accumulator = codec.Accumulator(schema, into={"w": model})
for consume in (accumulator.add, lambda data: codec.decode(data, schema)):
    before = status("VmRSS")
    consume(message)
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_model(updates, tmp_path):
    file = tmp_path / "message"
    values = np.random.default_rng(0).standard_normal(2**23).astype(np.float32)
    update = codec.Update({"w": codec.Dense(values)})
    file.write_bytes(codec.encode(update, updates.schema((2**23,)), {"w": "int8"}))

    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(file)], capture_output=True, text=True, check=True
    )

    adding, decoding = map(float, done.stdout.split())
    # 16 MB of decoded chunks and the scratch of one, where the update itself takes 32 MB.
    assert adding < 22 < decoding
