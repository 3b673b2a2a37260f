"""An aggregator or a small device needs numpy and no torch."""

import subprocess
import sys

SCRIPT = """
import sys
sys.path[:0] = {path!r}
sys.modules["torch"] = None
import numpy as np
import sparsefl
from sparsefl import codec

support = sparsefl.Support.random((40, 30), 0.1, seed=1)
schema = codec.Schema({{"w": ((40, 30), "float32"), "b": ((40,), np.float32)}})
values = np.arange(support.nnz, dtype=np.float32)
update = codec.Update(
    {{"w": codec.Sparse(support, values), "b": codec.Dense(np.ones(40, np.float32))}}, round=2
)
assert codec.decode(codec.encode(update, schema), schema) == update
assert codec.decode_support(codec.encode_support(support), (40, 30)) == support
try:
    support.to_mask()
except ImportError as error:
    assert "to_numpy_mask" in str(error)
else:
    raise AssertionError("to_mask worked without torch")
loaded = [name for name in sys.modules if name.split(".")[0] == "torch" and sys.modules[name]]
assert not loaded, loaded
"""


def test_codec_and_support_work_without_torch():
    script = SCRIPT.format(path=[path for path in sys.path if path])

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_importing_sparsefl_loads_nothing_heavy():
    script = f"""
import sys
sys.path[:0] = {[path for path in sys.path if path]!r}
import sparsefl
print(*sorted({{n.split(".")[0] for n in sys.modules}} & {{"numpy", "torch"}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.strip() == "", done.stderr
