"""The rounding that a caller names, and the stream of words that it stands for."""

import hashlib

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.codec.rounding import Stochastic, draws_of
from sparsefl.support import Support


def test_nearest_takes_no_words():
    assert draws_of("nearest", "w", 3) is None


def test_a_stream_belongs_to_one_tensor_of_one_round():
    name = "rounding of fc.weight in round 3"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")

    assert draws_of(Stochastic(7), "fc.weight", 3) == (7, number)
    assert draws_of(Stochastic(7), "fc.weight", 4) != (7, number)
    assert draws_of(Stochastic(7), "fc.bias", 3) != (7, number)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ValueError, match="seed must be within"):
        Stochastic(seed)


def test_a_seed_is_an_integer():
    with pytest.raises(TypeError):
        Stochastic(0.5)


@pytest.mark.parametrize(("rounding", "error"), [("up", ValueError), (None, TypeError)])
def test_other_roundings_are_refused(rounding, error):
    with pytest.raises(error, match="rounding must be 'nearest' or a Stochastic"):
        draws_of(rounding, "w", 0)


FORMATS = pytest.mark.parametrize("value_format", ["bf16", "int8", "int4", "ternary"])
SHAPE = (700, 1001)  # of several chunks in any format but ternary
SCHEMA = codec.Schema({"w": (SHAPE, "float32"), "v": (SHAPE, "float32")})


def sent(update, value_format, **options):
    return codec.decode(codec.encode(update, SCHEMA, value_format, **options), SCHEMA)


@FORMATS
def test_the_mean_of_what_arrives_is_what_was_sent(value_format):
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    update = codec.Update({"w": codec.Dense(values), "v": codec.Dense(values)}, round=5)

    arrived = [sent(update, value_format, rounding=Stochastic(seed)) for seed in range(3)]
    error = np.stack([one[name].values - values for one in arrived for name in ("w", "v")])

    # Draws of other seeds and other tensors are other draws, and errors average out over values.
    assert abs(error.mean()) <= 5 * error.std() / error.size**0.5
    flat = error.reshape(6, -1)
    correlation = np.corrcoef(flat)[np.triu_indices(6, 1)]
    assert np.abs(correlation).max() <= 5 / values.size**0.5


@FORMATS
def test_draws_change_with_the_round_and_repeat_with_the_seed(value_format):
    support = Support.random(SHAPE, 0.4, seed=1)
    values = np.random.default_rng(0).standard_normal(support.nnz).astype(np.float32)
    updates = [codec.Update({"w": codec.Sparse(support, values)}, round=r) for r in (1, 2)]

    first, other = (sent(u, value_format, rounding=Stochastic(9))["w"] for u in updates)

    assert sent(updates[0], value_format, rounding=Stochastic(9))["w"] == first
    assert first != other
    assert sent(updates[0], value_format)["w"] == sent(updates[1], value_format)["w"]


def test_formats_that_lose_nothing_do_not_round():
    update = codec.Update({"w": codec.Dense(np.full(SHAPE, 1 / 3, np.float32))})

    assert sent(update, "fp32", rounding=Stochastic(1)) == sent(update, "fp32")


def test_encode_refuses_other_roundings():
    with pytest.raises(ValueError, match="rounding must be 'nearest' or a Stochastic"):
        codec.encode(codec.Update({"w": codec.Dense(np.ones(SHAPE))}), SCHEMA, rounding="up")
