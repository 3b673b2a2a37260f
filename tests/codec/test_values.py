"""Value sections, byte for byte against the definition of FORMAT.md in exact arithmetic."""

import hashlib

import numpy as np
import pytest
from exact_values import (
    BF16,
    BLOCKED,
    BLOCKS,
    COUNTS,
    FLOATS,
    FP32,
    INT4,
    INT8,
    NAMES,
    PLAIN,
    RANS,
    RAW,
    RAW_DTYPES,
    SEED,
    STREAM,
    TERNARY,
    around_the_smallest_scale,
    decoded,
    halves,
    heavy,
    mostly_zero,
    of_every_exponent,
    of_near_exponents,
    planes_of,
    raw_of,
    read,
    section,
)

from sparsefl import _codec

DRAWS = pytest.mark.parametrize(
    "draw",
    [of_every_exponent, of_near_exponents, around_the_smallest_scale, halves, mostly_zero],
    ids=lambda draw: draw.__name__,
)


@pytest.mark.isa
@BLOCKS
@DRAWS
def test_blocks_are_as_exact_arithmetic_has_them(mode, draw):
    values = draw(np.random.default_rng(1), 2500).astype(np.float32)

    coder, data = section(mode, values, PLAIN)

    assert (coder, data) == (0, raw_of(planes_of(mode, values)))


@pytest.mark.isa
@BLOCKS
@pytest.mark.parametrize("n", COUNTS)
def test_awkward_counts(mode, n):
    values = heavy(n, n)

    coder, data = section(mode, values, PLAIN)

    assert (coder, data) == (0, raw_of(planes_of(mode, values)))
    assert np.array_equal(decoded(mode, values), decoded(mode, values, profile=PLAIN))


@pytest.mark.isa
@BLOCKS
@DRAWS
def test_random_rounding_is_as_exact_arithmetic_has_it(mode, draw):
    values = draw(np.random.default_rng(2), 2500).astype(np.float32)
    words = _codec.uniform_bits(SEED, STREAM, values.size + 1000)[1000:]

    coder, data = section(mode, values, PLAIN, rounding=(SEED, STREAM, 1000))

    assert (coder, data) == (0, raw_of(planes_of(mode, values, words)))


@BLOCKS
def test_random_rounding_has_the_value_as_its_mean(mode):
    most, block_log2, _ = BLOCKED[mode]
    values = np.full(1 << block_log2, most, np.float32)
    values[1:] = np.linspace(-most, most, values.size - 1)
    total = np.zeros(values.size)
    trials = 2000
    for seed in range(trials):
        total += decoded(mode, values, rounding=(seed, STREAM, 0))

    part = np.abs(values) % 1
    deviation = np.sqrt(np.maximum(part * (1 - part) / trials, 1e-9))
    assert np.all(np.abs(total / trials - values) <= 6 * deviation)
    # Each is the mean of many: their own mean is nearer still.
    assert abs((total / trials - values).mean()) <= 6 * deviation.mean() / values.size**0.5


def test_random_bf16_counts_the_words_below_the_bits_that_go():
    bits = np.random.default_rng(3).integers(0, 0x7F000000, 3000).astype(np.uint32)
    bits[::3] |= 0x80000000
    words = _codec.uniform_bits(SEED, STREAM, bits.size + 77)[77:]

    _, data = section(BF16, bits.view(np.float32), PLAIN, rounding=(SEED, STREAM, 77))

    # Of the 2^16 upper halves of words, as many round up as the lower half of the float says.
    up = (words >> 16) >= 0x10000 - (bits & 0xFFFF)
    assert np.array_equal(np.frombuffer(data, np.uint16), (bits >> 16) + up)


@pytest.mark.parametrize("mode", [BF16, INT8, INT4, TERNARY], ids=NAMES.get)
def test_a_value_takes_the_same_word_however_a_tensor_is_cut(mode):
    values = heavy(5 * 1024 + 7)
    whole = decoded(mode, values, rounding=(SEED, STREAM, 0))
    parts = [
        decoded(mode, values[begin:end], rounding=(SEED, STREAM, begin))
        for begin, end in ((0, 1024), (1024, 4096), (4096, values.size))
    ]

    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(decoded(mode, values, rounding=(SEED, STREAM, 1)), whole)
    assert not np.array_equal(decoded(mode, values, rounding=(SEED + 1, STREAM, 0)), whole)
    assert not np.array_equal(decoded(mode, values), whole)


