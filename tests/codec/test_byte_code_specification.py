"""A second decoder of byte codes, written from FORMAT.md alone, reads what the codec writes."""

import pytest
from plain_byte_code import read_byte_code, write_table, write_words
from test_byte_code import OTHERS, SOURCES, make

from sparsefl import _codec

VECTORS = {
    "table": (
        bytes([0] * 40 + [1] * 20 + [2, 255] * 5),
        "0200ff03004d0027049611bc190600005360a80513c752b2263d49ecf9bd283e",
    ),
    "geometric": (
        bytes([0, 0, 1, 0, 3, 0, 0, 2, 1, 0, 0, 64, 0, 1, 0, 0] * 2),
        "072106000016700a00f0c408e4db4211a05b16acf20140",
    ),
}


@pytest.mark.parametrize("n", [1, 5, 300, 5000, 70_000, 150_001])
@pytest.mark.parametrize("name", [*SOURCES, *OTHERS])
def test_second_decoder_reads_the_codes(name, n):
    symbols = make(name, n).tobytes()
    code = _codec.byte_code(symbols, 1)

    assert read_byte_code(code + b"more", n) == (list(symbols), len(code))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_the_specification(name):
    symbols, code = VECTORS[name][0], bytes.fromhex(VECTORS[name][1])

    assert _codec.byte_code(symbols, 1) == code
    assert read_byte_code(code, len(symbols)) == (list(symbols), len(code))


@pytest.mark.parametrize("lanes_log2", range(7))
def test_the_codec_reads_what_a_second_encoder_writes(lanes_log2):
    frequencies = [2000, 1000, 500, 300, 200, 96] + [0] * 250
    symbols = bytes(i * i % 7 % 6 for i in range(3001))

    words = write_words(symbols, frequencies, 1 << lanes_log2)
    code = bytes([2 | lanes_log2 << 4]) + write_table(frequencies[:6]) + words

    assert _codec.read_byte_code(code, 3001) == (0, len(code), symbols)
    assert read_byte_code(code, 3001) == (list(symbols), len(code))
