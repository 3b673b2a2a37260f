"""The choice of the instruction set, and what a forked child may do."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CSRC = pathlib.Path(__file__).parents[2] / "csrc"
VECTOR_SOURCES = sorted((CSRC / "cpu").glob("*_avx*.cpp"))
CHILD_AFTER_TRAINING = """
import os, torch
from sparsefl import Support, ops
plan = ops.LinearPlan(Support.random((512, 512), 0.3, seed=1))
x, values = torch.randn(64, 512), torch.randn(plan.support.nnz)
torch.set_num_threads(2)
expected = ops.sparse_linear(x, values, None, plan)
child = os.fork()
if child == 0:
    # One thread adds up in another order than two.
    y = ops.sparse_linear(x, values, None, plan)
    os._exit(0 if torch.allclose(y, expected, rtol=1e-4, atol=1e-4) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
# The parent runs none of our operators: it starts torch's pool by torch alone.
CHILD_AFTER_TORCH = """
import os, signal, torch
from sparsefl import Support, ops
plan = ops.LinearPlan(Support.random((512, 512), 0.3, seed=1))
x, values = torch.randn(64, 512), torch.randn(plan.support.nnz)
torch.set_num_threads(2)
torch.randn(1 << 22).exp()
child = os.fork()
if child == 0:
    signal.alarm(30)
    ops.sparse_linear(x, values, None, plan)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
TRANSPOSE_IN_PARALLEL = """
import torch
from sparsefl import ops
torch.set_num_threads(2)
torch.ops.sparsefl.transpose(torch.randn(2000, 1000))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_override_is_obeyed():
    done = run("from sparsefl import ops; print(ops.isa())", SPARSEFL_ISA="scalar")
    assert done.stdout.strip() == "scalar", done.stderr


@pytest.mark.parametrize("name", ["avx1024", "AVX2"])
def test_unknown_override_is_named(name):
    done = run("from sparsefl import ops; ops.isa()", SPARSEFL_ISA=name)
    assert done.returncode != 0
    assert f"SPARSEFL_ISA={name}: expected scalar, avx2 or avx512" in done.stderr


def test_errors_within_a_parallel_region_keep_their_message():
    done = run(TRANSPOSE_IN_PARALLEL, SPARSEFL_ISA="avx1024")
    assert "SPARSEFL_ISA=avx1024: expected scalar, avx2 or avx512" in done.stderr


@pytest.mark.parametrize("code", [CHILD_AFTER_TRAINING, CHILD_AFTER_TORCH], ids=["ours", "torch"])
def test_forked_child_of_a_threaded_parent_works_serially(code):
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", VECTOR_SOURCES, ids=lambda path: path.stem)
def test_vector_code_shares_no_function(source, tmp_path):
    """No linker can put a function with vector instructions in the place of a scalar one."""
    compiler, nm = shutil.which("g++"), shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("g++ or nm is not installed")
    target = tmp_path / "kernels.o"
    # Unoptimised, nothing is inlined that need not be: all that could be shared is there.
    flags = ["-std=c++20", "-O0", "-Wno-psabi", f"-I{CSRC}", "-c", str(source), "-o", str(target)]
    subprocess.run([compiler, *flags], check=True)
    listed = subprocess.run(
        [nm, "--extern-only", "--defined-only", "--demangle", str(target)],
        check=True,
        capture_output=True,
        text=True,
    )
    names = [line.split(maxsplit=2)[2] for line in listed.stdout.splitlines()]
    # Not a function: the address that unwinding an unoptimised file asks for.
    symbols = [name for name in names if name != "DW.ref.__gxx_personality_v0"]
    assert len(symbols) == 1
    assert symbols[0].startswith("sparsefl::k")
