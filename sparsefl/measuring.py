"""What measurements ask of torch: its threads for a while, and the bytes that autograd saves."""

import contextlib
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
