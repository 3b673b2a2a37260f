"""Writes the list of kernels that have passed their tests on a device.

``pytest -m gpu`` calls it where ``SPARSEFL_WRITE_VERIFIED=1`` is in the environment.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from sparsefl import report
from sparsefl.ops import _verified


class Outcome(NamedTuple):
    """What became of a test: the kernels that it verifies, and whether it ran and passed."""

    kernels: tuple[str, ...]
    passed: bool


def passed(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Return the kernels of which every test ran and passed, sorted."""
    held: dict[str, bool] = {}
    for outcome in outcomes:
        for kernel in outcome.kernels:
            held[kernel] = held.get(kernel, True) and outcome.passed
    return tuple(sorted(kernel for kernel, good in held.items() if good))


def merged(
    old: _verified.Verified, architecture: str, outcomes: Iterable[Outcome], told: Mapping[str, str]
) -> dict[str, dict[str, dict[str, str]]]:
    """Return the list with a run's kernels in it, and without those of which a test failed.

    Args:
        old: The list so far; other architectures' kernels, and those not tested, stay.
        architecture: Of the run's device.
        outcomes: Of the run's tests.
        told: What verified them: commit, versions, device.
    """
    outcomes = tuple(outcomes)
    lists = {arch: {k: dict(v) for k, v in kernels.items()} for arch, kernels in old.items()}
    own = lists.setdefault(architecture, {})
    for kernel in {name for outcome in outcomes for name in outcome.kernels}:
        own.pop(kernel, None)
    own.update((kernel, dict(told)) for kernel in passed(outcomes))
    return {
        arch: dict(sorted(kernels.items())) for arch, kernels in sorted(lists.items()) if kernels
    }


def context() -> dict[str, str]:
    """Describe what a run verifies kernels with."""
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "not installed"
    return {
        "commit": report.commit(),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton,
    }


def write(outcomes: Iterable[Outcome], path: pathlib.Path = _verified.SHIPPED) -> None:
    """Bring the list up to the outcomes of a run on the current CUDA device."""
    architecture = _verified.architecture(torch.device("cuda"))
    lists = merged(_verified.read(path), architecture, tuple(outcomes), context())
    path.write_text(json.dumps(lists, indent=1) + "\n")
