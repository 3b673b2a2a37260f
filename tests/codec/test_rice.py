"""Golomb-Rice codes of supports and flips: the shortest there are, never longer than plain bits."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefl import codec
from sparsefl.support import Support

HEADER, DESCRIPTOR, CHUNK = 64, 24, 16


def chunks_of(data):
    """Yields (support bytes, value bytes, count, parameter) of each chunk of one tensor."""
    for i in range(struct.unpack_from("<I", data, 48)[0]):
        fields = struct.unpack_from("<III", data, HEADER + DESCRIPTOR + CHUNK * i)
        yield *fields[:2], fields[2] & 0xFFFFFF, fields[2] >> 24


def shortest(kept, span):
    """Returns (bytes, parameter) by trying all; parameter 0 is plain bits."""
    plain = -(-span // 8) if 0 < len(kept) < span else 0
    gaps = np.diff(kept, prepend=-1) - 1
    best = (plain, 0)
    bits = {r: len(kept) * r + len(kept) + int((gaps >> r).sum()) for r in range(1, 23)}
    r = min(bits, key=lambda r: (bits[r], r))
    coded = -(-len(kept) * r // 8) + -(-(bits[r] - len(kept) * r) // 8)
    return (coded, r) if coded < plain else best


def every_seventh(n):
    return np.arange(0, n, 7)


def two_distances(n):
    """The mean distance, 17, suggests a parameter of 3; 4 is better."""
    positions = np.cumsum(np.tile([9, 25], n // 34 + 1)) - 1
    return positions[positions < n]


def clustered(n):
    return np.flatnonzero(np.random.default_rng(1).random(n) < np.sin(np.arange(n) / 900) ** 8 / 3)


def one_run(n):
    return np.arange(n // 3, n // 3 + n // 50)


def first(n):
    return np.array([0])


def last(n):
    return np.array([n - 1])


def first_and_last(n):
    return np.array([0, n - 1])


@pytest.mark.parametrize("n", [2, 9, 65, 1000, 65_537, 300_001])
@pytest.mark.parametrize(
    "draw",
    [every_seventh, two_distances, clustered, one_run, first, last, first_and_last],
    ids=lambda draw: draw.__name__,
)
def test_every_span_takes_the_shortest_form(draw, n):
    support = Support.from_indices((n,), draw(n))

    data = codec.encode_support(support)

    assert codec.decode_support(data, (n,)) == support
    spans = 2 ** data[HEADER + 7]
    for i, (support_bytes, _, count, parameter) in enumerate(chunks_of(data)):
        kept = support.indices
        kept = kept[(kept >= i * spans) & (kept < (i + 1) * spans)] - i * spans
        assert count == len(kept)
        assert (support_bytes, parameter) == shortest(kept, min(spans, n - i * spans))


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**32), log_density=st.floats(-8, 0))
def test_random_supports_take_the_shortest_form(n, seed, log_density):
    support = Support.random((n,), math.exp(log_density), seed)

    data = codec.encode_support(support)

    assert codec.decode_support(data, (n,)) == support
    assert next((c[0], c[3]) for c in chunks_of(data)) == shortest(support.indices, n)


@pytest.mark.parametrize(
    ("density", "limit"),
    [
        (0.001, 1.02),
        (0.01, 1.01),
        (0.05, 1.02),
        (0.1, 1.02),
        (0.2, 1.03),
        (0.3, 1.01),
        (0.5, 1.001),
    ],
)
def test_random_supports_are_near_their_bound(density, limit):
    n = 2**22
    data = codec.encode_support(Support.random((2**10, 2**12), density, seed=1))
    framing = HEADER + DESCRIPTOR + (CHUNK + 8) * sum(1 for _ in chunks_of(data))

    nnz = round(density * n)
    bound = (math.lgamma(n + 1) - math.lgamma(nnz + 1) - math.lgamma(n - nnz + 1)) / math.log(2) / 8
    assert len(data) - framing <= limit * bound
    assert framing <= 0.001 * bound + 150


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
    plain = codec.nbytes(update, schema, base={"w": update["w"].support})
    assert len(data) == codec.nbytes(update, schema, base=base) <= plain
    if rate <= 0.2 and nnz >= 1000:
        bound = codec.bound_bytes(update, schema, base=base)
        assert bound - 4 <= len(data) <= 1.04 * bound + 200


def test_signs_against_equal_signs_take_no_bytes():
    update, schema, base = flips_message(100_000, [])

    assert codec.nbytes(update, schema, base=base) == HEADER + DESCRIPTOR + CHUNK


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
    assert len(data) < codec.nbytes(update, schema, base={"w": support}) / 2


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
