"""Value sections, byte for byte against the definition of FORMAT.md in exact arithmetic."""

import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from sparsefl import _codec
from sparsefl.codec import CodecReason

FP32, BF16, INT8, INT4, TERNARY, RAW = 2, 3, 4, 5, 6, 7
# Largest integer, log2 of the block, last scale.
BLOCKED = {INT8: (127, 10, 0xF802), INT4: (7, 6, 0xFC24), TERNARY: (1, 10, 0xFEFF)}
NAMES = {FP32: "fp32", BF16: "bf16", INT8: "int8", INT4: "int4", TERNARY: "ternary"}
FLOAT32 = 1
RAW_DTYPES = {2: "float64", 3: "float16", 5: "int64", 6: "int32", 7: "int16", 8: "int8", 9: "uint8"}
RAW_DTYPES[10] = "bool"
COUNTS = (1, 2, 4, 5, 6, 31, 63, 64, 65, 319, 320, 321, 326, 1023, 1024, 1025, 2049, 5121, 5443)
PLAIN, RANS = 0, 1
FLOATS = pytest.mark.parametrize("mode", NAMES, ids=NAMES.get)
BLOCKS = pytest.mark.parametrize("mode", BLOCKED, ids=NAMES.get)
SEED, STREAM = 0x123456789ABCDEF, 0xFEDCBA987654321


def section(mode, values, profile=RANS, dtype=FLOAT32, block_log2=None, rounding=None):
    """Returns coder and bytes, or None where the values are refused."""
    if block_log2 is None:
        block_log2 = BLOCKED[mode][1] if mode in BLOCKED else 0
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return _codec.value_section(mode, dtype, block_log2, raw, profile, rounding)


def read(mode, coder, data, n, dtype=FLOAT32, block_log2=None):
    if block_log2 is None:
        block_log2 = BLOCKED[mode][1] if mode in BLOCKED else 0
    reason, values = _codec.read_value_section(mode, dtype, block_log2, coder, data, n)
    return CodecReason(reason) if reason else None, values


def decoded(mode, values, **options):
    coder, data = section(mode, values, **options)
    options = {k: v for k, v in options.items() if k in ("dtype", "block_log2")}
    reason, back = read(mode, coder, data, values.size, **options)
    assert reason is None
    return back.view(np.float32)


def heavy(n, seed=0):
    return (np.random.default_rng(seed).standard_t(3, n) * 1e-3).astype(np.float32)


def scale_of(number):
    """The exact value of a scale."""
    exponent, mantissa = number >> 8, number & 255
    return Fraction(256 + mantissa) * Fraction(2) ** (exponent - 127 - 8) if number else Fraction(0)


def least_scale(largest, most):
    if largest <= Fraction(1, 2**126):
        return 0
    low, high = 0x0200, 0xFFFF
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if scale_of(middle) * most >= largest else (middle + 1, high)
    return low


