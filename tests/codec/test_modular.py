"""Values modulo 2**32: their sum is the sum of what they stand for, masked or not."""

import numpy as np
import pytest
from second_decoder import read_by_the_specification

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.support import Support

SHAPE = (30, 40)
KEPT = Support.random(SHAPE, 0.2, seed=1)
SCHEMA = codec.Schema({"w": (SHAPE, "float32"), "b": ((30,), "float32")})
BASE = {"w": KEPT}
STEP = 2.0**-16


def update_of(client):
    random = np.random.default_rng(client)
    entries = {
        "w": codec.Modular.of(random.normal(size=KEPT.nnz), STEP, KEPT),
        "b": codec.Modular.of(random.normal(size=30), STEP),
    }
    return codec.Update(entries, round=2)


def test_messages_come_back_with_equal_lengths():
    lengths = set()
    for client in range(3):
        update = update_of(client)
        data = codec.encode(update, SCHEMA, base=BASE)
        lengths.add(len(data))

        assert codec.decode(data, SCHEMA, BASE) == update
        read = read_by_the_specification(data, SCHEMA, BASE)
        assert np.array_equal(read["w"][1], update["w"].words)
        assert np.array_equal(read["b"][1], update["b"].words)
        assert len(data) >= codec.bound_bytes(update, SCHEMA, base=BASE)

    assert len(lengths) == 1


def test_zeros_are_not_shorter():
    zeros = codec.Modular(np.zeros(KEPT.nnz, np.uint32), STEP, KEPT)
    data = codec.encode(codec.Update({"w": zeros, "b": update_of(0)["b"]}), SCHEMA, base=BASE)

    assert len(data) == len(codec.encode(update_of(0), SCHEMA, base=BASE))


@pytest.mark.parametrize("clients", [1, 2, 100])
def test_the_modular_sum_of_messages_decodes_to_the_sum_of_their_values(clients):
    """Every two clients share a mask that one adds and the other subtracts."""
    words = {name: np.uint32(0) for name in SCHEMA}
    wanted = {name: np.zeros(1) for name in SCHEMA}
    for client in range(clients):
        update = update_of(client)
        masks = np.random.default_rng(1000 + client // 2)
        sign = 1 if client % 2 == 0 else -1
        alone = client == clients - 1 and client % 2 == 0
        masked = {}
        for name, entry in update.items():
            mask = masks.integers(2**32, size=entry.words.shape, dtype=np.uint32) * (not alone)
            mask = mask if sign == 1 else (0 - mask.astype(np.int64)) % 2**32
            sent = entry.words + mask.astype(np.uint32)
            masked[name] = codec.Modular(sent, entry.step, entry.support)
            wanted[name] = wanted[name] + entry.values
        received = codec.decode(codec.encode(codec.Update(masked), SCHEMA, base=BASE), SCHEMA, BASE)
        words = {name: words[name] + received[name].words for name in SCHEMA}

    for name, entry in received.items():
        total = codec.Modular(words[name], STEP, entry.support)
        assert np.array_equal(total.values, wanted[name])


def test_entries_add_up_modulo_2_to_the_32():
    one = codec.Modular(np.array([2**31, 5, 2**32 - 1], np.uint32), 0.5)
    two = codec.Modular(np.array([2**31, 2**32 - 5, 2**32 - 1], np.uint32), 0.5)

    assert (one + two).words.tolist() == [0, 0, 2**32 - 2]
    assert (one + two).values.tolist() == [0.0, 0.0, -1.0]


@pytest.mark.parametrize(
    "other",
    [
        codec.Modular(np.zeros(3, np.uint32), 0.25),
        codec.Modular(np.zeros(4, np.uint32), 0.5),
        codec.Modular(np.zeros(3, np.uint32), 0.5, Support.from_indices((5,), [0, 1, 2])),
    ],
    ids=["step", "shape", "support"],
)
def test_what_differs_is_not_added(other):
    with pytest.raises(ValueError, match="must be the same to be added"):
        codec.Modular(np.zeros(3, np.uint32), 0.5) + other


def test_ties_go_to_even_and_the_range_ends_at_2_to_the_31():
    entry = codec.Modular.of(np.array([0.5, 1.5, -0.5, -1.5, -(2.0**31), 2.0**31 - 1]), 1.0)

    assert entry.values.tolist() == [0.0, 2.0, 0.0, -2.0, -(2.0**31), 2.0**31 - 1]
    for wrong in (2.0**31, -(2.0**31) - 1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"finite and within 2\*\*31 steps"):
            codec.Modular.of(np.array([wrong]), 1.0)


@pytest.mark.parametrize("step", [0.0, -1.0, np.inf, np.nan, 1e-60])
def test_steps_are_positive_and_finite(step):
    with pytest.raises(ValueError, match="step must be positive and finite"):
        codec.Modular(np.zeros(3, np.uint32), step)


def test_words_are_uint32():
    with pytest.raises(TypeError, match="words must be uint32, got int64"):
        codec.Modular(np.zeros(3, np.int64), 1.0)


@pytest.mark.parametrize("base", [None, {"w": Support.random(SHAPE, 0.2, seed=2)}])
def test_a_support_that_the_receiver_does_not_have(base):
    with pytest.raises(ValueError, match="'w': modular values need a support that the base has"):
        codec.encode(update_of(0), SCHEMA, base=base)


def test_integers_have_no_modular_values():
    schema = codec.Schema({"n": ((3,), "int64")})
    update = codec.Update({"n": codec.Modular(np.zeros(3, np.uint32), 1.0)})

    with pytest.raises(TypeError, match="'n' is int64: Modular is for floating tensors"):
        codec.encode(update, schema)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (CodecReason.SCALE, lambda f: f.scale(0, 0.0)),
        (CodecReason.SCALE, lambda f: f.mode(0, "scale_mode", 0).scale(0, 0.0)),
        (CodecReason.CODER, lambda f: f.coders(0, 0, 1)),
        (CodecReason.COMBINATION, lambda f: f.mode(0, "support", 2)),
        (CodecReason.SECTION_LENGTH, lambda f: f.kept(0, KEPT.nnz - 1)),
    ],
    ids=["step-0", "no-step", "planes", "sent", "words"],
)
def test_refused_for_its_reason(forge, reason, change):
    data = change(forge(codec.encode(update_of(0), SCHEMA, base=BASE))).sealed()

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode(data, SCHEMA, BASE)

    assert refusal.value.reason is reason
