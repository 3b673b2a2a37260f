import pathlib
import re
import subprocess
import sys

import pytest

import sparsefl.kernels
from sparsefl.kernels import REGISTRY


@pytest.mark.parametrize("name", REGISTRY)
def test_every_entry_loads(name):
    launcher = REGISTRY[name].load()
    assert launcher.__name__ == name
    assert launcher.__doc__


def test_every_public_launcher_is_listed():
    files = pathlib.Path(sparsefl.kernels.__file__).parent.glob("[a-z]*.py")
    plans = {"block_plan", "conv2d_plan", "mask_plan"}
    assert {entry.file for entry in REGISTRY.values()} == {f.stem for f in files} - plans


def test_every_launcher_has_tests_that_verify_it():
    tests = pathlib.Path(__file__).parent.glob("test_*.py")
    marks = re.findall(r"mark\.verifies\((.*?)\)", "\n".join(t.read_text() for t in tests))
    assert {*re.findall(r'"(\w+)"', ", ".join(marks))} == {*REGISTRY}


def test_listing_loads_neither_torch_nor_triton():
    code = (
        "import sys; sys.modules['triton'] = None; from sparsefl.kernels import REGISTRY\n"
        "assert 'torch' not in sys.modules\n"
        "try: next(iter(REGISTRY.values())).load()\n"
        "except ImportError as error: assert 'sparsefl[triton]' in str(error), error\n"
        "else: raise AssertionError('loaded')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
