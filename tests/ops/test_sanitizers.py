"""The torch-free kernels under address and undefined-behaviour sanitizers, on awkward shapes."""

import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = (
    "tests/csrc/kernels.cpp",
    "csrc/cpu/plan.cpp",
    *(
        f"csrc/cpu/{op}_{isa}.cpp"
        for op in ("sparse_linear", "sparse_conv2d", "batch_last")
        for isa in ("scalar", "avx2", "avx512")
    ),
)
# Unoptimised: every access is checked where it is written, in a fifth of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_kernels_stay_in_their_buffers_and_equal_plain_loops(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")

    def compiled(source: str) -> str:
        target = tmp_path / (pathlib.Path(source).stem + ".o")
        command = [compiler, *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", "-c", str(ROOT / source)]
        subprocess.run([*command, "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    program = tmp_path / "kernels"
    subprocess.run([compiler, *SANITIZERS, *objects, "-o", str(program)], check=True)

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    operations = [line.split()[0] for line in done.stdout.splitlines()]
    assert operations == ["spmm", "gradients", "gather", "sample", "transpose"]
