"""Entropies against numbers worked out by hand, and rounded values taken apart."""

import numpy as np
import pytest

from sparsefl.bench.codec import entropy, inputs
from sparsefl.codec import Dense, Schema, Update, decode, encode


@pytest.mark.parametrize(("share", "bits"), [(0.0, 0.0), (0.5, 1.0), (0.25, 0.8112781), (1.0, 0.0)])
def test_binary_entropy(share, bits):
    assert entropy.binary_entropy(share) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("symbols", "bits"), [([7], 0.0), ([0, 0, 5, 5], 4.0), ([1, 2, 3, 3], 6.0), ([9] * 5, 0.0)]
)
def test_entropy_bits(symbols, bits):
    assert entropy.entropy_bits(symbols) == pytest.approx(bits)


@pytest.mark.parametrize("chosen", ["int8", "int4"])
@pytest.mark.parametrize("count", [1, 63, 1025, 70_000])
def test_integers_and_scales_are_found_again(chosen, count):
    values = np.random.default_rng(0).standard_t(3, count).astype(np.float32)
    values[: count // 2] = 0
    schema = Schema({"w": ((count,), "float32")})
    data = encode(Update({"w": Dense(values)}), schema, {"w": chosen})
    entry = decode(data, schema)["w"]
    integers, scales = entropy.quantised(entry.values, chosen, entropy.chunk_counts(data, entry))
    block, most = entropy.BLOCKS[chosen]
    assert np.array_equal(integers * np.repeat(scales, block)[:count], entry.values)
    assert np.abs(integers).max() == most


def test_blocks_begin_anew_with_each_chunk():
    dense = np.random.default_rng(0).standard_normal(1 << 23, np.float32)
    sparse = inputs.largest(dense, 0.01)
    schema = Schema({"w": (dense.shape, "float32")})
    data = encode(Update({"w": sparse}), schema, {"w": "int8"})
    entry = decode(data, schema)["w"]
    counts = entropy.chunk_counts(data, entry)
    assert len(counts) > 1
    assert sum(counts) == sparse.support.nnz
    _, scales = entropy.quantised(entry.values, "int8", counts)
    assert len(scales) == sum(-(-count // 1024) for count in counts)


def test_values_that_no_scale_makes_integers_are_refused():
    values = np.array([1.0, np.pi], np.float32)
    with pytest.raises(ValueError, match="1 blocks have no scale"):
        entropy.quantised(values, "int8", [2])


def test_fp32_holds_exponents_and_24_bits_a_value():
    values = np.array([1.0, -1.5, 2.0, 3.0], np.float32)
    assert entropy.value_bits(values, "fp32", [4]) == pytest.approx(4 * 24 + 4)
