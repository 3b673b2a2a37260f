"""Prints which lines of the codec the corpus and the fuzz target reach, for each file.

``tools/codec_coverage.py [--seconds N] [--lines]``: N of fuzzing an instruction set (20), and
whether to print the lines that nothing reached. Needs g++ and gcov.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = ["-std=c++20", "-O0", "--coverage", "-pthread", "-Wno-psabi", f"-I{ROOT / 'csrc'}"]
FLAGS += [f"-I{ROOT / 'tests' / 'csrc'}"]
# Kernels beside messages: dense tensors, top-k, votes, packed signs, tensors from seeds.
BESIDE = ("dense_", "kept.", "magnitudes.", "normal", "signs.inl", "top_k", "votes.")


def build(folder):
    """Returns the fuzz program, compiled into a folder."""
    sources = [*ROOT.glob("csrc/codec/*.cpp"), *ROOT.glob("tests/csrc/fuzz/*.cpp")]
    sources += [*ROOT.glob("tests/csrc/fuzz_*.cpp"), ROOT / "tests/csrc/steps.cpp"]
    commands = "\n".join(f"g++ {' '.join(FLAGS)} -c {source}" for source in sources)
    jobs = ["xargs", "-P", str(os.cpu_count()), "-I{}", "sh", "-c", "{}"]
    subprocess.run(jobs, input=commands, text=True, check=True, cwd=folder)
    objects = [p.name for p in folder.glob("*.o")]
    subprocess.run(["g++", "--coverage", *objects, "-o", "fuzz"], check=True, cwd=folder)
    return folder / "fuzz"


def lines(folder):
    """Returns how often each line of each file of the codec ran, over all that include it."""
    ran = collections.defaultdict(collections.Counter)
    for data in folder.glob("*.gcda"):
        command = ["gcov", "--json-format", "--stdout", data.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        for file in json.loads(done.stdout)["files"]:
            if "csrc/codec/" not in file["file"] or "tests" in file["file"]:
                continue
            for line in file["lines"]:
                ran[pathlib.Path(file["file"]).name][line["line_number"]] += line["count"]
    return ran


def main():
    """Builds, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--lines", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        program = build(folder)
        corpus = ROOT / "tests" / "codec" / "corpus"
        for isa in ("scalar", "avx2", "avx512"):
            command = [program, corpus, "--seconds", str(arguments.seconds)]
            # A machine without the instruction set ends the program at once.
            subprocess.run(command, env={**os.environ, "SPARSEFL_ISA": isa}, check=False)
        for file, counts in sorted(lines(folder).items()):
            if file.startswith(BESIDE):
                continue
            missed = [number for number, count in sorted(counts.items()) if count == 0]
            print(f"{file:28} {len(counts) - len(missed):5} of {len(counts):5}  ", end="")
            print(f"{100 - 100 * len(missed) / len(counts):5.1f} %", end="")
            print(f"  {missed}" if arguments.lines and missed else "")


if __name__ == "__main__":
    main()
