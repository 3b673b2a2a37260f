"""Signs against those that the receiver has: never more than a bit each, few bits for few flips."""

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.support import Support


def flips_message(nnz, flipped):
    support = Support.from_mask(np.ones(nnz, np.bool_))
    theirs = np.where(np.arange(nnz) % 3 == 0, -1, 1).astype(np.int8)
    mine = theirs.copy()
    mine[flipped] *= -1
    schema = codec.Schema({"w": ((nnz,), "float32")})
    update = codec.Update({"w": codec.Signs(support, mine, 0.5)})
    return update, schema, {"w": codec.Signs(support, theirs)}


@pytest.mark.parametrize("nnz", [0, 1, 8, 63, 64, 65, 1000, 65_537, 200_003])
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.03, 0.2, 0.45, 0.5, 0.9, 1.0])
def test_flips_never_take_more_than_a_bit_each(nnz, rate):
    flipped = np.flatnonzero(np.random.default_rng(2).random(nnz) < rate)
    update, schema, base = flips_message(nnz, flipped)

    data = codec.encode(update, schema, base=base)

    assert codec.decode(data, schema, base) == update
    plain = len(codec.encode(update, schema, base={"w": update["w"].support}))
    assert len(data) <= plain
    if rate <= 0.2 and nnz >= 1000:
        bound = codec.bound_bytes(update, schema, base=base)
        assert bound - 4 <= len(data) <= 1.04 * bound + 200


def test_signs_against_equal_signs_take_no_more_than_their_number():
    update, schema, base = flips_message(100_000, [])

    assert len(codec.encode(update, schema, base=base)) == 64 + 24 + 16 + 3


@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4"])
def test_signs_against_what_was_broadcast(value_format):
    """Both sides take the signs of the broadcast as it was decoded, whatever rounding did."""
    support = Support.random((300, 200), 0.5, seed=1)
    schema = codec.Schema({"w": ((300, 200), "float32")})
    scores = np.random.default_rng(4).standard_normal(support.nnz).astype(np.float32)
    sent = codec.Update({"w": codec.Sparse(support, scores)}, round=1)
    broadcast = codec.encode(sent, schema, value_format, {"w": support})
    server, client = (codec.decode(broadcast, schema, {"w": support}) for _ in range(2))
    signs = np.where(scores + 0.05 < 0, -1, 1).astype(np.int8)
    update = codec.Update({"w": codec.Signs(support, signs, 0.1)}, round=1)

    data = codec.encode(update, schema, base=client)

    assert codec.decode(data, schema, base=server) == update
    assert len(data) < len(codec.encode(update, schema, base={"w": support})) / 2


def test_zeros_of_the_base_count_as_plus_one():
    kept = Support.from_mask(np.ones(80, np.bool_))
    schema = codec.Schema({"w": ((80,), "float32")})
    update = codec.Update({"w": codec.Signs(kept, np.ones(80, np.int8))})
    zeros = np.where(np.arange(80) % 2, 0.0, -0.0).astype(np.float32)
    ones = codec.Signs(kept, np.ones(80, np.int8))

    data = codec.encode(update, schema, base={"w": codec.Sparse(kept, zeros)})

    assert data == codec.encode(update, schema, base={"w": ones})
    assert codec.decode(data, schema, {"w": ones}) == update


def test_a_base_on_another_support_is_not_used():
    update, schema, _ = flips_message(80, [])
    other = codec.Signs(Support.from_indices((80,), np.arange(79)), np.ones(79, np.int8))

    data = codec.encode(update, schema, base={"w": other})

    assert codec.decode(data, schema) == update


def test_what_is_no_sign_is_refused_against_a_base_too():
    update, schema, base = flips_message(80, [])
    signs = update["w"].signs.copy()
    signs[40] = 0
    wrong = codec.Update({"w": codec.Signs(update["w"].support, signs)})

    with pytest.raises(ValueError, match=r"'w': signs must be \+1 or -1"):
        codec.encode(wrong, schema, base=base)
