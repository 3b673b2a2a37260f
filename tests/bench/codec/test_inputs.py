"""What is sent holds as many bits as is said."""

import dataclasses

import numpy as np
import pytest

from sparsefl.bench.codec import inputs
from sparsefl.bench.codec.entropy import binary_entropy
from sparsefl.codec import Sparse, Update, decode, encode
from sparsefl.codec.bounds import log2_choose
from sparsefl.support import Support

NUMEL = 1 << 16


def kept(content: inputs.Content) -> Support:
    (entry,) = content.update.values()
    return entry.support


def test_a_random_support_is_one_of_all_that_keep_as_many():
    content = inputs.random_support(NUMEL, 0.1)
    assert kept(content).nnz == round(0.1 * NUMEL)
    assert content.bound_bits == log2_choose(NUMEL, kept(content).nnz)


def test_layers_differ_and_their_bounds_add_up():
    content = inputs.layers(NUMEL, 0.2)
    supports = [entry.support for entry in content.update.values()]
    assert len(supports) == inputs.LAYERS
    assert sum(s.nnz for s in supports) == pytest.approx(0.2 * NUMEL, rel=0.02)
    assert content.bound_bits == sum(log2_choose(s.numel, s.nnz) for s in supports)
    assert content.bound_bits < 0.95 * log2_choose(NUMEL, sum(s.nnz for s in supports))


def test_rows_are_bounded_one_by_one():
    content = inputs.rows(NUMEL, 0.05)
    counts = kept(content).to_numpy_mask().sum(axis=1)
    assert kept(content).shape == (NUMEL // inputs.ROW, inputs.ROW)
    one_by_one = [inputs.ROW * float(binary_entropy(c / inputs.ROW)) for c in counts]
    assert content.bound_bits == pytest.approx(sum(one_by_one))


@pytest.mark.parametrize(
    ("make", "height", "width"),
    [(inputs.blocks, 16, 16), (inputs.whole_rows, 1, 256), (inputs.whole_columns, 256, 1)],
)
def test_tiles_are_kept_or_dropped_whole(make, height, width):
    content = make(NUMEL, 0.1)
    mask = kept(content).to_numpy_mask()
    tiles = mask.reshape(256 // height, height, 256 // width, width).mean(axis=(1, 3))
    assert set(np.unique(tiles)) == {0.0, 1.0}
    assert content.bound_bits == log2_choose(tiles.size, int(tiles.sum()))


def test_changes_drop_and_add_as_many():
    content = inputs.changes(NUMEL, 0.1, 300)
    before, after = content.base[inputs.NAME], kept(content)
    common = np.unpackbits(before.packed & after.packed).sum()
    assert (before.nnz, after.nnz, before.nnz - common) == (after.nnz, before.nnz, 300)
    bound = log2_choose(before.nnz, 300) + log2_choose(NUMEL - before.nnz, 300)
    assert content.bound_bits == bound
    assert inputs.whole(NUMEL, 0.1, 300).base is None


def test_additions_drop_nothing():
    content = inputs.additions(NUMEL, 0.1, 300)
    before, after = content.base[inputs.NAME], kept(content)
    assert not (before.packed & ~after.packed).any()
    assert after.nnz - before.nnz == 300
    assert content.bound_bits == log2_choose(NUMEL - before.nnz, 300)


@pytest.mark.parametrize("make", [inputs.flips, inputs.biased_signs])
def test_signs_hold_the_entropy_of_their_share(make):
    content = make(NUMEL, 0.1)
    assert content.bound_bits == pytest.approx(NUMEL * 0.469, rel=0.03)


def test_largest_keeps_the_largest():
    sparse = inputs.largest(np.array([1, -5, 0, 3, -4], np.float32), 0.4)
    assert list(sparse.support.indices) == [1, 4]
    assert list(sparse.values) == [-5, -4]


def test_content_sees_what_was_lost():
    content = inputs.message(inputs.normal(NUMEL), 0.1)
    data = encode(content.update, content.schema, content.value_format)
    decoded = decode(data, content.schema)
    entry = decoded[inputs.NAME]
    assert content.holds(decoded)
    assert not content.holds(Update({inputs.NAME: Sparse(entry.support, 1.1 * entry.values)}))
    exact = dataclasses.replace(content, value_format="fp32")
    assert not exact.holds(decoded)


def test_of_equal_magnitudes_the_first_is_kept():
    sparse = inputs.largest(np.array([1, -2, 2, -2, 0], np.float32), 0.4)
    assert list(sparse.support.indices) == [1, 2]
