"""The torch-free kernels under address and undefined-behaviour sanitizers, on awkward shapes."""

import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = {
    "kernels": (
        ("plan.cpp", *(f"{op}_*.cpp" for op in ("sparse_linear", "sparse_conv2d", "batch_last"))),
        ["spmm", "gradients", "gather", "sample", "transpose"],
    ),
    "norms": (("batch_norm_*.cpp",), ["batch_norm"]),
}
# Unoptimised: every access is checked where it is written, in a fifth of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_stay_in_their_buffers_and_equal_plain_loops(name, tmp_path):
    patterns, operations = PROGRAMS[name]
    sources = [ROOT / "tests" / "csrc" / f"{name}.cpp"]
    sources += [path for pattern in patterns for path in (ROOT / "csrc" / "cpu").glob(pattern)]
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")

    def compiled(source: pathlib.Path) -> str:
        target = tmp_path / f"{source.stem}.o"
        command = [compiler, *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", "-c", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = tmp_path / name
    subprocess.run([compiler, *SANITIZERS, *objects, "-o", str(program)], check=True)

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == operations
