"""The torch-free codec under address and undefined-behaviour sanitizers, fed damaged bytes."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = ["-std=c++20", "-O1", "-g1", "-pthread", "-Wall", "-Wextra", "-Wno-psabi", "-Werror"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Compiles the codec once for all programs."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("codec")
    sources = map(str, ROOT.glob("csrc/codec/*.cpp"))
    subprocess.run([compiler, *FLAGS, "-c", *sources], check=True, cwd=folder)
    return list(map(str, folder.glob("*.o")))


def run(name, objects, tmp_path, isa=None):
    """Returns what a program of tests/csrc prints, with an instruction set that the machine has."""
    program = str(tmp_path / name)
    source = str(ROOT / "tests" / "csrc" / f"{name}.cpp")
    subprocess.run(["g++", *FLAGS, source, *objects, "-o", program], check=True)
    env = {"SPARSEFL_ISA": isa} if isa else None
    done = subprocess.run([program], capture_output=True, text=True, env=env)
    if isa and "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_damaged_messages_leave_memory_alone(objects, tmp_path):
    printed = run("messages", objects, tmp_path)

    for name in ("small", "small coded"):
        line = rf"^{name} bytes (\d+) .* refused 0\n{name} cut (\d+) flipped (\d+)"
        size, cut, flipped = map(int, re.search(line, printed, re.M).groups())
        assert (cut, flipped) == (size, 8 * size)


def test_damaged_value_sections_leave_memory_alone(objects, tmp_path):
    printed = run("values", objects, tmp_path)

    assert len(printed.splitlines()) == 8
    for line in printed.splitlines():
        whole, of, cut, cuts = map(
            int, re.search(r"(\d+) of (\d+) cut (\d+) of (\d+)", line).groups()
        )
        assert (whole, cut) == (of, cuts), line


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_damaged_byte_codes_leave_memory_alone(isa, objects, tmp_path):
    printed = run("byte_codes", objects, tmp_path, isa)

    refused, kept = map(int, re.findall(r"\d+", printed))
    # A flip may give another sound code, of a list behind one.
    assert refused > 10 * kept


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_damaged_bit_codes_leave_memory_alone(isa, objects, tmp_path):
    printed = run("bit_codes", objects, tmp_path, isa)

    whole = list(map(int, re.findall(r"whole (\d+)", printed)))
    assert len(whole) == 6
    assert min(whole) > 0


def test_sums_stay_where_they_should(objects, tmp_path):
    lines = run("sums", objects, tmp_path).splitlines()

    # The second half is the same on several threads.
    half = len(lines) // 2
    assert half == 8
    assert lines[:half] == lines[half:]
