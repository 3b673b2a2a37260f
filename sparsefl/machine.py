"""What this machine is: what measurements are named by, and kept by."""

import importlib.metadata
import pathlib
import platform


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def version() -> str:
    """Return the installed version, or "source tree" when the package is not installed."""
    try:
        return importlib.metadata.version("sparsefl")
    except importlib.metadata.PackageNotFoundError:
        return "source tree"
