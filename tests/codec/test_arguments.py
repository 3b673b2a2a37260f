"""What the caller gets wrong is named: the argument, what was expected, what came."""

import copy
import pickle

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.support import Support

SCHEMA = codec.Schema({"w": ((2, 3), "float32"), "n": ((), "int64")})
KEPT = Support.from_indices((2, 3), [1, 4])


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize("value_format", ["int2", "fp8", ""])
def test_unknown_formats_are_named_with_the_known(value_format):
    known = r"one of \('fp32', 'bf16', 'int8', 'int4', 'ternary', 'raw'\), got"
    with pytest.raises(ValueError, match=known):
        codec.encode(codec.Update({}), SCHEMA, value_format)


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"w": codec.Dense(ones(3, 2))}, ValueError, r"'w'.*\(3, 2\).*\(2, 3\)"),
        ({"v": codec.Dense(ones(3, 2))}, ValueError, "'v'"),
        ({"w": codec.Dense(ones(2, 3, dtype=np.int64))}, TypeError, "'w'.*float32.*int64"),
        ({"n": codec.Dense(ones(dtype=np.int32))}, TypeError, "'n'.*int64.*int32"),
        ({"n": codec.Regenerated(1)}, TypeError, "'n' is int64"),
        (
            {"w": codec.Sparse(Support.random((3, 2), 0.0), ones(0))},
            ValueError,
            r"'w'.*\(3, 2\).*\(2, 3\)",
        ),
        ({"w": codec.Dense(ones(2, 3) * np.nan)}, ValueError, "'w': values must be finite"),
        ({"w": codec.Sparse(KEPT, ones(2) * np.inf)}, ValueError, "'w': values must be finite"),
        (
            {"w": codec.Dense(ones(2, 3, dtype=np.float64) * 1e300)},
            ValueError,
            "'w': values must be finite",
        ),
        (
            {"w": codec.Signs(KEPT, np.array([1, 0], np.int8))},
            ValueError,
            r"'w': signs must be \+1 or -1",
        ),
    ],
)
def test_tensors_that_do_not_fit(entries, error, message):
    with pytest.raises(error, match=message):
        codec.encode(codec.Update(entries), SCHEMA)


def test_a_bool_of_another_byte_is_refused():
    schema = codec.Schema({"w": ((3,), "bool")})
    values = np.array([0, 1, 2], np.uint8).view(np.bool_)

    with pytest.raises(ValueError, match="'w': bools must be 0 or 1"):
        codec.encode(codec.Update({"w": codec.Dense(values)}), schema)


@pytest.mark.parametrize("value", [3.4e38, -np.inf, np.nan])
def test_bf16_refuses_what_it_cannot_hold(value):
    with pytest.raises(ValueError, match="'w': values must be finite and within bfloat16's range"):
        codec.encode(codec.Update({"w": codec.Dense(ones(2, 3) * value)}), SCHEMA, "bf16")


