"""The rounding that a caller names, and the stream of words that it stands for."""

import hashlib

import pytest

from sparsefl.codec.rounding import Stochastic, draws_of


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
