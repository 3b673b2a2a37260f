"""The C library's allocator keeps freed memory where nobody asked for something else."""

import platform
import subprocess
import sys

import pytest

from sparsefl import allocator

# Four blocks of 2.8 MB, made and freed as a step does with activations; page faults of the third
# time. (numpy asks for huge pages from 4 MB on.)
PROGRAM = """
import resource, sys
from sparsefl.allocator import describe_allocator, keep_freed_memory
import numpy as np
if sys.argv[1] == "keep":
    keep_freed_memory()

def step():
    return len([np.ones(700_000, np.float32) for _ in range(4)])

step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, describe_allocator())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc alone")
def test_freed_pages_are_used_again(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    faults = {}
    for how, described_as in (("keep", "keeps freed memory"), ("not", "defaults")):
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, _, described = done.stdout.partition(" ")
        faults[how] = int(count)
        assert described.strip().endswith(described_as)
    assert faults["keep"] < 100 < faults["not"]


def test_what_the_environment_asks_for_stands(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not allocator.keep_freed_memory()
    assert "'MALLOC_ARENA_MAX': '2'" in allocator.describe_allocator()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
