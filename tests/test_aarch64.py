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
    "messages": ["csrc/codec/[!n]*.cpp"],
    "kernels": [
        *("csrc/cpu/plan.cpp", "csrc/cpu/dense_weight.cpp"),
        *("csrc/cpu/batch_last_*.cpp", "csrc/cpu/sparse_*.cpp", "csrc/cpu/sign_codes_*.cpp"),
    ],
    "norms": ["csrc/cpu/batch_norm_*.cpp"],
    "group_norm": ["csrc/cpu/group_norm_*.cpp"],
    "max_pool2d": ["csrc/cpu/max_pool2d_*.cpp"],
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
small cut 600 flipped 4800 damaged 0:3194 1:2700 2:1623 3:519 4:331 5:531 6:318 7:2634 8:3670 \
9:2861 10:1037 11:3344 12:918 13:498 14:1046 15:263 16:599 17:4009 18:6103 19:117 20:1990 21:180 \
22:8 23:287 25:295 26:106 27:374 28:311 31:134
large bytes 429576 crc32c cc064a7b refused 0
large cut 105 flipped 86 damaged 0:48 1:6 2:3 3:4 4:3 5:2 7:3 8:13 9:8 10:10 11:3 12:1 16:1 17:4 \
18:12 20:18 21:11 22:5 25:11 26:23 28:9 31:2
small coded bytes 520 crc32c 88ba7b67 refused 0
small coded cut 520 flipped 4160 damaged 0:4058 1:2832 2:1691 3:506 4:371 5:545 6:300 7:2310 \
8:3605 9:2334 10:1134 11:2721 12:750 13:382 14:815 15:184 16:381 17:2581 18:5986 19:133 20:3488 \
21:364 22:10 23:296 25:431 27:811 28:107 30:103 31:259 32:512
large coded bytes 151704 crc32c 60111849 refused 0
large coded cut 38 flipped 31 damaged 0:45 1:9 2:3 3:2 4:1 5:4 7:3 8:11 9:8 10:2 11:4 12:3 13:1 \
14:5 16:1 17:11 18:14 19:3 20:21 21:11 23:5 25:9 28:4 30:1 31:2 32:17
""",
    "kernels": """\
spmm 00000000e6311077
gradients ffffffffe7147957
gather ffffffff424130b1
sample 00000000000a170c
transpose ffffffffe2a4621b
dense_weight 000000000d3d74b0
""",
    "norms": """\
batch_norm 224
""",
    "group_norm": """\
group_norm 800
""",
    "max_pool2d": """\
max_pool2d 84
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
