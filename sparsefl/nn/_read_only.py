"""A computed weight as a tensor that can be read and differentiated, but not written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_ARITHMETIC = "add sub mul truediv floordiv mod pow and or xor lshift rshift"
_READ_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_SETTERS = {"__set__", "__setitem__", *(f"__i{name}__" for name in _ARITHMETIC.split())}


class _AnyTensor(type(Tensor)):  # type: ignore[misc]
    """Lets ``torch.testing.assert_close``, which compares related types only, take a Parameter."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Tell whether ``instance`` is a tensor."""
        return isinstance(instance, Tensor)


class ComputedWeight(Tensor, metaclass=_AnyTensor):
    """A dense weight that a layer computes; what is written into it would reach nothing.

    Without it, ``torch.nn.init.normal_(layer.weight)`` would change a tensor that no one reads, or
    the weight that only its seed may give, and say nothing. What is computed from it is plain.
    """

    _advice: str

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation that reads; refuse one that writes.

        Raises:
            RuntimeError: if ``func`` works in place or sets an attribute.
        """
        kwargs = {} if kwargs is None else kwargs
        for written in _written(func, args, kwargs):
            if type(written) is ComputedWeight:
                raise RuntimeError(written._advice)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if func == _READ_DATA:
            return read_only(result, args[0]._advice)
        return result.as_subclass(Tensor) if type(result) is ComputedWeight else result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as the plain tensor."""
        return self.detach().__reduce_ex__(protocol)


def _written(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return what the operation changes."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    if in_place or name in _SETTERS:
        return (args[0] if args else kwargs.get("tensor"),)
    out = kwargs.get("out")
    return out if isinstance(out, tuple) else (out,)


def read_only(weight: Tensor, advice: str) -> Tensor:
    """Return ``weight`` as a tensor that raises ``advice`` where it is written into."""
    if torch.compiler.is_compiling():
        return weight
    guarded = weight.as_subclass(ComputedWeight)
    guarded._advice = advice
    return guarded
