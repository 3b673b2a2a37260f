"""Value sections as FORMAT.md defines them, in exact arithmetic, and the codec's own."""

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
