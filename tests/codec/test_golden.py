"""The bytes of the format. A change of any of them is a change of the format: give it a number."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from second_decoder import read_by_the_specification

from sparsefl import _codec, codec
from sparsefl.codec import CodecReason
from sparsefl.codec.base import Known, Reference, base_fingerprint
from sparsefl.codec.plan import SupportMode, ValueMode
from sparsefl.codec.summary import summarise
from sparsefl.support import Support

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "sparsefl" / "codec"
GOLDEN = FOLDER / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
MESSAGES = {message["file"]: message for message in MANIFEST["messages"]}


def bits(text, count):
    """Returns the bits of a hex string."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), bitorder="little")[:count]


def signs_of(text, count):
    return np.where(bits(text, count), -1, 1).astype(np.int8)


def entry(said, shape):
    if "seed" in said:
        return codec.Regenerated(int(said["seed"]))
    support = None
    if "support" in said:
        support = Support.from_packed(shape, bytes.fromhex(said["support"]))
    if "signs" in said:
        return codec.Signs(support, signs_of(said["signs"], support.nnz), said.get("scale", 1.0))
    if "words" in said:
        words = np.frombuffer(bytes.fromhex(said["words"]), "<u4").astype(np.uint32)
        return codec.Modular(words if support else words.reshape(shape), said["step"], support)
    if "values" not in said:
        return codec.SupportOnly(support)
    dtype = np.dtype(said["dtype"]).newbyteorder("<")
    values = np.frombuffer(bytes.fromhex(said["values"]), dtype).astype(said["dtype"])
    return codec.Dense(values.reshape(shape)) if support is None else codec.Sparse(support, values)


class Contents:
    """What the manifest says about a message."""

    def __init__(self, file):
        self.message = MESSAGES[file]
        said = MANIFEST["contents"][self.message["contents"]]
        self.data = (GOLDEN / file).read_bytes()
        self.fingerprint = int(said["schema_fingerprint"])
        self.schema = codec.Schema({name: (shape, dtype) for name, shape, dtype in said["schema"]})
        shapes = {name: tuple(shape) for name, shape, _ in said["schema"]}
        self.update = codec.Update(
            {name: entry(one, shapes[name]) for name, one in said["tensors"].items()}, said["round"]
        )
        self.base = {name: entry(one, shapes[name]) for name, one in said["base"].items()}
        self.formats = {
            name: one["format"] for name, one in said["tensors"].items() if "format" in one
        }

    def decode(self, data):
        return codec.decode(data, self.schema, self.base)


@pytest.fixture(params=list(MESSAGES))
def golden(request):
    return Contents(request.param)


def test_a_golden_message_says_what_the_manifest_does(golden):
    assert golden.decode(golden.data) == golden.update
    assert golden.schema.fingerprint == golden.fingerprint
    assert int.from_bytes(golden.data[32:40], "little") == int(golden.message["base"])


def test_the_encoder_makes_the_golden_messages(golden):
    arguments = golden.update, golden.schema, golden.formats, golden.base

    assert codec.encode(*arguments, rans=golden.message["rans"]) == golden.data


def test_a_second_decoder_reads_the_golden_messages(golden):
    read = read_by_the_specification(golden.data, golden.schema, golden.base)

    assert list(read) == list(golden.update)
    for name, (kept, values, number) in read.items():
        said = golden.update[name]
        if isinstance(said, codec.Regenerated):
            assert number == said.seed
            continue
        if getattr(said, "support", None) is not None:
            assert np.array_equal(kept, said.support.indices)
        fields = [getattr(said, field, None) for field in ("words", "values", "signs")]
        held = next((field for field in fields if field is not None), None)
        assert (values is None) == (held is None)
        if held is not None:
            assert values.dtype == held.dtype
            assert values.tobytes() == held.tobytes()
        if hasattr(said, "scale"):
            assert number == said.scale


