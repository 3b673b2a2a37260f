"""Messages that several threads encode: the bytes and the refusals of one."""

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec.summary import summarise
from sparsefl.support import Support

SHAPE = (3511, 640)


def moved(support, share, seed):
    """A support with that share of the kept positions elsewhere."""
    random = np.random.default_rng(seed)
    mask = support.to_numpy_mask().reshape(-1).copy()
    kept, others = np.flatnonzero(mask), np.flatnonzero(~mask)
    count = int(len(kept) * share)
    mask[random.choice(kept, count, replace=False)] = False
    mask[random.choice(others, count, replace=False)] = True
    return Support.from_mask(mask.reshape(support.shape))


def signs(count, seed):
    return np.where(np.random.default_rng(seed).random(count) < 0.5, 1, -1).astype(np.int8)


@pytest.fixture
def update():
    """Values, signs, changes of both and what has no chunk, each of several chunks."""
    random = np.random.default_rng(0)
    support = Support.random(SHAPE, 0.4, 1)
    flipped = signs(support.nnz, 2)
    base = {
        "changed": support,
        "flipped": codec.Signs(support, flipped.copy()),
        "new": Support.random(SHAPE, 0.4, 9),
    }
    flipped[::50] *= -1
    entries = {
        "changed": codec.SupportOnly(moved(support, 0.01, 3)),
        "drawn": codec.Regenerated(7),
        "flipped": codec.Signs(support, flipped),
        "new": codec.Signs(support, signs(support.nnz, 4)),
        "values": codec.Sparse(support, random.standard_normal(support.nnz).astype(np.float32)),
        "dense": codec.Dense(random.standard_normal(SHAPE).astype(np.float32)),
        "none": codec.Sparse(Support.from_mask(np.zeros(SHAPE, bool)), np.zeros(0, np.float32)),
    }
    schema = codec.Schema(dict.fromkeys(entries, (SHAPE, "float32")))
    return codec.Update(entries, round=3), schema, base


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("rounding", ["nearest", codec.Stochastic(5)], ids=str)
@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4", "ternary"])
def test_bytes_do_not_depend_on_the_threads(update, value_format, rounding, threads):
    content, schema, base = update
    fixed = {"value_format": value_format, "base": base, "rounding": rounding}

    message = codec.encode(content, schema, **fixed)

    assert codec.encode(content, schema, **fixed, threads=threads) == message
    tensors = {t.name: t for t in codec.summarise(message, schema).tensors}
    assert sum(t.chunks for t in tensors.values()) > len(tensors)
    assert tensors["changed"].support_mode == "changes"
    assert tensors["flipped"].value_mode == "flips"
    assert tensors["new"].value_mode == "sign"


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_first_tensor_that_is_refused_is_named(update, threads):
    content, schema, base = update
    sparse, dense = content["values"], content["dense"]
    last, first = sparse.values.copy(), dense.values.copy()
    last[-1] = first[0, 0] = np.nan
    broken = {**content, "values": codec.Sparse(sparse.support, last), "dense": codec.Dense(first)}

    with pytest.raises(ValueError, match="tensor 'values': values must be finite"):
        codec.encode(codec.Update(broken), schema, base=base, threads=threads)


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)]
)
def test_a_number_of_threads_that_is_none_is_refused(update, threads, error):
    with pytest.raises(error, match="threads"):
        codec.encode(update[0], update[1], base=update[2], threads=threads)


@pytest.mark.parametrize(("value_format", "least"), [("fp32", 4), ("bf16", 2)])
def test_dense_tensors_of_long_rows_leave_something_to_each_thread(value_format, least):
    shape = (128, 9216)
    schema = codec.Schema({"w": (shape, "float32"), "small": ((128, 96), "float32")})
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    update = codec.Update({"w": codec.Dense(values), "small": codec.Dense(values[:, :96])})

    message = codec.encode(update, schema, value_format)

    chunks = {tensor.name: tensor.chunks for tensor in summarise(message, schema).tensors}
    assert chunks["w"] >= least
    assert chunks["small"] == 1