@BLOCKS
def test_what_was_decoded_is_encoded_to_the_same_bytes(mode):
    values = decoded(mode, heavy(3000))

    for rounding in (None, (SEED, STREAM, 0)):
        assert np.array_equal(decoded(mode, values, rounding=rounding), values)


@BLOCKS
@pytest.mark.parametrize("block_log2", [5, 7, 12, 16])
def test_other_blocks(mode, block_log2):
    values = heavy(9000)
    values[4000:] *= 1000
    most = BLOCKED[mode][0]

    back = decoded(mode, values, block_log2=block_log2)

    block = np.arange(values.size) >> block_log2
    largest = np.zeros(block[-1] + 1)
    np.maximum.at(largest, block, np.abs(values))
    bound = largest[block] * (1 if mode == TERNARY else 0.5 / most * (1 + 2**-7))
    assert np.all(np.abs(back - values) <= bound)


@pytest.mark.parametrize("draw", ["standard_normal", "standard_t", "uniform"])
def test_ternary_scales_are_near_the_best(draw):
    random = np.random.default_rng(5)
    arguments = {"standard_t": (3,), "uniform": (0.5, 1.5), "standard_normal": ()}[draw]
    values = getattr(random, draw)(*arguments, size=1024).astype(np.float32)

    error = np.square(decoded(TERNARY, values) - values).sum()

    best = min(
        np.square(np.where(np.abs(values) > s / 2, np.sign(values) * s, 0) - values).sum()
        for s in np.linspace(0.01, np.abs(values).max(), 4000)
    )
    assert error <= 1.002 * best


