"""The kernels beside messages under sanitizers, in memory of just the size they may touch."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [
    ROOT / "tests" / "csrc" / "dense_kernels.cpp",
    *ROOT.glob("csrc/codec/dense_*.cpp"),
    *(ROOT / f"csrc/codec/{name}.cpp" for name in ("bits", "isa", "rank", "rank_bmi2", "top_k")),
]


def test_kernels_touch_only_their_memory_and_agree(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    program = tmp_path / "dense_kernels"
    flags = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        [
            *(compiler, *flags, *sanitizers, f"-I{ROOT / 'csrc'}"),
            *(*map(str, SOURCES), "-o", str(program)),
        ],
        check=True,
    )

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    sums = dict(line.split() for line in done.stdout.splitlines())
    assert "scalar" in sums
    assert len(set(sums.values())) == 1