@pytest.mark.parametrize("sign", [0, 2, 127, -2, -128, 3])
@pytest.mark.parametrize("at", [0, 7, 8, 10])
def test_every_value_that_is_no_sign_is_refused(sign, at):
    support = Support.from_mask(np.ones(11, np.bool_))
    signs = np.array([1, -1] * 5 + [1], np.int8)
    signs[at] = sign

    with pytest.raises(ValueError, match="signs must be"):
        codec.encode(
            codec.Update({"w": codec.Signs(support, signs)}),
            codec.Schema({"w": ((11,), "float32")}),
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: codec.Sparse(KEPT, ones(3)), ValueError, r"values must be \[2\].*\(3,\)"),
        (lambda: codec.Sparse(KEPT, [1.0, 2.0]), TypeError, "values must be.*list"),
        (lambda: codec.Sparse(KEPT.to_mask(), ones(2)), TypeError, "support must be a Support"),
        (lambda: codec.Signs(KEPT, ones(2)), TypeError, "signs must be int8, got float32"),
        (lambda: codec.Signs(KEPT, ones(2, dtype=np.int8), -1.0), ValueError, "scale.*-1"),
        (lambda: codec.Signs(KEPT, ones(2, dtype=np.int8), 1e39), ValueError, "scale.*1e\\+39"),
        (lambda: codec.Regenerated(2**64), ValueError, "seed must be within"),
        (lambda: codec.Regenerated(-1), ValueError, "seed must be within"),
        (lambda: codec.Regenerated(1.5), TypeError, "float"),
        (lambda: codec.SupportOnly(3), TypeError, "support must be a Support, got int"),
        (lambda: codec.Update({"w": ones(2)}), TypeError, "'w': expected Sparse.*got ndarray"),
        (lambda: codec.Update({}, round=2**32), ValueError, "round must be within"),
        (lambda: codec.Schema({"w": ((2,), "complex64")}), TypeError, "'w'.*complex64"),
        (lambda: codec.Schema({"w": ((2,), "nonsense")}), TypeError, "'w'.*nonsense"),
        (lambda: codec.Schema({"w": ((-2,), "float32")}), ValueError, "negative"),
        (lambda: codec.Schema({"w": ((2**41,), "float32")}), ValueError, "at most"),
        (lambda: codec.Schema({3: ((2,), "float32")}), TypeError, "name must be a string"),
        (lambda: codec.Schema({"w" * 70_000: ((2,), "float32")}), ValueError, "exceeds 65535"),
    ],
)
def test_bad_parts(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("value_format", "error", "message"),
    [
        ({"v": "fp32"}, ValueError, "names 'v'"),
        ({"w": "int2"}, ValueError, "one of .*'int8'.*got 'int2'"),
        ({"n": "int8"}, ValueError, r"'n' \(int64\) must be 'raw', got 'int8'"),
        ({"n": "fp32"}, ValueError, r"'n' \(int64\) must be 'raw', got 'fp32'"),
        (16, TypeError, "name or a mapping"),
    ],
)
def test_bad_formats(value_format, error, message):
    with pytest.raises(error, match=message):
        codec.encode(codec.Update({}), SCHEMA, value_format)


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        ({"w": Support.random((3, 2), 0.5)}, ValueError, r"base\['w'\].*\(3, 2\).*\(2, 3\)"),
        ({"w": KEPT.to_mask()}, TypeError, r"base\['w'\] must be a Support, got Tensor"),
        (KEPT, TypeError, "base must map"),
        (
            codec.Update({"w": codec.Signs(Support.random((3, 2), 1.0), ones(6, dtype=np.int8))}),
            ValueError,
            r"base\['w'\].*\(3, 2\).*\(2, 3\)",
        ),
    ],
)
def test_bad_bases(base, error, message):
    data = codec.encode(codec.Update({}), SCHEMA)

    with pytest.raises(error, match=message):
        codec.encode(codec.Update({}), SCHEMA, base=base)
    with pytest.raises(error, match=message):
        codec.decode(data, SCHEMA, base=base)


def test_other_types_than_bytes_and_schemas():
    with pytest.raises(TypeError, match=r"data must be bytes.*str"):
        codec.decode("text", SCHEMA)
    with pytest.raises(TypeError, match="schema must be a Schema, got dict"):
        codec.decode(b"", {})
    with pytest.raises(TypeError, match="update must be an Update, got dict"):
        codec.encode({}, SCHEMA)
    with pytest.raises(TypeError, match="mask must be bool"):
        codec.encode_support(ones(3))


def test_errors_and_schemas_survive_pickling():
    error = codec.CodecError(codec.CodecReason.MAGIC, 3)
    again = pickle.loads(pickle.dumps(error))

    assert (again.reason, again.where) == (error.reason, 3)
    assert str(again) == f"message refused: MAGIC (tensor 3 of the message): {error.reason.meaning}"
    assert pickle.loads(pickle.dumps(SCHEMA)) == SCHEMA == copy.deepcopy(SCHEMA)


def test_updates_are_equal_by_content():
    make = lambda v, r: codec.Update({"w": codec.Dense(ones(2) * v)}, round=r)  # noqa: E731

    assert make(1, 2) == make(1, 2)
    assert make(1, 2) != make(1, 3)
    assert make(1, 2) != make(2, 2)
    assert codec.SupportOnly(KEPT) != codec.Dense(torch.ones(2))
