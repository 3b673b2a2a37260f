"""The choice of the instruction set, and what a forked child may do."""

import os
import subprocess
import sys

import pytest

CHILD_AFTER_TRAINING = """
import os, torch
from sparsefl import Support, ops
plan = ops.LinearPlan(Support.random((512, 512), 0.3, seed=1))
x, values = torch.randn(64, 512), torch.randn(plan.support.nnz)
torch.set_num_threads(2)
expected = ops.sparse_linear(x, values, None, plan)
child = os.fork()
if child == 0:
    same = torch.equal(ops.sparse_linear(x, values, None, plan), expected)
    os._exit(0 if same else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
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


def test_forked_child_of_a_threaded_parent_works_serially():
    done = run(CHILD_AFTER_TRAINING)
    assert done.returncode == 0, done.stderr
