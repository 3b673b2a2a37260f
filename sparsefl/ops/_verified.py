"""Which kernels of GPUs are a default: those that have passed their tests on the architecture.

``verified.json`` names them: ``{"sm_90": {kernel: {"commit": ..., "torch": ..., ...}}}``. The tests
of ``tests/gpu`` write it on a device, and it is committed. Elsewhere plain torch computes, unless
``SPARSEFL_GPU_KERNELS`` in the environment says otherwise: ``all`` tries every kernel, ``none``
uses none; ``verified`` is the default. A kernel that is not there, since triton is not installed or
the extension was built without CUDA, is never used.
"""

import functools
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

Verified: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]

SHIPPED = pathlib.Path(__file__).with_name("verified.json")
OVERRIDE = "SPARSEFL_GPU_KERNELS"
_OVERRIDES = ("verified", "all", "none")
# Those of csrc/cuda, by operator; those in Triton are named in sparsefl.kernels.REGISTRY.
CUDA_KERNELS = (
    *("sign_pack", "sign_unpack", "bitmap_plan", "bitmap_gather", "bitmap_scatter", "bitmap_add"),
    *("majority_vote", "top_k"),
)


def read(path: pathlib.Path = SHIPPED) -> Verified:
    """Return the kernels that a file names, by architecture.

    Raises:
        ValueError: if the file holds anything else.
    """
    held = json.loads(path.read_text())
    if not isinstance(held, dict) or not all(
        isinstance(kernels, dict) and all(isinstance(told, dict) for told in kernels.values())
        for kernels in held.values()
    ):
        raise ValueError(f"{path}: expected kernels by architecture, each with what verified it")
    return held


def architecture(device: torch.device) -> str:
    """Return a CUDA device's architecture, such as ``"sm_90"``; ``""`` without such a device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def override() -> str:
    """Return what the environment says of unverified kernels.

    Raises:
        ValueError: if it says anything else.
    """
    told = os.environ.get(OVERRIDE, "verified")
    if told not in _OVERRIDES:
        raise ValueError(f"{OVERRIDE}={told!r}: expected one of {', '.join(_OVERRIDES)}")
    return told


@functools.cache
def missing(kernel: str) -> str | None:
    """Return why a kernel cannot run here whatever the device; None where it can."""
    if kernel in CUDA_KERNELS:
        return None if _has_cuda(kernel) else "the extension was built without CUDA"
    try:
        there = importlib.util.find_spec("triton") is not None
    except ValueError:  # sys.modules holds None in its place
        there = False
    return None if there else "triton is not installed"


def _has_cuda(operator: str) -> bool:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(has(f"sparsefl::{operator}", "CUDA"))


@functools.cache
def serves(kernel: str, device: torch.device) -> bool:
    """Tell whether a kernel is to be used on a device; each answer is found once."""
    if missing(kernel) is not None:
        return False
    if override() != "verified":
        return override() == "all"
    return kernel in read().get(architecture(device), {})


def forget() -> None:
    """Read list and environment anew."""
    override.cache_clear()
    missing.cache_clear()
    serves.cache_clear()
