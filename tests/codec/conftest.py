"""Small messages of every mode, and the means to damage one and make its checksums right again."""

import dataclasses
import functools
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from code_sections import ADDS, DROPS, RANS, THEIRS

from sparsefl import _codec, codec
from sparsefl.support import Support

ROOT = pathlib.Path(__file__).parents[2]
SANITIZED = ["-std=c++20", "-O1", "-g1", "-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
SANITIZED += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZED += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'csrc'}"]
HEADER_BYTES, DESCRIPTOR_BYTES, CHUNK_BYTES = 64, 24, 16
MODE_OFFSETS = {"support": 4, "value": 5, "scale_mode": 6, "block": 7}


class Forgery:
    """A message that can be changed field by field; offsets as FORMAT.md gives them."""

    def __init__(self, message: bytes) -> None:
        self.bytes = bytearray(message)

    def descriptor(self, index: int) -> int:
        return HEADER_BYTES + DESCRIPTOR_BYTES * index

    def chunk(self, index: int) -> int:
        return self.descriptor(self.get("I", 44)) + CHUNK_BYTES * index

    def body(self, index: int) -> int:
        return self.chunk(self.get("I", 48)) + sum(self.body_bytes(i) for i in range(index))

    def body_bytes(self, index: int) -> int:
        return sum(self.get("I", self.chunk(index) + at) for at in (0, 4))

    def values(self, index: int) -> int:
        """Where the value section of a chunk begins."""
        return self.body(index) + self.get("I", self.chunk(index))

    def get(self, kind: str, at: int) -> int:
        return struct.unpack_from(f"<{kind}", self.bytes, at)[0]

    def put(self, kind: str, at: int, value: float) -> "Forgery":
        struct.pack_into(f"<{kind}", self.bytes, at, value)
        return self

    def mode(self, descriptor: int, field: str, value: int) -> "Forgery":
        return self.put("B", self.descriptor(descriptor) + MODE_OFFSETS[field], value)

    def scale(self, descriptor: int, value: float) -> "Forgery":
        return self.put("f", self.descriptor(descriptor) + 12, value)

    def count(self, descriptor: int, value: int) -> "Forgery":
        return self.put("Q", self.descriptor(descriptor) + 16, value)

    def kept(self, index: int, value: int) -> "Forgery":
        """Of a descriptor and its only chunk, which has the same index."""
        return self.count(index, value).put("H", self.chunk(index) + 8, value)

    def split(self, chunk: int, support: int, value: int) -> "Forgery":
        """Moves the boundary of a chunk's sections."""
        return self.put("I", self.chunk(chunk), support).put("I", self.chunk(chunk) + 4, value)

    def span(self, descriptor: int, value: int) -> "Forgery":
        return self.put("I", self.descriptor(descriptor) + 8, value)

    def coders(self, chunk: int, support: int, value: int) -> "Forgery":
        return self.put("B", self.chunk(chunk) + 11, support | value << 4)

    def sections(self, chunk: int, support: bytes, values: bytes = b"") -> "Forgery":
        """Puts other sections in place of a chunk's and says how long they are."""
        begin, size = self.body(chunk), self.body_bytes(chunk)
        self.bytes[begin : begin + size] = support + values
        return self.split(chunk, len(support), len(values)).put("Q", 16, len(self.bytes))

    def flip(self, at: int, bit: int = 0) -> "Forgery":
        self.bytes[at] ^= 1 << bit
        return self

    def resized(self, change: int) -> "Forgery":
        """Appends zeros or cuts bytes off, and says so in the header."""
        size = len(self.bytes) + change
        self.bytes = (self.bytes + bytes(max(change, 0)))[:size]
        return self.put("Q", 16, size)

    def unsealed(self) -> bytes:
        return bytes(self.bytes)

    def sealed(self) -> bytes:
        """Returns the bytes with every checksum right, as far as the tables lie within them."""
        chunks, end = self.get("I", 48), self.chunk(self.get("I", 48))
        if end > len(self.bytes):
            return bytes(self.bytes)
        for index in range(chunks):
            begin, size = self.body(index), self.body_bytes(index)
            body = bytes(self.bytes[begin : begin + size])
            self.put("I", self.chunk(index) + 12, _codec.crc32c(body))
        self.put("I", 56, 0)
        return bytes(self.put("I", 56, _codec.crc32c(bytes(self.bytes[:end]))).bytes)


