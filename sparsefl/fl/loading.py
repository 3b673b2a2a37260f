"""A user's own models and data, by ``package.module:name``."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from sparsefl.fl.batches import Dataset

_DATA = (
    "clients, a sequence of (train, dev), the test data, and public data where the server has any: "
    "return [(train, dev), ...], test or [(train, dev), ...], test, public"
)


def load_callable(spec: str) -> Callable[..., Any]:
    """Import ``package.module:function``.

    Raises:
        ValueError: if there is no such module, nothing of that name in it, or no function.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"{spec!r} must be PACKAGE.MODULE:NAME")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if not f"{module_name}.".startswith(f"{missing}."):
            problem = f"{module_name} imports {missing}, which is not installed"
        else:
            problem = f"no module {missing}: the current folder and installed packages are searched"
        raise ValueError(f"cannot load {spec!r}: {problem}") from error
    except Exception as error:  # whatever a stranger's module raises
        raise ValueError(
            f"cannot load {spec!r}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        raise ValueError(f"cannot load {spec!r}: {module_name} has no {name}")
    found: Callable[..., Any] = getattr(module, name)
    if not callable(found):
        raise ValueError(f"{spec!r} is a {type(found).__name__}, it must be callable")
    return found


def call(spec: str) -> Any:
    """Call what ``package.module:function`` names, without arguments.

    Raises:
        ValueError: if it cannot be loaded, or fails; its own exception is the cause.
    """
    function = load_callable(spec)
    try:
        return function()
    except Exception as error:  # whatever a stranger's function raises
        raise ValueError(
            f"{spec} failed, called without arguments: {type(error).__name__}: {error}"
        ) from error


def load_data(spec: str) -> tuple[list[tuple[Dataset, ...]], Dataset, Dataset | None]:
    """Call a function that gives ``([(train, dev), ...], test)``, or with ``public`` after it.

    Returns:
        Clients, test data, and the server's own examples or ``None``.

    Raises:
        TypeError: if it gives something else.
        ValueError: if it cannot be loaded, or fails.
    """
    given = call(spec)
    if not isinstance(given, Sequence) or len(given) not in (2, 3):
        raise TypeError(f"{spec} must give {_DATA}; it gave {_kind(given)}")
    clients, test, public = (*given, None)[:3]
    if not isinstance(clients, Sequence) or not all(isinstance(c, Sequence) for c in clients):
        raise TypeError(f"{spec} must give {_DATA}; its first part is {_kind(clients)}")
    return [tuple(client) for client in clients], test, public


def _kind(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"{type(value).__name__}{size}"
