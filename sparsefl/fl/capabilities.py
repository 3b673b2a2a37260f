"""Clients that differ in how much of the model they can train.

A method allows it whose clients can do with a part of what the server trains: FedPT's leave layers
as they come, FedTiny's hold fewer of the kept weights. Not so a sign supermask, whose weights all
have the same magnitude, so that none is the first to go and one scale a layer is set for all that
are kept; nor FedPM, whose clients draw masks of the whole model.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from sparsefl.fl.method import Method, load_method
from sparsefl.names import METHODS


def check_capabilities(
    method: Method, capabilities: Iterable[float], clients: int, options: Mapping[str, Any]
) -> list[float]:
    """Return the capability of each client, as Python's own numbers, or none.

    Args:
        method: The method.
        capabilities: One a client, or none.
        clients: Number of clients.
        options: The method's options.

    Raises:
        TypeError: if one is no number.
        ValueError: if there are others than one a client, or one is outside (0, 1], or all clients
            of the method train the same, or there is privacy.
    """
    found: list[Any] = list(capabilities)
    if not found:
        return []
    if method.view is None:
        able = " and ".join(name for name in METHODS if load_method(name).view)
        raise ValueError(
            f"{method.name} takes no capabilities: all its clients train the same; {able} take them"
        )
    if options.get("dp_clip"):
        raise ValueError("capabilities and dp_clip do not go together: noise is for equal clients")
    if len(found) != clients:
        raise ValueError(f"capabilities must be one a client, {clients}, got {len(found)}")
    for value in found:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"capabilities must be numbers, got {value!r}")
    shares = [float(value) for value in found]
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"capabilities must be above 0 and at most 1, got {share:g}")
    return shares


def spread(capabilities: Sequence[float], clients: int) -> list[float]:
    """Give clients capabilities in turn: client k gets number ``k mod n`` of the n."""
    given = len(capabilities)
    return [capabilities[client % given] for client in range(clients)] if given else []
