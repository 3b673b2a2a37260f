"""Damaged messages, a minute of them, against what must hold of the codec whatever the bytes are.

tests/csrc/fuzz/oracle.h says what that is. The program also cuts and flips each message of the
corpus at every place. ``make fuzz`` runs longer, ``make corpus`` makes the corpus anew.
"""

import os
import pathlib
import re
import subprocess

import pytest

from sparsefl.codec import CodecReason

CORPUS = pathlib.Path(__file__).parent / "corpus"
# They are found by callers of the compiled codec.
ELSEWHERE = {CodecReason.BASE_MISMATCH, CodecReason.CONTENT}


@pytest.fixture(scope="module")
def fuzz(sanitized):
    return sanitized("fuzz", "fuzz/*.cpp", "fuzz_*.cpp")


def counts(printed, name):
    """Returns {number: times} of a line of the program."""
    (line,) = re.findall(rf"^{name}(.*)$", printed, re.MULTILINE)
    return {int(number): int(times) for number, times in re.findall(r"(\d+):(\d+)", line)}


# Together a minute.
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_no_promise_is_broken(fuzz, tmp_path, isa):
    done = subprocess.run(
        [fuzz, CORPUS, "--seconds", "20"],
        env={**os.environ, "SPARSEFL_ISA": isa},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    if "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine has no {isa}")

    assert done.returncode == 0, done.stderr
    reasons = counts(done.stdout, "reasons")
    assert not [r for r in {*CodecReason} - ELSEWHERE if r.value not in reasons]
    for coders in ("supports", "signs", "values"):
        assert {*counts(done.stdout, f"corpus {coders}")} <= {*counts(done.stdout, coders)}


def test_the_corpus_is_the_one_that_the_program_makes(fuzz, tmp_path):
    subprocess.run([fuzz, tmp_path / "corpus", "--make"], check=True)

    made = {path.name: path.read_bytes() for path in (tmp_path / "corpus").iterdir()}
    assert made.items() <= {path.name: path.read_bytes() for path in CORPUS.iterdir()}.items()
