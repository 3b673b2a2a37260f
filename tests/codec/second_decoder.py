"""A decoder written from FORMAT.md alone, as plainly as can be; it believes what it reads."""

import struct

import numpy as np
from plain_byte_code import read_byte_code

from sparsefl import codec

RAW_DTYPE = {
    d: np.dtype(d)
    for d in ("float16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
}
DENSE, SHARED, SENT, CHANGES, SEED = range(5)
BITMAP, RICE, RANS_BYTES, RANS_GAPS, ROWS, TILES = range(6)
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
    if coder == ROWS:
        return rows_of(code, n // row, row)
    if coder == TILES:
        return tiles_of(code, n // row, row)
    if coder == RANS_BYTES:
        return np.flatnonzero(bits_of(byte_code(code, -(-n // 8))[0], n))
    if 2 * count > n:
        return np.setdiff1d(np.arange(n), gaps_coded(coder, code, n - count))
    return gaps_coded(coder, code, count)


def rows_of(code, rows, row):
    classes, at = byte_code(code, rows)
    kept = np.zeros((rows, row), np.bool_)
    for each in np.unique(classes):
        count, coder, size = u24(code[at:]), code[at + 3], u24(code[at + 4 :])
        at += 7
        bits = np.zeros((classes == each).sum() * row, np.bool_)
        bits[positions_of(coder, code[at : at + size], bits.size, count, 0)] = True
        kept[classes == each] = bits.reshape(-1, row)
        at += size
    assert at == len(code)
    return np.flatnonzero(kept)


def tiles_of(code, rows, row):
    height, width = struct.unpack_from("<HH", code)
    height, width = height or rows, width or row
    shape = -(-rows // height), -(-row // width)
    grid = np.zeros(shape, np.bool_)
    places = positions_of(code[4], code[8:], grid.size, u24(code[5:]), 0)
    grid.reshape(-1)[places] = True
    return np.flatnonzero(grid.repeat(height, 0).repeat(width, 1)[:rows, :row])


def gaps_coded(coder, code, count):
    if coder == RICE:
        return rice_positions(code[1:], count, code[0])
    assert coder == RANS_GAPS
    r, more, at = code[0], 0, 1
    for shift in range(0, 28, 7):
        at += 1
        more |= (code[at - 1] & 127) << shift
        if code[at - 1] < 128:
            break
    symbols, used = byte_code(code[at:], count + more)
    sums = np.cumsum(symbols.astype(np.int64))
    heads = np.diff(sums[symbols < 255], prepend=0)
    return np.cumsum((heads << r) + lows_of(code[at + used :], count, r) + 1) - 1


def byte_code(code, n):
    """Returns n symbols and the bytes that their code takes."""
    symbols, used = read_byte_code(bytes(code), n)
    return np.array(symbols, np.uint8), used


def lows_of(code, count, r):
    return bits_of(code, count * r).reshape(count, r) @ (1 << np.arange(r))


def rice_positions(code, count, r):
    """Returns the positions of a Golomb-Rice code, bit by bit."""
    low_bytes = -(-count * r // 8)
    lows = lows_of(code[:low_bytes], count, r)
    ones = np.flatnonzero(bits_of(code[low_bytes:], None))
    quotients = ones - np.arange(count)  # clear bits before the i-th set bit
    assert code[-1] != 0
    return (quotients << r) + np.arange(count) + np.cumsum(lows)


def classed_code(code, n):
    """Returns n symbols and the bytes that their classed code takes."""
    block, number = 1 << (code[0] & 15), 1 + (code[0] >> 4)
    classes, used = byte_code(code[1:], -(-n // block))
    assert classes.max() < number
    own = classes.repeat(block)[:n]
    symbols, at = np.zeros(n, np.uint8), 1 + used
    for each in range(number):
        symbols[own == each], used = byte_code(code[at:], np.count_nonzero(own == each))
        at += used
    return symbols, at


def planes_of(section, lengths, classed):
    """Returns the symbols of byte codes that follow each other, one maybe by classes."""
    planes = []
    for i, length in enumerate(lengths):
        symbols, used = (classed_code if i == classed else byte_code)(section, length)
        section = section[used:]
        planes.append(symbols)
    assert not section
    return planes


def elements_of(coder, section, count, dtype, is_float):
    """Returns elements of an unsigned dtype, raw or from planes of bytes, the uppermost first."""
    if coder == 0:
        return np.frombuffer(section, dtype)
    planes = planes_of(section, [count] * dtype.itemsize, 0 if coder == 2 else None)
    turned = np.stack(planes[::-1], axis=1).copy().view(dtype).reshape(-1)
    one = dtype.type(1)
    last = dtype.type(8 * dtype.itemsize - 1)
    return turned >> one | turned << last if is_float else turned


def integers_of(packed, value_mode, count):
    if value_mode == 4:
        return packed.view(np.int8)
    if value_mode == 5:
        halves = packed.view(np.int8)
        return np.stack([halves << 4 >> 4, halves >> 4], axis=1).reshape(-1)[:count]
    trits = []
    for begin in range(0, count, 320):
        m = min(320, count - begin)
        group = packed[begin // 5 : begin // 5 + -(-m // 5)].astype(int)
        digits = np.concatenate([group // 3**k % 3 for k in range(5)])
        trits.append(digits[:m])
        assert not digits[m:].any()
    digits = np.concatenate(trits)
    return np.where(digits == 2, -1, digits)


def scaled(coder, section, value_mode, count, block_log2):
    blocks = -(-count >> block_log2)
    packed_bytes = {4: count, 5: -(-count // 2), 6: -(-count // 5)}[value_mode]
    if coder:
        lengths = [blocks, blocks, packed_bytes]
        upper, lower, packed = planes_of(section, lengths, 2 if coder == 2 else None)
        scales = upper.astype(np.uint32) << 8 | lower
    else:
        scales = np.frombuffer(section, np.uint16, blocks).astype(np.uint32)
        packed = np.frombuffer(section[2 * blocks :], np.uint8)
    floats = (scales << 15).view(np.float32)
    integers = integers_of(packed, value_mode, count).astype(np.float32)
    return floats.repeat(2**block_log2)[:count] * integers


def values_of(coder, section, value_mode, count, spec, block_log2):
    if value_mode == 0 or count == 0:
        assert not section
        return np.zeros(0, RAW_DTYPE[spec.dtype] if value_mode == 7 else np.float32)
    if value_mode == 9:
        assert coder == 0
        return np.frombuffer(section, np.uint32)
    if value_mode in (4, 5, 6):
        return scaled(coder, section, value_mode, count, block_log2)
    if value_mode == 3:
        halves = elements_of(coder, section, count, np.dtype(np.uint16), True)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    held = np.dtype(np.float32) if value_mode == 2 else RAW_DTYPE[spec.dtype]
    words = np.dtype(f"u{held.itemsize}")
    return elements_of(coder, section, count, words, held.kind == "f").view(held)
