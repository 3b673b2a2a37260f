"""Programs of tests/csrc give the same bits on AArch64 (cross-compiled, emulated) as here.

A program prints a line a result. To add one, put ``tests/csrc/<name>.cpp`` and its sources in
PROGRAMS; it must then print the same here, optimised in any way, and on AArch64.
"""

import concurrent.futures
import functools
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = {
    "streams": ["csrc/codec/normal*.cpp", "csrc/cpu/isa.cpp"],
    "messages": ["csrc/codec/*.cpp"],
    "every_coder": ["csrc/codec/*.cpp"],
    "kernels": [
        *("csrc/cpu/plan.cpp", "csrc/cpu/dense_weight.cpp"),
        *("csrc/cpu/batch_last_*.cpp", "csrc/cpu/sparse_*.cpp", "csrc/cpu/sign_codes_*.cpp"),
    ],
    "norms": ["csrc/cpu/batch_norm_*.cpp"],
    "group_norm": ["csrc/cpu/group_norm_*.cpp"],
    "growth": ["csrc/cpu/growth*.cpp"],
    "max_pool2d": ["csrc/cpu/max_pool2d_*.cpp"],
    "relu": ["csrc/cpu/relu_*.cpp"],
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
small bytes 527 crc32c de24f8c6 refused 0
small cut 527 flipped 4216 damaged 0:2638 1:2880 2:1666 3:555 4:378 5:510 6:308 7:2728 8:3703 \
9:562 10:1085 11:3475 12:1408 13:475 14:127 15:298 16:2674 17:3642 18:6441 19:119 20:1502 21:814 \
22:5 23:231 25:228 26:99 27:68 28:138 30:603 31:640
large bytes 211108 crc32c a6760a45 refused 0
large cut 52 flipped 43 damaged 0:30 1:6 2:4 3:3 4:2 5:2 7:4 8:13 9:3 10:10 11:4 12:1 14:1 16:5 \
17:4 18:13 20:6 21:19 22:6 25:9 26:36 30:1 31:18
small coded bytes 578 crc32c e94cd6f8 refused 0
small coded cut 578 flipped 4624 damaged 0:3771 1:2711 2:1647 3:472 4:369 5:495 6:277 7:2447 \
8:3785 9:562 10:1082 11:2951 12:1236 13:378 14:268 15:180 16:2121 17:2703 18:6432 19:107 20:1988 \
21:1882 22:7 23:308 25:328 27:144 28:68 30:480 31:801
large coded bytes 226049 crc32c 906dfd1d refused 0
large coded cut 56 flipped 46 damaged 0:13 1:17 2:5 4:1 6:1 7:2 8:13 10:5 11:10 12:3 13:1 14:1 \
15:1 16:8 17:10 18:14 19:2 20:8 21:19 23:2 25:6 30:1 31:57
""",
    # Codes and sections by every coder, all read back.
    "every_coder": """\
bits 0 codes 12 crc32c b88fce02
bits 1 codes 12 crc32c 901eb1a9
bits 2 codes 12 crc32c 5335f6b8
bits 3 codes 12 crc32c 15dfb014
bits 4 codes 12 crc32c 0f2c6c42
bits 5 codes 3 crc32c 7c138869
bytes lanes 1 crc32c 96b36c4b
bytes lanes 2 crc32c 8ab3b4f9
bytes lanes 4 crc32c 2f77dce4
bytes lanes 8 crc32c 4eda8d6e
bytes lanes 16 crc32c 48537c1c
bytes lanes 32 crc32c 40045c6b
bytes lanes 64 crc32c 926764e9
fp32 sections f8d72a84 values ea685e3e
bf16 sections d14c84f2 values 9afa3e10
int8 sections 604936b5 values 3499aef0
int4 sections 1397d3fb values a5ff535a
ternary sections f8564305 values c734621a
float16 sections 821b87c9 values 4086f5e1
float64 sections 2fb2200c values 6f17e1c9
int64 sections 27272818 values 6f17e1c9
modular sections ea685e3e values ea685e3e
fp32 by classes sections 1a8771fd values ea685e3e
bf16 by classes sections 85b8c671 values 9afa3e10
int8 by classes sections 82572acc values 3499aef0
int4 by classes sections 605db29a values a5ff535a
ternary by classes sections d8de1e55 values c734621a
float16 by classes sections 3f69f197 values 4086f5e1
float64 by classes sections b1c5e97c values 6f17e1c9
int64 by classes sections e3d7f84b values 6f17e1c9
modular by classes sections ea685e3e values ea685e3e
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
    "growth": """\
growth 168
""",
    "max_pool2d": """\
max_pool2d 84
""",
    "relu": """\
relu 34
""",
}

# Integers are rounded by adding 1.5 * 2^23 and taking it away again, which is not to be dropped.
FLAGS_OF = dict.fromkeys(("messages", "every_coder"), ("-fno-associative-math",))


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


Output = Callable[..., str]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A function that builds a program and gives what it prints."""

    # Two threads may not be the first to ask pytest for a folder.
    tmp_path_factory.getbasetemp()

    @functools.cache
    def compiled(command: tuple[str, ...], source: pathlib.Path) -> str:
        """Programs share their objects."""
        target = tmp_path_factory.mktemp("object") / f"{source.stem}.o"
        subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    def build_and_run(name: str, compiler: str, flags: list[str], *run: str) -> str:
        sources = [p for pattern in PROGRAMS[name] for p in sorted(ROOT.glob(pattern))]
        sources.append(ROOT / "tests" / "csrc" / f"{name}.cpp")
        command = (compiler, "-std=c++20", "-Wno-psabi", f"-I{ROOT / 'csrc'}", *flags)
        command += FLAGS_OF.get(name, ())
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(functools.partial(compiled, command), sources))
        program = tmp_path_factory.mktemp("program") / name
        subprocess.run([*command, *objects, "-o", str(program)], check=True)
        done = subprocess.run([*run, str(program)], check=True, capture_output=True, text=True)
        return done.stdout

    return build_and_run


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["-O0"], id="unoptimised"),
        # What would contract a multiplication into its neighbours, were there any.
        pytest.param(["-O3", "-ffast-math", "-ffp-contract=fast"], id="fast-math"),
    ],
)
def test_compiler_flags_leave_the_bits_alone(name: str, flags: list[str], output: Output) -> None:
    assert output(name, tool("g++"), flags) == EXPECTED[name]


@pytest.mark.parametrize("name", PROGRAMS)
def test_aarch64_gives_the_same_bits(name: str, output: Output) -> None:
    compiler, emulator = tool("aarch64-linux-gnu-g++"), tool("qemu-aarch64")
    flags = ["-O3", "-static", "-ffp-contract=fast"]
    assert output(name, compiler, flags, emulator) == EXPECTED[name]