@dataclasses.dataclass(frozen=True)
class Sample:
    """An update whose tensors have descriptors 0, 1, … and, seeds apart, a chunk each."""

    schema: codec.Schema
    update: codec.Update
    formats: dict[str, str]
    base: codec.Base

    def encode(self) -> bytes:
        return codec.encode(self.update, self.schema, self.formats, self.base)

    def decode(self, data: bytes) -> codec.Update:
        return codec.decode(data, self.schema, self.base)


@pytest.fixture
def forge() -> Callable[[bytes], Forgery]:
    return Forgery


def plain_sample() -> Sample:
    """Plain sections."""
    kept = Support.from_indices((3, 5), [0, 7, 14])
    known = Support.from_indices((2, 9), [1, 2, 3, 5, 8, 13, 14, 15, 16, 17])
    signs = np.array([1, -1, -1, 1, 1, 1, -1, 1, 1, -1], dtype=np.int8)
    return Sample(
        schema=codec.Schema(
            {
                "sparse": ((3, 5), "float32"),
                "signs": ((2, 9), "float32"),
                "dense": ((3,), "float32"),
                "seed": ((4, 4), "float32"),
                "count": ((), "int64"),
                "flags": ((3,), "bool"),
                "mask": ((2, 9), "float32"),
            }
        ),
        update=codec.Update(
            {
                "sparse": codec.Sparse(kept, np.array([1.5, -0.0, 2e-45], dtype=np.float32)),
                "signs": codec.Signs(known, signs, scale=0.25),
                "dense": codec.Dense(np.array([1.0, -2.0, 0.5], dtype=np.float32)),
                "seed": codec.Regenerated(0x0123456789ABCDEF),
                "count": codec.Dense(np.array(-2, dtype=np.int64)),
                "flags": codec.Dense(np.array([True, False, True])),
                "mask": codec.SupportOnly(known),
            },
            round=3,
        ),
        formats={"dense": "bf16"},
        base={"signs": known},
    )


def coded_sample() -> Sample:
    """Coded sections."""
    few = Support.from_indices((6, 20), [3, 4, 50, 51, 90, 119])
    half = Support.from_indices((5, 20), np.flatnonzero(np.arange(100) % 10 < 9))
    theirs = np.where(np.arange(half.nnz) % 3, 1, -1).astype(np.int8)
    numbers = np.where(theirs < 0, -0.25, np.arange(half.nnz) % 2).astype(np.float32)
    flipped = theirs.copy()
    flipped[[7, 60]] *= -1
    return Sample(
        schema=codec.Schema(
            {
                "mask": ((6, 20), "bool"),
                "flips": ((5, 20), "float32"),
                "same": ((5, 20), "float16"),
                "int8": ((3, 3), "float32"),
                "int4": ((6, 20), "float64"),
                "zeros": ((9,), "float32"),
                "fp32": ((6, 20), "float32"),
            }
        ),
        update=codec.Update(
            {
                "mask": codec.SupportOnly(few),
                "flips": codec.Signs(half, flipped, scale=0.5),
                "same": codec.Signs(half, theirs, scale=0.0),
                "int8": codec.Dense(
                    np.array([[-127, -95, -64], [-32, 0, 32], [64, 95, 126]], dtype=np.float32)
                ),
                "int4": codec.Sparse(few, np.array([7, -7, 0, 1, -2, 3], dtype=np.float32) / 4),
                "zeros": codec.Dense(np.zeros(9, np.float32)),
                "fp32": codec.Sparse(few, np.array([1, 2, 3, 4, 5, 6], dtype=np.float32)),
            },
            round=2,
        ),
        formats={"int8": "int8", "int4": "int4", "zeros": "int4"},
        base={"flips": codec.Sparse(half, numbers), "same": codec.Signs(half, theirs)},
    )


@pytest.fixture
def sample() -> Sample:
    return plain_sample()


@pytest.fixture
def coded() -> Sample:
    return coded_sample()


@pytest.fixture(params=["sample", "coded"])
def any_sample(request: pytest.FixtureRequest) -> Sample:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa_name(request: pytest.FixtureRequest) -> str:
    """Every instruction set of the machine."""
    try:
        _codec.normal(0, 0, 0, 1.0, request.param)
    except ValueError:
        pytest.skip(f"this machine or SPARSEFL_ISA rules {request.param} out")
    return request.param