def ternary_scale(block):
    """FORMAT.md's rule for the scale of a ternary block, by integers."""
    bits = block.view(np.uint32).astype(np.int64) & 0x7FFFFFFF
    if bits.max() <= 0x00800000:
        return 0
    top = int(bits.max()) >> 23
    digits = ((bits & 0x7FFFFF) | 0x800000) >> 2 >> np.minimum(top - (bits >> 23), 24)
    digits[bits < 0x00800000] = 0
    kept = digits[digits > 0]
    for _ in range(8):
        chosen = digits[digits > int(kept.sum()) // (2 * kept.size)]
        done = chosen.size == kept.size
        kept = chosen
        if done:
            break
    # In units of 2^(top - 148).
    mean = Fraction(int(kept.sum()), kept.size) * Fraction(2) ** (top - 148)
    best = None
    for number in range(max(0x0200, ((top - 23) << 8)), min(0xFEFF, (top + 1) << 8) + 1):
        error = abs(scale_of(number) - mean)
        if best is None or error <= best[0]:
            best = (error, number)
    return best[1]


def rounded(value, scale, most):
    """The nearest multiple of the scale, ties to even."""
    return max(-most, min(most, round(Fraction(value) / scale))) if scale else 0


def at_random(value, scale, word):
    """One of the two multiples around a value: the upper one for word < rest * 2^32."""
    magnitude = abs(Fraction(value)) if abs(value) >= 2.0**-126 else Fraction(0)
    below, rest = divmod(magnitude, scale) if scale else (0, 0)
    up = scale != 0 and word * scale < rest * 2**32
    return int(below + up) * (-1 if value < 0 else 1)


def pack(mode, integers):
    if mode == INT8:
        return np.array(integers, np.int8).tobytes()
    if mode == INT4:
        halves = np.array([*integers, 0][: 2 * (-(-len(integers) // 2))]) & 15
        return (halves[::2] | halves[1::2] << 4).astype(np.uint8).tobytes()
    out = bytearray()
    for begin in range(0, len(integers), 320):
        group = integers[begin : begin + 320]
        width = -(-len(group) // 5)
        for j in range(width):
            out.append(sum((t % 3) * 3**k for k, t in enumerate(group[j::width])))
    return bytes(out)


def planes_of(mode, values, words=None):
    """Exponents and mantissas of the scales, and the packed integers."""
    most, block_log2, _ = BLOCKED[mode]
    exponents, mantissas, integers = bytearray(), bytearray(), []
    for begin in range(0, values.size, 1 << block_log2):
        block = values[begin : begin + (1 << block_log2)]
        if mode == TERNARY and words is None:
            number = ternary_scale(block)
        else:
            number = least_scale(Fraction(float(np.abs(block).max())), most)
        scale = scale_of(number)
        exponents.append(number >> 8)
        mantissas.append(number & 255)
        for i, value in enumerate(block.tolist(), begin):
            if words is None:
                integers.append(rounded(value, scale, most))
            else:
                integers.append(at_random(value, scale, int(words[i])))
    return bytes(exponents), bytes(mantissas), pack(mode, integers)


def raw_of(planes):
    exponents, mantissas, packed = planes
    scales = bytes(x for pair in zip(mantissas, exponents, strict=True) for x in pair)
    return scales + packed


def of_every_exponent(random, n):
    return np.ldexp(random.random(n) - 0.5, random.integers(-149, 120, n))


def of_near_exponents(random, n):
    return np.ldexp(random.random(n) - 0.5, random.integers(-9, 2, n))


def around_the_smallest_scale(random, n):
    return np.ldexp(random.integers(-256, 257, n), -130)


def halves(random, n):
    values = random.integers(-14, 15, n) / 2
    values[::32] = 7
    return values


def mostly_zero(random, n):
    return np.where(random.random(n) < 0.99, -0.0, 1.0)


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


NOT_FINITE = (np.inf, -np.inf, np.nan, -np.nan)


@pytest.mark.isa
@FLOATS
@pytest.mark.parametrize("profile", [PLAIN, RANS])
@pytest.mark.parametrize("rounding", [None, (SEED, STREAM, 0)], ids=["nearest", "random"])
@pytest.mark.parametrize("at", [0, 1, 64, 1099])
def test_what_is_not_finite_is_refused(mode, profile, rounding, at):
    for wrong in NOT_FINITE:
        values = heavy(1100)
        values[at] = wrong
        assert section(mode, values, profile, rounding=rounding) is None


@BLOCKS
def test_values_up_to_the_last_scale(mode):
    most, _, last = BLOCKED[mode]
    largest = np.float32(most * float(scale_of(last)))
    above = np.nextafter(largest, np.float32(np.inf))

    assert decoded(mode, np.array([largest, -largest])).tolist() == [largest, -largest]
    if mode == TERNARY:  # the nearest there is; at random it would have no value above it
        assert decoded(mode, np.array([above])).tolist() == [largest]
        assert section(mode, np.array([above]), rounding=(0, 0, 0)) is None
    else:
        assert section(mode, np.array([1, above], np.float32)) is None


@pytest.mark.parametrize(
    ("bits", "nearest", "random"),
    [(0x7F7F0000, True, True), (0x7F7F0001, True, False), (0x7F7F7FFF, True, False),
     (0x7F7F8000, False, False), (0x7F7FFFFF, False, False)],
)  # fmt: skip
def test_bf16_refuses_what_may_round_to_infinity(bits, nearest, random):
    values = np.array([bits], np.uint32).view(np.float32)

    assert (section(BF16, values) is not None) == nearest
    assert (section(BF16, values, rounding=(0, 0, 0)) is not None) == random


@pytest.mark.parametrize("profile", [PLAIN, RANS])
@pytest.mark.parametrize(("dtype", "name"), [(2, "float64"), (3, "float16")])
def test_raw_floats_that_are_not_finite_are_refused(profile, dtype, name):
    for wrong in NOT_FINITE:
        values = np.ones(500, name)
        values[333] = wrong
        assert section(RAW, values, profile, dtype) is None


@pytest.mark.parametrize("profile", [PLAIN, RANS])
def test_a_bool_is_0_or_1(profile):
    assert section(RAW, np.array([1, 0, 2], np.uint8), profile, 10) is None
    assert read(RAW, 0, b"\x01\x02", 2, 10)[0] is CodecReason.VALUE


@pytest.mark.parametrize(
    ("mode", "data", "reason"),
    [
        (FP32, (0x7F800000).to_bytes(4, "little"), CodecReason.VALUE),
        (BF16, (0xFFC0).to_bytes(2, "little"), CodecReason.VALUE),
        (INT8, b"\x00\x40\x80", CodecReason.VALUE),
        (INT8, b"\x00\x40\x00", CodecReason.VALUE),
        (INT8, b"\x00\x00\x01", CodecReason.VALUE),
        (INT8, b"\x03\xf8\x01", CodecReason.SCALE),
        (INT8, b"\xff\x01\x01", CodecReason.SCALE),
        (INT4, b"\x00\x40\x08", CodecReason.VALUE),
        (INT4, b"\x00\x40\x11", CodecReason.PADDING),
        (INT4, b"\x25\xfc\x01", CodecReason.SCALE),
        (TERNARY, b"\x00\x40\xf3", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\xff", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\x00", CodecReason.VALUE),
        (TERNARY, b"\x00\x40\x03", CodecReason.PADDING),
        (TERNARY, b"\x00\xff\x01", CodecReason.SCALE),
    ],
)
def test_raw_sections_that_are_refused(mode, data, reason):
    assert read(mode, 0, data, 1)[0] is reason


@FLOATS
def test_lengths_and_coders_are_checked(mode):
    _, data = section(mode, heavy(100), PLAIN)

    assert read(mode, 0, data[:-1], 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 0, data + b"\0", 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 1, data, 100)[0] is CodecReason.SECTION_LENGTH
    assert read(mode, 2, data, 100)[0] is CodecReason.CODER
    assert read(mode, 0, b"", 0)[0] is None
    assert read(mode, 1, b"", 0)[0] is CodecReason.SECTION_LENGTH


@pytest.mark.isa
@FLOATS
@pytest.mark.parametrize("coder", [0, 1], ids=["raw", "planes"])
def test_damage_is_refused_or_decodes_to_values_of_the_format(mode, coder):
    values = np.tile(heavy(8) * (np.arange(8) < 2), 64)
    found, data = section(mode, values, RANS if coder else PLAIN)
    assert found == coder

    for size in range(len(data)):
        assert read(mode, coder, data[:size], values.size)[0] is not None
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        reason, back = read(mode, coder, bytes(changed), values.size)
        if reason is None:
            assert np.isfinite(back.view(np.float32)).all()


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_values import digest
print(digest())
"""


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
def test_sections_are_the_same_bytes_on_every_instruction_set(isa):
    here = os.path.dirname(__file__)
    script = SCRIPT.format(path=[here, *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SPARSEFL_ISA": isa},
        capture_output=True,
        text=True,
    )
    if "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine has no {isa}")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest()
