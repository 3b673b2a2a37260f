"""Compiles kernels for GPUs that need not be there, and holds what they take of one to a table.

``python tests/kernels/test_compile.py`` prints the table anew.
"""

import os
import pathlib
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsefl.kernels import (
    _block_conv2d,
    _block_matmul,
    block_conv2d_dw,
    block_dw,
    conv2d_growth,
    gather_signs,
    growth,
    masked_dw,
    masked_linear,
    normal,
)

TOOLS = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
# Bytes of shared memory that a program can have at most.
MOST_SHARED = {80: 166912, 90: 232448}


@dataclass(frozen=True)
class Build:
    """A kernel with the options that its launcher chooses for one kind of call."""

    kernel: Any
    options: dict[str, Any]
    pointers: dict[str, str]


def build_block_dw(block, dtype, out=torch.float32, gate="none"):
    options = {
        **block_dw.block_dw_options(block, dtype),
        "BLOCK_N": block[0],
        "BLOCK_K": block[1],
        "GATE": gate,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    operand = TYPES[dtype]
    pointers = {"dy_ptr": operand, "x_ptr": operand, "gate_ptr": "*fp32", "out_ptr": TYPES[out]}
    return Build(block_dw._block_dw_kernel, options, pointers)


def build_block_conv2d_dw(block, dtype):
    options = {
        **block_dw.block_dw_options(block, dtype),
        "BLOCK_N": block[0],
        "BLOCK_K": block[1],
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    pointers = {"dy_ptr": TYPES[dtype], "x_ptr": TYPES[dtype], "out_ptr": "*fp32"}
    return Build(block_conv2d_dw._block_conv2d_dw_kernel, options, pointers)


def build_block_conv2d(block, dtype, transposed=False, signs=False):
    linear = build_block_matmul(4096, block, dtype, transposed, signs)
    options = _block_conv2d.block_conv2d_options(4096, block, dtype, transposed)
    return Build(_block_conv2d._block_conv2d_kernel, linear.options | options, linear.pointers)


def build_block_matmul(rows, block, dtype, transposed=False, signs=False):
    options = {
        **_block_matmul.block_matmul_options(rows, block, dtype, transposed),
        "SIGNS": signs,
        "MAGNITUDES": signs,
        "BIAS": not transposed,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    operand = TYPES[dtype]
    weight = "*u8" if signs else operand
    pointers = {"x_ptr": operand, "weight_ptr": weight, "out_ptr": operand}
    pointers |= {"bias_ptr": "*fp32", "magnitude_ptr": "*fp32"}
    return Build(_block_matmul._block_matmul_kernel, options, pointers)


def build_dense_dw(kernel, shape, dtype, **options):
    options |= {**masked_dw.dw_tile_options(shape, dtype), "PRECISION": "ieee", "UPCAST": False}
    operand = TYPES[dtype]
    pointers = {"dy_ptr": operand, "x_ptr": operand, "gate_ptr": "*fp32", "out_ptr": "*fp32"}
    pointers |= {"index_ptr": "*i64", "value_ptr": "*fp32"}
    return Build(kernel, options, pointers)


def build_masked_linear(rows, dtype, transposed=False):
    options = {
        **masked_linear.masked_linear_options(rows, dtype, transposed),
        "BIAS": not transposed,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    operand = TYPES[dtype]
    pointers = {"x_ptr": operand, "values_ptr": operand, "out_ptr": "*fp32", "bias_ptr": operand}
    return Build(masked_linear._masked_linear_kernel, options, pointers)


def build_normal(degree=8, octaves=32):
    options = normal.normal_options((degree + 1, octaves))
    return Build(normal._seeded_normal_kernel, options, {"out_ptr": "*fp32"})


def build_gather_signs(dtype):
    pointers = {"scores_ptr": TYPES[dtype], "out_ptr": "*u8"}
    return Build(gather_signs._gather_signs_kernel, gather_signs.gather_signs_options(), pointers)


# Registers a thread and bytes of shared memory on sm_80 and sm_90, as compiled by triton 3.9.0.
BUILDS = {
    "block_dw-128x128-bf16": (
        build_block_dw((128, 128), torch.bfloat16, gate="elements"),
        {80: (168, 65536), 90: (146, 131072)},
    ),
    "block_dw-64x64-fp32": (
        build_block_dw((64, 64), torch.float32),
        {80: (112, 32768), 90: (72, 32768)},
    ),
    "block_dw-16x16-fp16": (
        build_block_dw((16, 16), torch.float16, torch.float16),
        {80: (52, 6144), 90: (48, 6144)},
    ),
    "block_linear-128x128-bf16": (
        build_block_matmul(4096, (128, 128), torch.bfloat16),
        {80: (176, 32788), 90: (125, 65556)},
    ),
    "block_linear_dx-128x128-bf16": (
        build_block_matmul(4096, (128, 128), torch.bfloat16, transposed=True),
        {80: (180, 32788), 90: (106, 65556)},
    ),
    "masked_dw-bf16": (
        build_dense_dw(masked_dw._masked_dw_kernel, (512, 512), torch.bfloat16, GATE="elements"),
        {80: (194, 40960), 90: (161, 73728)},
    ),
    "growth-bf16": (
        build_dense_dw(growth._growth_kernel, (512, 512), torch.bfloat16),
        {80: (146, 40960), 90: (201, 73728)},
    ),
    "conv2d_growth-bf16": (
        build_dense_dw(conv2d_growth._conv2d_growth_kernel, (512, 512), torch.bfloat16),
        {80: (144, 40960), 90: (203, 73728)},
    ),
    "conv2d_growth-fp32": (
        build_dense_dw(conv2d_growth._conv2d_growth_kernel, (512, 512), torch.float32),
        {80: (184, 32768), 90: (150, 32768)},
    ),
    "growth-fp32": (
        build_dense_dw(growth._growth_kernel, (512, 512), torch.float32),
        {80: (182, 32768), 90: (164, 32768)},
    ),
    "masked_linear-bf16": (
        build_masked_linear(64, torch.bfloat16),
        {80: (189, 16384), 90: (168, 16384)},
    ),
    "masked_linear_dx-bf16": (
        build_masked_linear(16, torch.bfloat16, transposed=True),
        {80: (167, 10240), 90: (104, 10240)},
    ),
    "masked_linear-fp32": (
        build_masked_linear(64, torch.float32),
        {80: (204, 24576), 90: (162, 24576)},
    ),
    "gather_signs-fp32": (build_gather_signs(torch.float32), {80: (48, 512), 90: (40, 512)}),
    "seeded_normal": (build_normal(), {80: (56, 4096), 90: (80, 4096)}),
    "block_linear-32x32-fp32": (
        build_block_matmul(64, (32, 32), torch.float32),
        {80: (96, 12308), 90: (96, 12308)},
    ),
    "sign_linear-128x64-bf16": (
        build_block_matmul(4096, (128, 64), torch.bfloat16, signs=True),
        {80: (210, 33812), 90: (156, 50196)},
    ),
    "block_conv2d-64x64-bf16": (
        build_block_conv2d((64, 64), torch.bfloat16),
        {80: (150, 24644), 90: (118, 49220)},
    ),
    "block_conv2d_dx-128x128-bf16": (
        build_block_conv2d((128, 128), torch.bfloat16, transposed=True),
        {80: (192, 32836), 90: (123, 65604)},
    ),
    "block_conv2d-32x32-fp32": (
        build_block_conv2d((32, 32), torch.float32),
        {80: (192, 20548), 90: (156, 20548)},
    ),
    "sign_conv2d-64x64-bf16": (
        build_block_conv2d((64, 64), torch.bfloat16, signs=True),
        {80: (192, 24612), 90: (127, 40996)},
    ),
    "sign_conv2d_dx-128x64-bf16": (
        build_block_conv2d((128, 64), torch.bfloat16, transposed=True, signs=True),
        {80: (194, 24868), 90: (123, 41252)},
    ),
    "block_conv2d_dw-64x64-bf16": (
        build_block_conv2d_dw((64, 64), torch.bfloat16),
        {80: (128, 24576), 90: (72, 49152)},
    ),
    "block_conv2d_dw-128x128-bf16": (
        build_block_conv2d_dw((128, 128), torch.bfloat16),
        {80: (176, 65536), 90: (121, 131072)},
    ),
    "sign_linear_dx-128x64-bf16": (
        build_block_matmul(4096, (128, 64), torch.bfloat16, transposed=True, signs=True),
        {80: (239, 25364), 90: (138, 41748)},
    ),
}
# Kernels that the others nearly are; all compile in 30 s of a slow core.
SLOW = {
    "block_conv2d-32x32-fp32",
    "block_conv2d_dw-128x128-bf16",
    "block_conv2d_dx-128x128-bf16",
    "sign_conv2d_dx-128x64-bf16",
    "block_dw-16x16-fp16",
    "block_dw-64x64-fp32",
    "block_linear_dx-128x128-bf16",
    "block_linear-32x32-fp32",
    "conv2d_growth-fp32",
    "growth-fp32",
    "masked_linear-fp32",
    "masked_linear_dx-bf16",
    "sign_linear-128x64-bf16",
}


def compile_for(build, architecture):
    """Returns registers a thread, bytes of stack and spills, and bytes of shared memory."""
    names = build.kernel.arg_names
    constants = {name: build.options[name] for name in names if name in build.options}
    launch = {name: value for name, value in build.options.items() if name not in constants}
    signature = {name: argument_type(name, build.pointers) for name in names}
    signature |= dict.fromkeys(constants, "constexpr")
    # What a launch finds: tensors begin at multiples of 16, as do rows; sides are some.
    aligned = [name.endswith("_ptr") or name.startswith("stride") or name in "NK" for name in names]
    attributes = {(i,): [["tt.divisibility", 16]] for i, is_so in enumerate(aligned) if is_so}
    source = ASTSource(build.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        listed = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    usage = dict(part.split(":") for part in listed.split()[-8:] if ":" in part)
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"]), compiled.metadata.shared


def argument_type(name, pointers):
    if name.endswith("_ptr"):
        return pointers.get(name, "*i32")
    return "fp32" if name in ("scale", "threshold") else "i32"


@pytest.fixture(scope="module", autouse=True)
def fresh_cache(tmp_path_factory):
    """Compiles anew: a kernel that an earlier version of a tool compiled tells nothing."""
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


@pytest.mark.parametrize("architecture", [80, 90], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in BUILDS]
)
def test_stays_within_its_budget(name, architecture):
    build, budgets = BUILDS[name]
    registers, spilled_bytes, shared_bytes = compile_for(build, architecture)
    assert spilled_bytes == 0
    assert registers <= budgets[architecture][0]
    assert shared_bytes <= budgets[architecture][1] <= MOST_SHARED[architecture]


if __name__ == "__main__":
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()
    for build_name, (one, _) in BUILDS.items():
        print(build_name, {target: compile_for(one, target) for target in MOST_SHARED})
