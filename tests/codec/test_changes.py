"""Supports as changes of one that the receiver has: near their bound, refused on another base."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefl import codec
from sparsefl.codec import CodecReason
from sparsefl.codec.bounds import log2_choose
from sparsefl.support import Support

CHANGES = 3


def mode_of(data, descriptor=0):
    return data[64 + 24 * descriptor + 4]


def changed(base, drops, adds, seed):
    """Returns `base` without some of its positions and with some others."""
    random = np.random.default_rng(seed)
    mask = base.to_numpy_mask().reshape(-1)
    kept, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    mask[random.choice(kept, min(drops, kept.size), replace=False)] = False
    mask[random.choice(others, min(adds, others.size), replace=False)] = True
    return Support.from_mask(mask.reshape(base.shape))


def change_bound(base, support):
    """Bytes of log2 C(k, drops) + log2 C(n - k, adds)."""
    same = int(np.count_nonzero(base.to_numpy_mask() & support.to_numpy_mask()))
    bits = log2_choose(base.nnz, base.nnz - same)
    return (bits + log2_choose(base.numel - base.nnz, support.nnz - same)) / 8


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(0, 3000),
    density=st.floats(0, 1),
    drops=st.integers(0, 40),
    adds=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_changed_supports_come_back(n, density, drops, adds, seed):
    base = Support.random((n,), density, seed)
    support = changed(base, drops, adds, seed)

    data = codec.encode_support(support, base)

    assert codec.decode_support(data, (n,), base) == support
    assert len(data) <= len(codec.encode_support(support))


@pytest.mark.isa
@pytest.mark.parametrize("rans", [True, False])
def test_several_chunks(rans):
    """Nothing changes in the first span, everything in the second, some of the others."""
    shape = (7, 2**20 + 13)
    base = Support.random(shape, 0.3, seed=1)
    mask = changed(base, 5000, 4000, seed=2).to_numpy_mask().reshape(-1)
    mask[: 2**20] = base.to_numpy_mask().reshape(-1)[: 2**20]
    support = Support.from_mask(mask.reshape(shape))

    data = codec.encode_support(support, base, rans=rans)

    assert mode_of(data) == CHANGES
    assert codec.decode_support(data, shape, base) == support
    assert len(data) < len(codec.encode_support(support)) / 5


@pytest.mark.parametrize(
    ("density", "churn"), [(0.5, 0.01), (0.1, 0.05), (0.1, 0.01), (0.01, 0.05)]
)
def test_changes_are_near_their_bound(density, churn):
    shape = (2**11, 2**12)
    base = Support.random(shape, density, seed=3)
    count = round(churn * base.nnz)
    support = changed(base, count, count, seed=4)

    data = codec.encode_support(support, base)

    assert mode_of(data) == CHANGES
    assert len(data) <= 1.01 * change_bound(base, support) + 150
    schema = codec.Schema({"support": (shape, "bool")})
    update = codec.Update({"support": codec.SupportOnly(support)})
    assert codec.bound_bytes(update, schema, base={"support": base}) == math.ceil(
        change_bound(base, support)
    )


def test_a_few_thousand_additions_are_within_half_a_percent_of_their_bound():
    """Too few for a table of their heads to pay: a class states nothing, so heads may be finer."""
    shape = (2**22,)
    base = Support.random(shape, 0.1, seed=0)
    support = changed(base, 0, 4194, seed=1)

    data = codec.encode_support(support, base)

    assert codec.decode_support(data, shape, base) == support
    assert codec.outline(data).support_bytes <= 1.005 * change_bound(base, support)


def test_drops_that_the_receiver_computes_are_not_sent():
    base = Support.random((300, 700), 0.1, seed=5)
    support = changed(base, 2000, 2000, seed=6)
    stays = Support.from_mask(base.to_numpy_mask() & support.to_numpy_mask())

    both = codec.encode_support(support, base)
    adds = codec.encode_support(support, stays)

    assert codec.decode_support(adds, support.shape, stays) == support
    assert len(adds) < 0.75 * len(both)


def test_a_new_support_is_sent_whole_where_that_is_smaller():
    base, support = (Support.random((300, 700), 0.1, seed=seed) for seed in (1, 2))

    data = codec.encode_support(support, base)

    assert data == codec.encode_support(support)
    assert codec.decode_support(data, support.shape) == support


def test_values_on_a_changed_support():
    base = Support.random((300, 700), 0.1, seed=7)
    support = changed(base, 20, 30, seed=8)
    schema = codec.Schema({"w": ((300, 700), "float32"), "b": ((700,), "float32")})
    values = np.random.default_rng(9).standard_normal(support.nnz).astype(np.float32)
    update = codec.Update({"w": codec.Sparse(support, values)})

    data = codec.encode(update, schema, base={"w": base})

    assert mode_of(data) == CHANGES
    assert codec.decode(data, schema, {"w": base}) == update


@pytest.mark.parametrize("other", ["another", "none"])
def test_another_base_is_refused(other):
    base = Support.random((300, 700), 0.1, seed=7)
    support = changed(base, 20, 30, seed=8)
    data = codec.encode_support(support, base)
    theirs = {"another": changed(base, 1, 1, seed=9), "none": None}[other]
    reason = {"another": CodecReason.BASE_MISMATCH, "none": CodecReason.BASE_MISSING}[other]

    with pytest.raises(codec.CodecError) as refusal:
        codec.decode_support(data, support.shape, theirs)

    assert refusal.value.reason is reason


@pytest.mark.parametrize("base", [np.ones((3, 4), np.bool_), Support.random((4, 3), 0.5)], ids=type)
def test_a_base_of_another_shape(base):
    with pytest.raises(ValueError, match=r"covers \(\d, \d\), the schema has \(2, 6\)"):
        codec.encode_support(np.ones((2, 6), np.bool_), base)


def test_a_base_that_is_no_mask():
    with pytest.raises(TypeError, match="base must be bool, got int64"):
        codec.encode_support(np.ones((2, 6), np.bool_), np.ones((2, 6), np.int64))
