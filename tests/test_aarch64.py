"""Programs of tests/csrc give the same bits on AArch64 (cross-compiled, emulated) as here.

A program prints a line a result. To add one, put ``tests/csrc/<name>.cpp`` and its sources in
PROGRAMS; it must then print the same here, optimised in any way, and on AArch64.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = {
    "streams": ["csrc/codec/normal*.cpp", "csrc/cpu/isa.cpp"],
    "messages": [
        *(f"csrc/codec/{name}.cpp" for name in ("bits", "crc32c", "decode", "encode", "floats")),
        "csrc/cpu/isa.cpp",
    ],
    "kernels": ["csrc/cpu/plan.cpp", "csrc/cpu/batch_last_*.cpp", "csrc/cpu/sparse_*.cpp"],
}
EXPECTED = {
    # The first three are the known-answer vectors of Random123 (tests/kat_vectors, philox4x32 10).
    "streams": """\
philox 6627e8d5 e169c58d bc57ac4c 9b00dbd8
philox 408f276d 41c83b0e a20bc7c6 6d5451fd
philox d16cfe09 94fdcceb 5001e420 24126ea1
words 000000006627e8d5
normals 00000000be82fa50
normals 00000000be82fa50
words 29d59b10a8b07ae2
normals 22e06341826eeaa5
normals 22e06341826eeaa5
words f1a0d7a77d8c1ffe
normals 68075617064a3b19
normals 68075617064a3b19
quantiles 1061f6cde6afd156
""",
    # What is refused, by the number of the reason (csrc/codec/format.h), 0 for what is accepted.
    "messages": """\
small bytes 600 crc32c 125267bc refused 0
small cut 600 flipped 4800 damaged 0:3186 1:2700 2:1623 3:519 4:331 5:531 6:318 7:2634 8:3670 \
9:3078 10:1037 11:3341 12:941 13:523 14:1045 15:242 16:599 17:4004 18:6017 19:117 20:1983 21:180 \
22:8 23:287 25:295 26:106 27:374 28:311
large bytes 429576 crc32c cc064a7b refused 0
large cut 105 flipped 86 damaged 0:48 1:6 2:3 3:4 4:3 5:2 7:3 8:13 9:12 10:10 11:3 12:1 16:1 17:4 \
18:10 20:18 21:11 22:5 25:11 26:23 28:9
""",
    "kernels": """\
spmm ffffffffe9c33158
sddmm 00000000000b0904
gather fffffffff8590368
sample fffffffffffd05e5
transpose ffffffffe46111ab
""",
}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output(name: str, compiler: str, flags: list[str], folder: pathlib.Path, *run: str) -> str:
    sources = [p for pattern in PROGRAMS[name] for p in sorted(ROOT.glob(pattern))]
    program = folder / name
    command = [compiler, "-std=c++20", "-Wno-psabi", f"-I{ROOT / 'csrc'}", *flags]
    command += [str(ROOT / "tests" / "csrc" / f"{name}.cpp"), *map(str, sources)]
    subprocess.run([*command, "-o", str(program)], check=True)
    done = subprocess.run([*run, str(program)], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["-O0"], id="unoptimised"),
        # What would contract a multiplication into its neighbours, were there any.
        pytest.param(["-O3", "-ffast-math", "-ffp-contract=fast"], id="fast-math"),
    ],
)
def test_compiler_flags_leave_the_bits_alone(
    name: str, flags: list[str], tmp_path: pathlib.Path
) -> None:
    assert output(name, tool("g++"), flags, tmp_path) == EXPECTED[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_aarch64_gives_the_same_bits(name: str, tmp_path: pathlib.Path) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64")
    flags = ["-O3", "-static", "-ffp-contract=fast"]
    assert output(name, compiler, flags, tmp_path, emulator) == EXPECTED[name]
