"""Top-k: equal to a stable sort by magnitude, for every instruction set."""

import numpy as np
import pytest
import torch

from sparsefl import _codec, codec

RANDOM = np.random.default_rng(0)
# Above 32768 elements a sample brackets the threshold.
MANY = 100_003


def expected(x, k):
    """Mask of the k largest magnitudes, ties to the lowest index."""
    mask = np.zeros(x.size, bool)
    mask[np.argsort(-np.abs(x), kind="stable")[:k]] = True
    return mask


def rows_of_one_size():
    """Columns of a matrix of very different sizes: what misleads a sample on a lattice."""
    return (RANDOM.standard_normal((391, 256)) * np.exp2(np.arange(256) % 64)).astype("f4").ravel()


ARRAYS = {
    "normal": RANDOM.standard_normal(MANY).astype(np.float32),
    "small": RANDOM.standard_normal(1021).astype(np.float32),
    "heavy tail": RANDOM.standard_t(1.0, MANY).astype(np.float32),
    "all zero": np.zeros(MANY, np.float32),
    "all equal": np.where(np.arange(MANY) % 3 == 0, -2.5, 2.5).astype(np.float32),
    "few levels": RANDOM.integers(-3, 4, MANY).astype(np.float32),
    "half zero": np.where(np.arange(MANY) % 2, RANDOM.standard_normal(MANY), 0).astype("f4"),
    "denormal": (RANDOM.integers(-500, 500, MANY) * 1e-45).astype(np.float32),
    "infinite": np.where(RANDOM.random(MANY) < 0.01, -np.inf, 1.5).astype(np.float32),
    "sorted": np.linspace(0, 1, MANY, dtype=np.float32),
    "rows": rows_of_one_size(),
    "one spike run": np.where(np.arange(MANY) < 300, 7.0, 1e-3).astype(np.float32),
}


@pytest.mark.parametrize("share", [0, 1e-5, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999, 1])
@pytest.mark.parametrize("kind", ARRAYS)
def test_equals_a_stable_sort(kind, share, isa_name):
    x = ARRAYS[kind]
    k = round(share * x.size)
    mask = expected(x, k)

    [(bits, count)], values = _codec.top_k([x], k, isa_name)

    assert count == k
    assert bits.tobytes() == np.packbits(mask, bitorder="little").tobytes()
    assert values.tobytes() == x[mask].tobytes()


@pytest.mark.parametrize("n", [0, 1, 7, 63, 64, 65, 127, 32768, 32769, 32831])
def test_awkward_sizes(n, isa_name):
    x = np.random.default_rng(n).integers(-50, 51, n).astype(np.float32)
    for k in sorted({0, n // 3, max(n - 1, 0), n}):
        mask = expected(x, k)
        [(bits, _)], values = _codec.top_k([x], k, isa_name)
        assert bits.tobytes() == np.packbits(mask, bitorder="little").tobytes()
        assert values.tobytes() == x[mask].tobytes()


@pytest.mark.parametrize("k", [0, 1, 17, 30_000, 70_000, 110_003])
def test_one_threshold_for_all_tensors(k):
    normal, size = ARRAYS["normal"], 7
    tensors = {
        "a": normal[:50_001],
        "none": np.zeros((0, 3), np.float32),
        "b": 2 * normal[50_001 : 50_001 + 2 * size].reshape(2, size),
        "c": torch.from_numpy(normal[:59_988].reshape(12, -1).copy()),
    }
    flat = np.concatenate([np.asarray(x).ravel() for x in tensors.values()])
    mask = expected(flat, k)

    found = codec.top_k_of_all(tensors, k)

    assert list(found) == list(tensors)
    assert [found[name].support.shape for name in tensors] == [
        tuple(x.shape) for x in tensors.values()
    ]
    masks = [entry.support.to_numpy_mask().ravel() for entry in found.values()]
    assert np.array_equal(np.concatenate(masks), mask)
    assert np.array_equal(np.concatenate([e.values for e in found.values()]), flat[mask])


def test_no_tensor_has_no_largest_element():
    assert codec.top_k_of_all({}, 0) == {}


def test_the_result_is_what_a_message_takes():
    x = ARRAYS["normal"][:1200].reshape(30, 40)
    support, values = codec.top_k(torch.from_numpy(x), 100)
    schema = codec.Schema({"w": ((30, 40), "float32")})
    update = codec.Update({"w": codec.Sparse(support, values)})

    assert codec.decode(codec.encode(update, schema), schema) == update


@pytest.mark.parametrize("n", [5, MANY])
@pytest.mark.parametrize("k", [0, 1, "n"])
def test_nan_is_refused(n, k):
    x = np.ones(n, np.float32)
    x[n // 2] = -np.nan
    with pytest.raises(ValueError, match="b has a NaN"):
        codec.top_k_of_all({"a": np.ones(3, np.float32), "b": x}, n + 3 if k == "n" else k)


@pytest.mark.parametrize(
    ("x", "k", "error", "says"),
    [
        (np.ones(4), 1, TypeError, "x must be float32, got float64"),
        ([1.0], 1, TypeError, "x must be a numpy array"),
        (np.ones(4, np.float32), 5, ValueError, r"k must be within \[0, 4\]"),
        (np.ones(4, np.float32), -1, ValueError, "k must not be negative"),
        (np.ones(4, np.float32), 1.0, TypeError, "integer"),
    ],
    ids=["float64", "list", "too many", "negative", "float k"],
)
def test_bad_arguments_are_refused(x, k, error, says):
    with pytest.raises(error, match=says):
        codec.top_k(x, k)
