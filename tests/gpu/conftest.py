"""Tests on a CUDA device: ``pytest -m gpu tests/gpu``; without one they are skipped.

A test with the mark ``verifies(kernel, ...)`` runs with every kernel, verified or not.
"""

from collections.abc import Iterator

import pytest
import torch

from sparsefl.ops import _verified


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests for a device where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def every_kernel(request, monkeypatch) -> Iterator[None]:
    """Lets the kernels that a test verifies run, others only where they are verified."""
    if request.node.get_closest_marker("verifies"):
        monkeypatch.setenv(_verified.OVERRIDE, "all")
    _verified.forget()
    yield
    monkeypatch.undo()
    _verified.forget()
