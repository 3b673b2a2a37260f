"""The torch-free kernels under sanitizers, on awkward shapes, shared out over threads."""

import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# What each program of tests/csrc runs, and the operations that it names when all is well.
PROGRAMS = {
    "kernels": (
        (
            "plan.cpp",
            "dense_weight.cpp",
            *(
                f"{op}_*.cpp"
                for op in ("sparse_linear", "sign_codes", "sparse_conv2d", "batch_last")
            ),
        ),
        ["spmm", "gradients", "gather", "sample", "transpose", "dense_weight"],
    ),
    "gated": (("plan.cpp", "gated_conv2d_*.cpp"), ["gated_gather", "gated_outer"]),
    "gated_norm": (("gated_norm_*.cpp",), ["gated_norm"]),
    "norms": (("batch_norm_*.cpp",), ["batch_norm"]),
    "group_norm": (("group_norm_*.cpp",), ["group_norm"]),
    "growth": (("growth*.cpp",), ["growth"]),
    "max_pool2d": (("max_pool2d_*.cpp",), ["max_pool2d"]),
    "memory_pool": (("memory_pool.cpp",), ["random", "steps", "forgetting", "release", "none"]),
    "relu": (("relu_*.cpp",), ["relu"]),
    "packed_sign": (
        ("isa.cpp", "packed_sign*.cpp"),
        ["products", "gather_window", "quantise"],
    ),
}
SANITIZERS = {
    "memory": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-fsanitize=thread",),
}
# Unoptimised: every access is checked where it is written, in a fifth of the time to compile.
FLAGS = ("-std=c++20", "-O0", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")


def build(
    sources: list[pathlib.Path], flags: tuple[str, ...], folder: pathlib.Path
) -> pathlib.Path:
    """Compiles the sources, two at a time, and links them into a program."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")

    def compiled(source: pathlib.Path) -> str:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        command = [compiler, *FLAGS, *flags, f"-I{ROOT / 'csrc'}", "-c", str(source)]
        subprocess.run([*command, "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "program"
    subprocess.run([compiler, "-pthread", *flags, *objects, "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("sanitizers", SANITIZERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_stay_in_their_memory_and_equal_plain_loops(name, sanitizers, tmp_path):
    patterns, operations = PROGRAMS[name]
    sources = [ROOT / "tests" / "csrc" / f"{name}.cpp"]
    sources += [path for pattern in patterns for path in (ROOT / "csrc" / "cpu").glob(pattern)]
    program = build(sources, SANITIZERS[sanitizers], tmp_path)

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == operations


RACE = """
#include "parts.h"
int main() {
  int shared = 0;
  sparsefl::for_parts(2, [&](int64_t) { ++shared; });
  return 0;
}
"""


def test_thread_sanitizer_sees_parts_that_share_memory(tmp_path):
    source = tmp_path / "race.cpp"
    source.write_text(RACE)
    flags = (*SANITIZERS["threads"], f"-I{ROOT / 'tests' / 'csrc'}")
    program = build([source], flags, tmp_path)

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode != 0
    assert "data race" in done.stderr
