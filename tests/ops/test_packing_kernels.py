"""The CUDA kernels for bitmaps, run by an emulation on the host, against the codec's functions.

With memory of exactly the size allowed, which sanitizers watch in the long run of the tests.
"""

import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = (
    *("tests/csrc/packing.cpp", "csrc/cuda/bitmap.cu", "csrc/cuda/signs.cu", "csrc/cuda/top_k.cu"),
    *("csrc/codec/top_k.cpp", "csrc/codec/bits.cpp", "csrc/codec/dense_kernels.cpp"),
    *("csrc/codec/dense_scalar.cpp", "csrc/codec/rank*.cpp", "csrc/cpu/isa.cpp"),
)
FLAGS = (
    *("-x", "c++", "-std=c++20", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"),
    "-Wno-unknown-pragmas",
    *(f"-I{ROOT / folder}" for folder in ("csrc", "tests/csrc", "tests/csrc/emulated")),
)


SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize(
    "flags",
    [("-O0",), pytest.param(("-O1", *SANITIZERS), marks=pytest.mark.slow)],
    ids=["plain", "sanitizers"],
)
def test_kernels_give_the_codecs_bits_in_an_emulation(flags, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    sources = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]

    def compiled(source):
        target = tmp_path / f"{source.name}.o"
        subprocess.run([compiler, *FLAGS, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = tmp_path / "program"
    subprocess.run([compiler, *flags, *objects, "-o", program], check=True)

    done = subprocess.run([program], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    named = [line.split()[0] for line in done.stdout.splitlines()]
    assert named == ["words", "digits", "signs", "bitmap", "votes", "top_k"]