@pytest.fixture
def changed(forge):
    """A function that gives the reason why a message of other changes is refused, or None."""

    def decode(section, profile=RANS, count=42):
        schema = codec.Schema({"w": ((100,), "bool")})
        base = {"w": Support.from_mask(THEIRS)}
        fewer = codec.SupportOnly(Support.from_indices((100,), np.flatnonzero(THEIRS)[1:]))
        data = codec.encode(codec.Update({"w": fewer}), schema, base=base)
        kept = THEIRS.copy()
        kept[np.flatnonzero(THEIRS)[DROPS]] = False
        kept[np.flatnonzero(~THEIRS)[ADDS]] = True
        update = codec.Update({"w": codec.SupportOnly(Support.from_mask(kept))})
        forgery = forge(data).put("I", 52, profile)
        assert forgery.get("B", forgery.descriptor(0) + 4) == 3
        data = forgery.sections(0, section).kept(0, count).sealed()
        try:
            assert codec.decode(data, schema, base) == update
        except codec.CodecError as error:
            return error.reason
        return None

    return decode


class Updates:
    """Updates of one tensor `w`, and what is compared of their sums."""

    @staticmethod
    def schema(shape, dtype="float32"):
        return codec.Schema({"w": (shape, dtype)})

    @staticmethod
    def sparse(shape, density, seed=0):
        support = Support.random(shape, density, seed)
        values = np.random.default_rng(seed).standard_normal(support.nnz).astype(np.float32)
        return codec.Update({"w": codec.Sparse(support, values)})

    @staticmethod
    def signs(support, seed, scale=1.0):
        signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), support.nnz)
        return codec.Update({"w": codec.Signs(support, signs, scale)})

    @staticmethod
    def dense(entry, shape):
        """What an entry says of each position, float64; zeros where nothing."""
        if isinstance(entry, codec.Dense):
            return entry.values.astype(np.float64)
        values = entry.scale * entry.signs if isinstance(entry, codec.Signs) else entry.values
        out = np.zeros(shape)
        out[entry.support.to_numpy_mask()] = values.astype(np.float64)
        return out

    @staticmethod
    def native(accumulator, held_bytes=1 << 24, isa=None):
        accumulator._native = _codec.Accumulation(held_bytes, isa)
        return accumulator

    @staticmethod
    def bits(arrays):
        return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}

    @staticmethod
    def many_chunks(value_format="fp32", density=0.4, seed=0):
        """A message of several chunks a tensor, its schema and update."""
        schema = codec.Schema({"w": ((1300, 613), "float32"), "b": ((7,), "float32")})
        support = Support.random((1300, 613), density, seed)
        random = np.random.default_rng(seed)
        update = codec.Update(
            {
                "w": codec.Sparse(support, random.standard_normal(support.nnz).astype(np.float32)),
                "b": codec.Dense(random.standard_normal(7).astype(np.float32)),
            }
        )
        return schema, codec.encode(update, schema, value_format)


@pytest.fixture
def updates() -> type[Updates]:
    return Updates


@pytest.fixture
def printed() -> Callable[[str, str, str], str]:
    """A function that gives what a process with one of the machine's instruction sets prints."""

    def run(isa: str, module: str, expression: str) -> str:
        """Args: the instruction set, a module of tests/codec, what to print of it, as ``t``."""
        path = [str(pathlib.Path(__file__).parent), *filter(None, sys.path)]
        script = f"import sys; sys.path[:0] = {path!r}; import {module} as t; print({expression})"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "SPARSEFL_ISA": isa},
            capture_output=True,
            text=True,
        )
        if "does not have that instruction set" in done.stderr:
            pytest.skip(f"this machine has no {isa}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """A function that builds a program of sources in tests/csrc and the codec, with sanitizers."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")

    def compiled(folder: str, sources: list[pathlib.Path], *flags: str) -> list[str]:
        into = tmp_path_factory.mktemp(folder)
        jobs = ["xargs", "-P", str(os.cpu_count()), "-n1", compiler, *SANITIZED, *flags, "-c"]
        names = "\n".join(map(str, sources))
        subprocess.run(jobs, input=names, text=True, check=True, cwd=into)
        return [str(path) for path in into.glob("*.o")]

    sources = [*ROOT.glob("csrc/codec/*.cpp")]
    codec_objects = compiled("codec", sources, "-fsanitize-coverage=trace-pc")
    codec_objects += compiled("steps", [ROOT / "tests/csrc/steps.cpp"])

    @functools.cache
    def build(name: str, *patterns: str) -> pathlib.Path:
        """Args: the program's name and the sources' patterns below tests/csrc."""
        sources = [path for pattern in patterns for path in (ROOT / "tests/csrc").glob(pattern)]
        program = tmp_path_factory.mktemp("program") / name
        objects = [*compiled(name, sources), *codec_objects]
        subprocess.run([compiler, *SANITIZED, *objects, "-o", str(program)], check=True)
        return program

    return build
