"""A decoder written from FORMAT.md alone, as plainly as can be; it believes what it reads."""

import struct

import numpy as np

from sparsefl import codec

RAW_DTYPE = {
    d: np.dtype(d)
    for d in ("float16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
}
DENSE, SHARED, SENT, CHANGES, SEED = range(5)
BITMAP, RICE = range(2)
SIGN, FLIPS = 1, 8


def read_by_the_specification(data, schema, base):
    """Returns {name: (kept positions | None, values | None, scale or seed)}."""
    descriptors, chunks = struct.unpack_from("<II", data, 44)
    entry = 64 + 24 * descriptors
    body = entry + 16 * chunks
    result = {}
    for i in range(descriptors):
        fields = struct.unpack_from("<IBBBBIfQ", data, 64 + 24 * i)
        ordinal, support_mode, value_mode, _, block_log2, span, scale, k = fields
        name, spec = list(schema.items())[ordinal]
        if support_mode == SEED:
            result[name] = (None, None, k)
            continue
        kept, values, done = [], [], 0
        for begin in range(0, spec.numel, span):
            support_bytes, value_bytes, packed = struct.unpack_from("<III", data, entry)
            count, coders = packed & 0xFFFFFF, packed >> 24
            support = data[body : body + support_bytes]
            body += support_bytes
            section = data[body : body + value_bytes]
            body += value_bytes
            entry += 16
            positions = np.arange(min(span, spec.numel - begin))
            if support_mode in (SHARED, CHANGES):
                theirs = known_of(base[name]).indices
                theirs = theirs[(theirs >= begin) & (theirs < begin + span)] - begin
            if support_mode == SHARED:
                positions = theirs
            elif support_mode == SENT:
                row = spec.row if spec.row and span % spec.row == 0 else 0
                positions = positions_of(coders & 15, support, len(positions), count, row)
            elif support_mode == CHANGES:
                positions = changed(support, len(positions), count, theirs)
            assert len(positions) == count
            kept.append(begin + positions)
            if value_mode in (SIGN, FLIPS):
                bits = sign_bits(coders >> 4, section, count)
                if value_mode == FLIPS:
                    bits ^= numbers_of(base[name])[done : done + count] < 0
                values.append(1 - 2 * bits.astype(np.int8))
            else:
                values.append(values_of(coders >> 4, section, value_mode, count, spec, block_log2))
            done += count
        assert done == k
        positions = None if support_mode == DENSE else np.concatenate([np.array([], int), *kept])
        flat = np.concatenate(values) if values and value_mode else None
        result[name] = (positions, flat, scale)
    assert body == len(data)
    return result


def known_of(entry):
    return getattr(entry, "support", entry)


def numbers_of(entry):
    return entry.signs if isinstance(entry, codec.Signs) else entry.values


def bits_of(data, count):
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")


def u24(data):
    return int.from_bytes(data[:3], "little")


def changed(section, n, count, theirs):
    """Returns what is kept after the changes of a section."""
    drops, coders, drop_bytes = u24(section), section[3], u24(section[4:])
    code = section[7 : 7 + drop_bytes]
    dropped = positions_of(coders & 15, code, len(theirs), drops, 0)
    others = np.setdiff1d(np.arange(n), theirs)
    additions = count + drops - len(theirs)
    added = positions_of(coders >> 4, section[7 + drop_bytes :], len(others), additions, 0)
    return np.sort(np.concatenate([np.delete(theirs, dropped), others[added]]))


def sign_bits(coder, section, count):
    if coder == 0:
        return bits_of(section, count).astype(np.bool_)
    bits = np.zeros(count, np.bool_)
    bits[positions_of(coder - 1, section[3:], count, u24(section), 0)] = True
    return bits


def positions_of(coder, code, n, count, row):
    """Returns the `count` positions of [0, n) that a bit code stands for."""
    if coder == BITMAP:
        if count in (0, n):
            return np.arange(count)
        return np.flatnonzero(bits_of(code, n))
    if 2 * count > n:
        return np.setdiff1d(np.arange(n), gaps_coded(coder, code, n - count))
    return gaps_coded(coder, code, count)


def gaps_coded(coder, code, count):
    assert coder == RICE
    return rice_positions(code[1:], count, code[0])


def rice_positions(code, count, r):
    """Returns the positions of a Golomb-Rice code, bit by bit."""
    low_bytes = -(-count * r // 8)
    lows = bits_of(code[:low_bytes], count * r).reshape(count, r) @ (1 << np.arange(r))
    ones = np.flatnonzero(bits_of(code[low_bytes:], None))
    quotients = ones - np.arange(count)  # clear bits before the i-th set bit
    assert code[-1] != 0
    return (quotients << r) + np.arange(count) + np.cumsum(lows)


def values_of(coder, section, value_mode, count, spec, block_log2):
    assert coder == 0
    if value_mode == 3:
        return (np.frombuffer(section, np.uint16).astype(np.uint32) << 16).view(np.float32)
    if value_mode in (4, 5):
        blocks = -(-count >> block_log2) if count else 0
        scales = (np.frombuffer(section[: 2 * blocks], np.uint16).astype(np.uint32) << 15).view(
            np.float32
        )
        integers = np.frombuffer(section[2 * blocks :], np.int8)
        if value_mode == 5:
            integers = np.stack([integers << 4 >> 4, integers >> 4], axis=1).reshape(-1)[:count]
        return scales.repeat(2**block_log2)[:count] * integers.astype(np.float32)
    if value_mode == 2:
        return np.frombuffer(section, np.float32)
    return np.frombuffer(section, RAW_DTYPE[spec.dtype]) if value_mode else np.array([])
