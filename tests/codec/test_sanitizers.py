"""The torch-free codec under address and undefined-behaviour sanitizers, fed damaged bytes."""

import os
import re
import subprocess

import pytest


def run(sanitized, name, isa=""):
    """Returns what a program of tests/csrc prints, with an instruction set that the machine has."""
    program = sanitized(name, f"{name}.cpp")
    environment = {**os.environ, "SPARSEFL_ISA": isa}
    done = subprocess.run([program], capture_output=True, text=True, env=environment)
    if isa and "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_damaged_messages_leave_memory_alone(sanitized):
    printed = run(sanitized, "messages")

    for name in ("small", "small coded"):
        line = rf"^{name} bytes (\d+) .* refused 0\n{name} cut (\d+) flipped (\d+)"
        size, cut, flipped = map(int, re.search(line, printed, re.M).groups())
        assert (cut, flipped) == (size, 8 * size)


def test_damaged_value_sections_leave_memory_alone(sanitized):
    printed = run(sanitized, "values")

    assert len(printed.splitlines()) == 8
    for line in printed.splitlines():
        whole, of, cut, cuts = map(
            int, re.search(r"(\d+) of (\d+) cut (\d+) of (\d+)", line).groups()
        )
        assert (whole, cut) == (of, cuts), line


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_damaged_byte_codes_leave_memory_alone(isa, sanitized):
    printed = run(sanitized, "byte_codes", isa)

    refused, kept = map(int, re.findall(r"\d+", printed))
    # A flip may give another sound code, of a list behind one.
    assert refused > 10 * kept


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_damaged_bit_codes_leave_memory_alone(isa, sanitized):
    printed = run(sanitized, "bit_codes", isa)

    whole = list(map(int, re.findall(r"whole (\d+)", printed)))
    assert len(whole) == 6
    assert min(whole) > 0


def test_sums_stay_where_they_should(sanitized):
    lines = run(sanitized, "sums").splitlines()

    # The second half is the same on several threads.
    half = len(lines) // 2
    assert half == 8
    assert lines[:half] == lines[half:]
