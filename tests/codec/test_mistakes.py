"""Usual mistakes are refused by name: the argument, what was expected, what came."""

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.support import Support

SCHEMA = codec.Schema({"w": ((4, 5), "float32"), "n": ((), "int64")})
KEPT = Support.random((4, 5), 0.5, seed=0)
VALUES = np.ones(KEPT.nnz, np.float32)
SIGNS = np.ones(KEPT.nnz, np.int8)
UPDATE = codec.Update({"w": codec.Sparse(KEPT, VALUES)})
DATA = codec.encode(UPDATE, SCHEMA)

MISTAKES = {
    "encode-swapped": (
        lambda: codec.encode(SCHEMA, UPDATE),
        "update must be an Update, got Schema",
    ),
    "decode-swapped": (lambda: codec.decode(SCHEMA, DATA), "schema must be a Schema, got bytes"),
    "summarise-swapped": (lambda: codec.summarise(SCHEMA, DATA), "schema must be a Schema, got b"),
    "format-as-schema": (lambda: codec.encode(UPDATE, "int8", SCHEMA), "schema must be a Schema"),
    "outline-of-text": (lambda: codec.outline("x"), "data must be bytes, bytearray or memoryview"),
    "tensors-as-schema": (
        lambda: codec.Schema({"w": VALUES}),
        r"tensor 'w': expected a pair \(shape, dtype\), got ndarray",
    ),
    "shape-as-schema": (
        lambda: codec.Schema({"w": (4, 5)}),
        r"tensor 'w': expected a pair \(shape, dtype\), got \(4, 5\)",
    ),
    "state-as-model": (lambda: codec.Schema.of({}), "model must be a torch module, got dict"),
    "array-as-entry": (lambda: codec.Update({"w": VALUES}), "expected Sparse, .*, got ndarray"),
    "integers-as-values": (
        lambda: codec.encode(codec.Update({"w": codec.Sparse(KEPT, SIGNS)}), SCHEMA),
        "tensor 'w': expected values in float32, got int8",
    ),
    "mask-as-base": (
        lambda: codec.encode(UPDATE, SCHEMA, base={"w": KEPT.to_numpy_mask()}),
        r"base\['w'\] must be a Support, got ndarray",
    ),
    "message-as-base": (
        lambda: codec.encode(UPDATE, SCHEMA, base=DATA),
        "base must map tensor names to supports, got bytes",
    ),
    "round-of-a-half": (lambda: codec.Update({}, round=0.5), "round must be an integer, got float"),
    "scales": (lambda: codec.Signs(KEPT, SIGNS, VALUES), "scale must be a number, got ndarray"),
    "share-as-count": (lambda: codec.top_k(VALUES, 0.1), "k must be an integer, got float"),
    "add-swapped": (
        lambda: codec.Accumulator(SCHEMA).add(1.0, DATA),
        "weight must be a number, got bytes",
    ),
    "add-an-update": (
        lambda: codec.Accumulator(SCHEMA).add(UPDATE),
        "message must be bytes, bytearray or memoryview, got Update",
    ),
}
OUT_OF_RANGE = {
    "step-of-zero": (
        lambda: codec.Modular.of(VALUES, 0.0, KEPT),
        "step must be positive and finite in float32, got 0.0",
    ),
    "modular-without-base": (
        lambda: codec.encode(codec.Update({"w": codec.Modular.of(VALUES, 0.1, KEPT)}), SCHEMA),
        "give it as base={'w': support}",
    ),
    "no-voters": (lambda: codec.majority_vote([], 8), "at least, got none"),
}


@pytest.mark.parametrize(("call", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_type_is_named(call, text):
    with pytest.raises(TypeError, match=text):
        call()


@pytest.mark.parametrize(("call", "text"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_a_wrong_value_is_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_bitmaps_of_clients_may_be_one_array():
    packed = np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8)
    assert np.array_equal(codec.majority_vote(packed, 32), codec.majority_vote([*packed], 32))
