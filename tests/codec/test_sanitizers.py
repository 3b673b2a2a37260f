"""The torch-free codec under address and undefined-behaviour sanitizers, fed damaged messages."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# All of the codec but the normals, which read no message.
SOURCES = [p for p in ROOT.glob("csrc/codec/*.cpp") if not p.stem.startswith("normal")]


def test_damaged_messages_leave_memory_alone(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    program = tmp_path / "messages"
    files = [ROOT / "tests" / "csrc" / "messages.cpp", *SOURCES]
    flags = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        [compiler, *flags, *sanitizers, *map(str, files), "-o", str(program)], check=True
    )

    done = subprocess.run([str(program)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    for name in ("small", "small coded"):
        line = rf"^{name} bytes (\d+) .* refused 0\n{name} cut (\d+) flipped (\d+)"
        size, cut, flipped = map(int, re.search(line, done.stdout, re.M).groups())
        assert (cut, flipped) == (size, 8 * size)
