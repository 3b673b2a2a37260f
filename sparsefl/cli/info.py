"""``sparsefl info``: versions, what is compiled, what this machine uses, which data are there."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

from sparsefl.messages import one_line
from sparsefl.names import METHODS

_MODULES = {"operators": "sparsefl.ops", "codec": "sparsefl.codec"}
_DISTRIBUTIONS = ("torch", "numpy", "matplotlib", "tqdm", "tensorboard")


def add_to(commands: Any) -> None:
    """Declare the command."""
    info = commands.add_parser("info", help="versions, instruction set, what is available")
    info.set_defaults(command=_info)


def _info(args: argparse.Namespace) -> int:
    """Print what there is; return 1 if a compiled module is missing."""
    lines = [("sparsefl", _version("sparsefl")), ("python", platform.python_version())]
    lines += [(name, _version(name)) for name in _DISTRIBUTIONS]
    states = {name: _compiled(module) for name, module in _MODULES.items()}
    lines += [*states.items(), ("cores", str(os.cpu_count()))]
    if importlib.util.find_spec("torch") is not None:
        lines += _torch_lines() + _registry_lines()
    width = max(len(name) for name, _ in lines)
    print("\n".join(f"{name:{width}}  {value}" for name, value in lines))
    return int(any(not state.startswith("compiled") for state in states.values()))


def _compiled(module: str) -> str:
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        return f"not available: {one_line(error)}"
    return f"compiled, {loaded.isa()}" if hasattr(loaded, "isa") else "compiled"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_lines() -> list[tuple[str, str]]:
    torch = importlib.import_module("torch")
    cuda = torch.version.cuda
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    return [
        ("threads", str(torch.get_num_threads())),
        ("layouts", _layouts(torch.get_num_threads())),
        ("pool", _memory_pool()),
        ("cuda", f"{cuda}, {device}" if cuda else "torch is built without it"),
        ("kernels", _gpu_kernels()),
    ]


def _gpu_kernels() -> str:
    """Name the kernels of GPUs, and those that have passed their tests on an architecture."""
    try:
        verified = importlib.import_module("sparsefl.ops._verified")
    except ImportError as error:
        return f"not available: {one_line(error)}"
    names = {*verified.CUDA_KERNELS}
    if importlib.util.find_spec("sparsefl.kernels") is not None:
        names |= {*importlib.import_module("sparsefl.kernels").REGISTRY}
    listed = verified.read()
    known = {kernel for kernels in listed.values() for kernel in kernels}
    told = [f"verified on {arch}: {', '.join(sorted(listed[arch]))}" for arch in sorted(listed)]
    told += [f"unverified: {', '.join(sorted(names - known))}"] if names - known else []
    reasons = sorted({reason for name in names if (reason := verified.missing(name))})
    told += [f"{reason}: torch computes in place of those that need it" for reason in reasons]
    override = verified.override()
    told += [f"{verified.OVERRIDE}={override}"] if override != "verified" else []
    return "; ".join([*told, *_measured_kernels()])


def _measured_kernels() -> list[str]:
    """Say what the choice among kernels rests on, where there is a GPU."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return []
    device = torch.device("cuda", torch.cuda.current_device())
    table = importlib.import_module("sparsefl.ops._passes").device_table(device)
    if table is None:
        return ["chosen by rules; `sparsefl bench --tune --device cuda` measures this device"]
    return [f"chosen by {table.source}"]


def _layouts(threads: int) -> str:
    """Say what the choice between sparse kernels and dense torch rests on."""
    try:
        dispatch = importlib.import_module("sparsefl.ops._dispatch")
    except ImportError as error:
        return f"not available: {one_line(error)}"
    return str(dispatch.describe(threads))


def _memory_pool() -> str:
    """Say whether large results come from the pool."""
    try:
        pool = importlib.import_module("sparsefl.ops.memory_pool")
    except ImportError as error:
        return f"not available: {one_line(error)}"
    reserved = pool.memory_counts().reserved_bytes
    return f"on, {reserved >> 30} GiB of addresses" if reserved else "off"


def _registry_lines() -> list[tuple[str, str]]:
    """Name the methods, the models and the data sets, and say where the latter's files are."""
    data = importlib.import_module("sparsefl.data")
    lines = [
        ("methods", ", ".join(METHODS)),
        ("models", ", ".join(importlib.import_module("sparsefl.models").NAMES)),
    ]
    return lines + [(name, _data_line(data, name)) for name in data.NAMES]


def _data_line(data: Any, name: str) -> str:
    try:
        return str(data.locate(name))
    except FileNotFoundError as error:
        return f"not available: {one_line(error)}"
