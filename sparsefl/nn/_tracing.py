"""What symbolic tracing and scripting meet: layers that torch.fx takes whole, and a clear refusal.

Neither can follow a layer into its kernels: torch.fx hands it a proxy in place of the input, and
``torch.jit.script`` compiles its Python.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx import Proxy


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put buffers and torch's random state back, which a forward changes as it is traced."""
    state = torch.get_rng_state()
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        torch.set_rng_state(state)
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def call_whole(layer: nn.Module, x: Proxy) -> Any:
    """Return a proxy for the layer's output: one ``call_module``, as for a layer of torch.nn.

    ``torch.fx.Tracer`` treats the classes of torch.nn alone as leaves.

    Args:
        layer: The layer that is being traced.
        x: The proxy of its input.

    Raises:
        NotImplementedError: if the layer is traced by itself or has hooks, which torch.fx would
            run twice.
    """
    kind, path = type(layer).__name__, x.tracer.path_of_module(layer)  # type: ignore[attr-defined]
    if not path:
        raise NotImplementedError(
            f"torch.fx cannot look into a {kind}: trace a model that holds it, for example "
            "torch.nn.Sequential(layer)"
        )
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise NotImplementedError(
            f"torch.fx would trace the hooks of {path}, a {kind}, and run them again: trace with a "
            "torch.fx.Tracer whose is_leaf_module is true for it"
        )
    return x.tracer.create_proxy("call_module", path, (x,), {})


def refuse_script(layer: nn.Module) -> NoReturn:
    """Refuse ``torch.jit.script``, which asks modules for ``__prepare_scriptable__``.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        f"torch.jit.script cannot compile {type(layer).__name__}: use torch.compile(model), or "
        "script sparsefl.densify(model), which has the same outputs in plain torch.nn"
    )
