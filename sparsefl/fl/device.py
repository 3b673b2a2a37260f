"""Where clients compute: a model visits the device for a piece of work, and comes back.

Everything else, the server's state and the messages, stays on the CPU.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

HOST = torch.device("cpu")


def check_device(device: str | torch.device) -> torch.device:
    """Return the device of a name.

    Raises:
        ValueError: if it is neither the CPU nor a CUDA device that torch sees.
    """
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ValueError(
                f"device is {device!s}, but torch {torch.__version__} sees {count} CUDA devices"
            )
        return chosen
    if chosen.type != "cpu":
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!s}")
    return HOST


@contextlib.contextmanager
def computing_on(device: torch.device, model: nn.Module) -> Iterator[None]:
    """Move a model to a device for a while; it comes back to the CPU without gradients.

    Its parameters stay the same objects. On the CPU nothing happens.
    """
    if device == HOST:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        model.to(HOST)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU's where it has none."""
    return next((parameter.device for parameter in model.parameters()), HOST)
