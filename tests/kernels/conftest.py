"""Where a kernel runs: compiled on a GPU, or in Triton's interpreter in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, and other tests import it. So tests that launch a
kernel (they take the fixture ``device``) are left out of a process that neither interprets nor was
asked for GPU tests; test_interpreter.py runs them in one that does. By hand:
``TRITON_INTERPRET=1 pytest tests/kernels/test_block_dw.py``.
"""

import os

import pytest
import torch

from sparsefl.kernels import REGISTRY

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if item.path.parent.name == "kernels"]
    launching = {item for item in here if "device" in getattr(item, "fixturenames", ())}
    if INTERPRETED:
        left_out = {*here} - launching
    elif torch.cuda.is_available():
        left_out = set()
        for item in launching:
            item.add_marker(pytest.mark.gpu)
            tested = item.path.stem.removeprefix("test_")
            names = (kernel.name for kernel in REGISTRY.values() if kernel.file == tested)
            item.add_marker(pytest.mark.verifies(*names))
    else:
        left_out = launching
    if left_out:
        config.hook.pytest_deselected(items=sorted(left_out, key=lambda item: item.nodeid))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"
