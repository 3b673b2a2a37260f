"""What measurements ask: torch's threads for a while, bytes saved by autograd, resident memory."""

import contextlib
import pathlib
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set torch's threads for a while; ``None`` leaves them as they are."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def saved_bytes(forward: Callable[[], object], known: Iterable[Any]) -> int:
    """Count the distinct storages that autograd saves in a forward pass, bytes.

    Args:
        forward: Runs it; what it returns is held until all is counted, so that no storage is freed
            and its address used again.
        known: Tensors whose storages are left out, as parameters and the batch are; what is no
            tensor is skipped.
    """
    skipped = {t.untyped_storage().data_ptr() for t in known if isinstance(t, Tensor)}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skipped:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(saved.values())


def resident_bytes(field: str) -> int:
    """Read VmRSS or VmHWM of this process; elsewhere than on Linux, the peak so far."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Lower the recorded peak to what is resident now, where the kernel allows it."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