def test_golden_messages_have_every_mode_and_coder():
    seen = {"support": set(), "value": set(), "signs": set(), "bits": set(), "values": set()}
    for golden in map(Contents, MESSAGES):
        for tensor in summarise(golden.data, golden.schema).tensors:
            seen["support"].add(tensor.support_mode)
            seen["value"].add(tensor.value_mode)
            kind = "signs" if tensor.value_mode in ("sign", "flips") else "values"
            kind = "bits" if tensor.value_mode == "none" else kind
            seen[kind] |= {*tensor.coders}

    assert seen["support"] == {mode.name.lower() for mode in SupportMode}
    assert seen["value"] == {mode.name.lower() for mode in ValueMode}
    assert {"bits", "rice"} <= seen["signs"]
    assert {"bitmap", "rice"} <= seen["bits"]
    assert {"raw", "planes", "classes"} <= seen["values"]


@pytest.mark.isa
def test_a_cut_golden_message_is_refused(golden):
    for size in range(len(golden.data)):
        with pytest.raises(codec.CodecError) as refusal:
            golden.decode(golden.data[:size])
        assert refusal.value.reason is CodecReason.TRUNCATED


@pytest.mark.isa
def test_a_golden_message_with_another_bit_is_refused(golden):
    data = bytearray(golden.data)

    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(codec.CodecError):
            golden.decode(bytes(data))
        data[bit // 8] ^= 1 << bit % 8


def test_refused_messages_of_the_manifest():
    contents = {file: Contents(file) for file in {one["file"] for one in MANIFEST["refused"]}}

    for one in MANIFEST["refused"]:
        golden = contents[one["file"]]
        data = bytearray(golden.data[: one["length"]].ljust(one["length"], b"\0"))
        for patch in one["patches"]:
            changed = bytes.fromhex(patch["hex"])
            data[patch["at"] : patch["at"] + len(changed)] = changed
        with pytest.raises(codec.CodecError) as refusal:
            golden.decode(bytes(data))
        assert refusal.value.reason is CodecReason[one["reason"]] is CodecReason(one["number"])


def test_fingerprints_of_the_specification():
    kept = Support.from_indices((3, 5), [0, 7, 14])

    assert codec.Schema({"w": ((3, 5), "float32")}).fingerprint == 0x3729510BF698C7E2
    assert kept.digest.hex() == "6eece179e5d9686b72c01279c173c6ca"
    assert base_fingerprint([Reference(0, Known(kept), False)]) == 0xFBC935BD12F1EA8D
    known = Known(kept, np.array([1, -1, 1]))
    assert known.sign_digest.hex() == "f3949f1d38028693d46449c8fe9b7325"
    assert base_fingerprint([Reference(0, known, True)]) == 0xFD6FF6BA00DC065F


def crc32c_bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_known_answer():
    assert _codec.crc32c(b"123456789") == 0xE3069283


# The instruction joins three lanes of 1024 bytes.
@pytest.mark.isa
@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 3071, 3072, 3073, 6151, 10007])
def test_crc32c_matches_its_definition(size):
    data = np.random.default_rng(size).bytes(size)

    assert _codec.crc32c(data) == crc32c_bit_by_bit(data)


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("g++", "c++98")])
def test_the_header_is_c_and_cpp(tmp_path, compiler, standard):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / ("header.c" if compiler == "gcc" else "header.cpp")
    source.write_text(
        '#include "sparsefl_format.h"\n'
        "static const unsigned char magic[8] = SPFL_MAGIC;\n"
        "int main(void) { return magic[SPFL_SUPPORT_MODE_DENSE] != SPFL_REASON_NONE + 0x89u; }\n"
    )
    flags = [f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(tmp_path / "header")], check=True)

    assert subprocess.run([tmp_path / "header"]).returncode == 0


def test_the_header_has_the_numbers_of_the_compiled_codec(tmp_path):
    script = ROOT / "tools" / "make_format_header.py"
    arguments = [sys.executable, script, tmp_path / "sparsefl_format.h"]
    subprocess.run(arguments, check=True)

    assert (tmp_path / "sparsefl_format.h").read_text() == (
        FOLDER / "sparsefl_format.h"
    ).read_text()
    text = (FOLDER / "sparsefl_format.h").read_text()
    numbers = dict(re.findall(r"SPFL_REASON_(\w+) = (\d+)", text))
    assert {reason.name: str(reason.value) for reason in CodecReason} | {"NONE": "0"} == numbers
