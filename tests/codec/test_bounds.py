import math

import numpy as np
import pytest

from sparsefl import _codec, codec
from sparsefl.codec.bounds import log2_choose
from sparsefl.codec.plan import plan
from sparsefl.codec.schema import DTYPE_CODES
from sparsefl.support import Support

# The EMNIST CNN of FedPT and HideNseek.
CNN = {
    "conv1.weight": (32, 1, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (64, 32, 3, 3),
    "conv2.bias": (64,),
    "fc1.weight": (128, 9216),
    "fc1.bias": (128,),
    "fc2.weight": (62, 128),
    "fc2.bias": (62,),
}
SCHEMA = codec.Schema({name: (shape, "float32") for name, shape in CNN.items()})


@pytest.mark.parametrize(("n", "k"), [(0, 0), (9, 0), (9, 9), (9, 4), (1000, 100)])
def test_log2_choose_is_that_of_integers(n, k):
    assert log2_choose(n, k) == pytest.approx(math.log2(math.comb(n, k)), abs=1e-9)


def test_bound_counts_each_part():
    support = Support.random((40, 50), 0.1)
    schema = codec.Schema(dict.fromkeys("abcd", ((40, 50), "float32")))
    values = np.where(np.arange(200) % 2, 1.5, 3.0).astype(np.float32)
    signs = np.where(np.arange(200) % 4, 1, -1).astype(np.int8)
    update = codec.Update(
        {
            "a": codec.Sparse(support, values),
            "b": codec.Signs(support, signs),
            "c": codec.Dense(np.ones((40, 50), np.float32)),
            "d": codec.Regenerated(1),
        }
    )
    choose, negative = (math.log2(math.comb(*nk)) for nk in ((2000, 200), (200, 50)))

    fp32 = codec.bound_bytes(update, schema)
    shared = codec.bound_bytes(update, schema, "bf16", {"a": support, "b": support})

    assert fp32 == math.ceil((2 * choose + 200 + negative + 32 + 64) / 8)
    assert shared == math.ceil((200 + negative + 32 + 64) / 8)


def test_bound_of_signs_against_a_base_counts_their_flips():
    support = Support.random((40, 50), 0.1)
    schema = codec.Schema({"w": ((40, 50), "float32")})
    signs = np.where(np.arange(200) % 3, 1, -1).astype(np.int8)
    flipped = np.where(np.arange(200) < 12, -signs, signs)
    update = codec.Update({"w": codec.Signs(support, flipped)})

    for base in (codec.Signs(support, signs), codec.Sparse(support, signs * 0.5)):
        bits = math.log2(math.comb(200, 12)) + 32
        assert codec.bound_bytes(update, schema, base={"w": base}) == math.ceil(bits / 8)


def entropy(symbols):
    """Bits of symbols that are coded by their own frequencies, all together."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(np.sum(counts * np.log2(len(symbols) / counts)))


@pytest.mark.parametrize(("value_format", "most"), [("int8", 127), ("int4", 7), ("ternary", 1)])
def test_bound_counts_integers_and_scales_of_blocks(value_format, most):
    schema = codec.Schema({"w": ((1, 5120), "float32")})
    integers = np.random.default_rng(1).integers(-most, most + 1, size=5120)
    update = codec.Update({"w": codec.Dense(integers.reshape(1, -1).astype(np.float32))})

    bound = codec.bound_bytes(update, schema, value_format)
    data = codec.encode(update, schema, value_format)
    back = codec.decode(data, schema)["w"].values.reshape(-1)

    if value_format != "ternary":  # whose scales are not those of the largest
        assert np.array_equal(back, integers)
        held = integers if most == 127 else (integers[0::2] & 15) | (integers[1::2] & 15) << 4
        assert bound == math.ceil(entropy(held) / 8)  # all scales are the same
    assert bound <= len(data) <= 1.02 * bound + 400


@pytest.mark.parametrize(("value_format", "width"), [("fp32", 4), ("bf16", 2)])
def test_bound_counts_planes_by_their_entropy(value_format, width):
    schema = codec.Schema({"w": ((1, 5120), "float32")})
    values = np.random.default_rng(1).normal(size=(1, 5120)).astype(np.float32)
    update = codec.Update({"w": codec.Dense(values)})

    bound = codec.bound_bytes(update, schema, value_format)
    data = codec.encode(update, schema, value_format)

    back = codec.decode(data, schema)["w"].values.reshape(-1)
    words = back.view(np.uint32)
    planes = ((words << 1) | (words >> 31)) >> 8 * np.arange(4)[:, None] & 255
    if width == 2:  # the upper half, turned by itself
        words >>= 16
        planes = ((words << 1) | (words >> 15)) >> 8 * np.arange(2)[:, None] & 255
    assert bound == math.ceil(sum(entropy(plane) for plane in planes) / 8)
    assert bound <= len(data) <= 1.02 * bound + 400


@pytest.mark.parametrize("value_format", ["fp32", "bf16", "int8", "int4", "ternary", "raw"])
@pytest.mark.parametrize("shape", [(3, 20480), (1, 45061)])
def test_bound_of_many_values_is_that_of_their_whole_section(value_format, shape):
    """What is counted in parts is what stands in the raw section of a plain message."""
    schema = codec.Schema({"w": (shape, "float16" if value_format == "raw" else "float32")})
    values = np.random.default_rng(2).normal(size=shape).astype(schema["w"].dtype)
    update = codec.Update({"w": codec.Dense(values)})

    (item,) = plan(update, schema, value_format, None)
    log2 = 0 if value_format in ("fp32", "bf16", "raw") else 10 if value_format != "int4" else 6
    raw = np.frombuffer(
        _codec.value_section(
            int(item.value_mode),
            DTYPE_CODES[schema["w"].dtype],
            log2,
            item.values.reshape(-1).view(np.uint8),
            0,
        )[1],
        np.uint8,
    )
    if log2:
        scales = 2 * math.ceil(item.count / 2**log2)
        planes = [raw[:scales:2], raw[1:scales:2], raw[scales:]]
    else:
        words = raw.view(f"<u{raw.size // item.count}")
        turned = (words << 1) | (words >> (8 * words.itemsize - 1))
        planes = turned.view(np.uint8).reshape(-1, words.itemsize).T

    bits = sum(entropy(plane) for plane in planes)
    assert codec.bound_bytes(update, schema, value_format) == math.ceil(bits / 8)


def test_values_without_a_place_in_their_format_have_no_bound():
    schema = codec.Schema({"w": ((1, 3), "float32")})
    update = codec.Update({"w": codec.Dense(np.array([[1.0, np.inf, 2.0]], np.float32))})

    with pytest.raises(ValueError, match="'w': a value has no place in int8"):
        codec.bound_bytes(update, schema, "int8")


def test_fedpt_uplink_realises_97_percent_of_the_trainable_fraction():
    update = codec.Update(
        {
            n: codec.Dense(np.random.default_rng(1).normal(size=s).astype(np.float32))
            for n, s in CNN.items()
            if n != "fc1.weight"
        }
    )
    total = sum(spec.numel for spec in SCHEMA.values())
    trainable = total - SCHEMA["fc1.weight"].numel

    factor = 4 * total / len(codec.encode(update, SCHEMA))

    assert (trainable, total) == (26_942, 1_206_590)
    assert factor >= 0.97 * total / trainable


@pytest.mark.parametrize("biases", [True, False])
def test_hidenseek_uplink_takes_103_percent_of_a_bit_a_kept_weight(biases):
    kept = {n: Support.random(s, 0.1) for n, s in CNN.items() if n.endswith("weight")}
    entries = {n: codec.Signs(s, np.ones(s.nnz, np.int8), 0.1) for n, s in kept.items()}
    dense = {n: np.ones(s, np.float32) for n, s in CNN.items() if n.endswith("bias") and biases}
    update = codec.Update({**entries, **{n: codec.Dense(v) for n, v in dense.items()}})

    payload = len(codec.encode(update, SCHEMA, base=kept)) - sum(v.nbytes for v in dense.values())

    assert 8 * payload <= 1.03 * sum(s.nnz for s in kept.values())
