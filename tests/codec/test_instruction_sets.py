"""Every instruction set writes the same bytes; the choice is made once a process."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from sparsefl import codec
from sparsefl.support import Support

SCRIPT = """
import sys
sys.path[:0] = {path!r}
from {module} import message
from sparsefl import _codec
import hashlib
data = message()
print(hashlib.sha256(data).hexdigest(), _codec.crc32c_path())
"""


def message():
    shape = (301, 997)
    random = np.random.default_rng(3)
    support = Support.random(shape, 0.3, seed=1)
    values = random.standard_normal(support.nnz).astype(np.float32)
    names = ("fp32", "bf16", "int8", "int4", "sign", "flips")
    schema = codec.Schema(dict.fromkeys(names, (shape, "float32")))
    signs = np.where(values < 0, -1, 1).astype(np.int8)
    coded = Support.random(shape, 0.02, seed=2)
    update = codec.Update(
        {
            "fp32": codec.Sparse(support, values),
            "bf16": codec.Sparse(support, values),
            "int8": codec.Sparse(support, values),
            "int4": codec.Sparse(coded, values[: coded.nnz]),
            "sign": codec.Signs(support, signs),
            "flips": codec.Signs(support, np.where(np.abs(values) > 2, -signs, signs)),
        }
    )
    base = {"flips": codec.Signs(support, signs)}
    data = codec.encode(update, schema, {name: name for name in names[:4]}, base)
    back = codec.decode(data, schema, base)
    assert (back["fp32"], back["flips"]) == (update["fp32"], update["flips"])
    return data + back["int8"].values.tobytes() + back["int4"].values.tobytes()


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_messages_are_the_same_bytes(isa):
    here = os.path.dirname(__file__)
    script = SCRIPT.format(path=[here, *filter(None, sys.path)], module="test_instruction_sets")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SPARSEFL_ISA": isa},
        capture_output=True,
        text=True,
    )
    if "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine has no {isa}")

    assert done.returncode == 0, done.stderr
    digest, path = done.stdout.split()
    assert digest == hashlib.sha256(message()).hexdigest()
    assert (path == "table") == (isa == "scalar" and "aarch64" not in os.uname().machine)
