"""Tests on a CUDA device: ``pytest -m gpu tests/gpu``; without one they are skipped.

A test with the mark ``verifies(kernel, ...)`` runs with every kernel, verified or not. Where
``SPARSEFL_WRITE_VERIFIED=1`` is in the environment, the kernels of which all such tests ran and
passed are written into ``sparsefl/ops/verified.json``, which makes them the default.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from sparsefl.bench import verified
from sparsefl.ops import _verified

_OUTCOMES = pytest.StashKey[dict[str, verified.Outcome]]()
WRITE = "SPARSEFL_WRITE_VERIFIED"


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Notes of each test that verifies kernels whether it ran and passed, set-up included."""
    report = yield
    names = tuple(name for mark in item.iter_markers("verifies") for name in mark.args)
    if names:
        held = item.config.stash.setdefault(_OUTCOMES, {})
        good = held.get(item.nodeid, verified.Outcome(names, True)).passed
        held[item.nodeid] = verified.Outcome(names, good and report.outcome == "passed")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the list of verified kernels where that is asked for."""
    outcomes = session.config.stash.get(_OUTCOMES, {})
    if os.environ.get(WRITE) == "1" and outcomes and torch.cuda.is_available():
        verified.write(outcomes.values())
