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
from sparsefl.ops import (
    _device_growth,
    _dispatch,
    _kernel_conv2d,
    _kernel_linear,
    _kernel_weight,
    _passes,
    _verified,
)
from sparsefl.ops._plan import on_device

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


@pytest.fixture
def move(device, monkeypatch, request):
    """Returns what moves a layer to where every kernel is used; the interpreter's is the CPU."""
    monkeypatch.setenv(_verified.OVERRIDE, "all")
    # Few blocks easily are whole rows and columns.
    monkeypatch.setattr(_dispatch, "_COMPACT_UP_TO", -1.0)
    _verified.forget()
    if device == "cuda":
        yield lambda layer: layer.to(device)
    else:
        request.getfixturevalue("cuda_functions_on_cpu")
        for module in (_dispatch, _passes):
            monkeypatch.setattr(module, "accelerated", lambda device: True)

        def onto_it(layer):
            layer._plan = on_device(layer._plan, torch.device(device))
            return layer

        yield onto_it
    monkeypatch.undo()
    _verified.forget()


@pytest.fixture
def launched(monkeypatch):
    """Lists the kernels that run."""
    names, load = [], _kernel_weight.launcher

    def note(name):
        names.append(name)
        return load(name)

    for module in (_kernel_linear, _kernel_conv2d, _device_growth):
        monkeypatch.setattr(module, "launcher", note)
    return names