def floats_of(mode, n):
    return heavy(n) if mode != BF16 else (heavy(n).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.isa
@pytest.mark.parametrize("mode", [FP32, BF16], ids=NAMES.get)
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("profile", [PLAIN, RANS])
def test_floats_return_bit_for_bit(mode, n, profile):
    values = floats_of(mode, n)
    values[0] = -0.0
    values[n // 2] = 2.0**-133

    assert np.array_equal(
        decoded(mode, values, profile=profile).view(np.uint32), values.view(np.uint32)
    )


@pytest.mark.isa
def test_bf16_rounds_to_nearest_ties_to_even():
    high = np.random.default_rng(3).integers(0, 0x7F00, 4000).astype(np.uint32)
    low = np.resize(np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32), high.size)

    _, data = section(BF16, (high << 16 | low).view(np.float32), PLAIN)

    up = (low > 0x8000) | ((low == 0x8000) & (high % 2 == 1))
    assert np.array_equal(np.frombuffer(data, np.uint16), high + up)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", RAW_DTYPES, ids=RAW_DTYPES.get)
@pytest.mark.parametrize("profile", [PLAIN, RANS])
@pytest.mark.parametrize("n", [1, 5, 64, 1025])
def test_raw_elements_return_bit_for_bit(dtype, profile, n):
    random = np.random.default_rng(n)
    values = (random.integers(0, 2, n) * 3).astype(RAW_DTYPES[dtype])

    coder, data = section(RAW, values, profile, dtype)
    reason, back = read(RAW, coder, data, n, dtype)

    assert reason is None
    assert back.tobytes() == values.tobytes()


def words_to_planes(words, rotate):
    bits = 8 * words.itemsize
    if rotate:
        words = words << words.dtype.type(1) | words >> words.dtype.type(bits - 1)
    return [words.view(np.uint8)[i :: words.itemsize] for i in range(words.itemsize)][::-1]


def test_planes_are_byte_codes_one_after_the_other():
    values = heavy(5000)
    planes = {
        FP32: words_to_planes(values.view(np.uint32), True),
        BF16: words_to_planes((values.view(np.uint32) >> 16).astype(np.uint16), True),
        **{mode: planes_of(mode, values) for mode in BLOCKED},
    }
    for mode, expected in planes.items():
        source = values if mode != BF16 else (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        coder, data = section(mode, source)
        codes = [_codec.byte_code(bytes(plane), RANS) for plane in expected]
        assert (coder, data) == (1, b"".join(codes)), NAMES[mode]


def test_planes_of_raw_elements_begin_with_the_most_significant():
    numbers = np.random.default_rng(0).integers(0, 300, 4000).astype(np.int64)

    coder, data = section(RAW, numbers, RANS, 5)

    planes = words_to_planes(numbers.view(np.uint64), False)
    assert coder == 1
    assert data == b"".join(_codec.byte_code(bytes(plane), RANS) for plane in planes)


@FLOATS
def test_planes_are_taken_where_they_are_smaller(mode):
    noise = np.random.default_rng(0).integers(0, 2**32, 4000).astype(np.uint32)
    noise[noise >> 23 & 255 == 255] ^= 1 << 30
    noise = noise.view(np.float32)
    incompressible = noise if mode == FP32 else heavy(1)

    raw_bytes = len(section(mode, incompressible, PLAIN)[1])
    coder, data = section(mode, incompressible)
    assert coder == 0
    assert len(data) == raw_bytes
    coder, data = section(mode, heavy(4000))
    assert coder == 1
    assert len(data) < len(section(mode, heavy(4000), PLAIN)[1])


def uneven(n):
    """Returns values whose rows are zero but for some of them, and large in others."""
    random = np.random.default_rng(3)
    rows = np.resize([0.0, 0.0, 0.01, 0.2, 1.0, 0.0], -(-n // 1000))
    share = rows.repeat(1000)[:n]
    return (random.standard_normal(n) * (random.random(n) < share)).astype(np.float32)


@pytest.mark.isa
@FLOATS
@pytest.mark.parametrize("n", [47008, 50021])
def test_classes_of_uneven_values_are_smaller_and_lose_nothing(mode, n):
    values = uneven(n)
    back = decoded(mode, values)

    coder, data = section(mode, values)
    planes = (
        [_codec.byte_code(bytes(plane), RANS) for plane in planes_of(mode, values)]
        if mode in BLOCKED
        else []
    )

    assert coder == 2
    assert np.array_equal(
        back, read(mode, 0, section(mode, values, PLAIN)[1], n)[1].view(np.float32)
    )
    assert not planes or len(data) < 0.95 * sum(map(len, planes))


@FLOATS
@pytest.mark.parametrize("draw", ["zero", "one", "even"])
def test_values_that_are_even_have_no_classes(mode, draw):
    values = np.zeros(50000, np.float32)
    if draw == "one":
        values[31000] = 1.0
    if draw == "even":
        values[:] = np.random.default_rng(0).standard_normal(values.size)

    coder, _ = section(mode, values)

    assert coder == 1
    assert np.array_equal(
        decoded(mode, values),
        read(mode, 0, section(mode, values, PLAIN)[1], values.size)[1].view(np.float32),
    )


def entropy_bytes(symbols):
    counts = np.bincount(symbols).astype(np.float64)
    counts = counts[counts > 0]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


@FLOATS
def test_sizes_are_near_the_entropy(mode):
    n = {INT4: 2, TERNARY: 5}.get(mode, 1) << 18  # 2^18 bytes to be coded
    values = heavy(n)
    _, data = section(mode, values)

    if mode in (FP32, BF16):
        exponents = values if mode == FP32 else decoded(BF16, values)
        wanted = entropy_bytes(exponents.view(np.uint32) >> 23 & 255) + n * (
            3 if mode == FP32 else 1
        )
    else:
        block = 1 << BLOCKED[mode][1]
        scales = np.frombuffer(section(mode, values, PLAIN)[1], np.uint16, n // block)
        step = (scales.astype(np.uint32) << 15).view(np.float32)
        integers = np.rint(decoded(mode, values).reshape(-1, block) / step[:, None]).astype(int)
        wanted = entropy_bytes(integers.reshape(-1) + 127)
        wanted += entropy_bytes(scales >> 8) + scales.size
    assert len(data) <= 1.003 * wanted


def digest():
    """Of sections of every mode, rounded both ways, and what they decode to."""
    state = hashlib.sha256()
    random = np.random.default_rng(11)
    draws = (of_every_exponent, of_near_exponents, around_the_smallest_scale, halves)
    everything = np.concatenate([heavy(20011), *(draw(random, 7001) for draw in draws)])
    values = everything.astype(np.float32)
    for mode in NAMES:
        for rounding in (None, (SEED, STREAM, 2**33 + 5)):
            coder, data = section(mode, values, rounding=rounding)
            state.update(data + decoded(mode, values, rounding=rounding).tobytes() + bytes([coder]))
    return state.hexdigest()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_sections_are_the_same_bytes_on_every_instruction_set(isa, printed):
    assert printed(isa, "test_values", "t.digest()") == digest()
