"""Argument checks of the operators: messages name the argument, what was expected, what came."""

import torch
from torch import Tensor

from sparsefl.ops import _dispatch
from sparsefl.ops._autograd import SHORT
from sparsefl.ops._magnitude import Magnitude

_DTYPES = (torch.float32, torch.float64)


def check_operand(x: Tensor) -> Tensor:
    """Return ``x``, in float32 where autocast handed over a shorter format.

    Raises:
        TypeError: if ``x`` is no tensor, or neither float32 nor float64 (outside autocast).
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype in SHORT and torch.is_autocast_enabled(x.device.type):
        return x.float()
    if x.dtype not in _DTYPES:
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    return x


def check_any_operand(x: Tensor, stored: Tensor) -> Tensor:
    """Return ``x``; under autocast in the dtype of ``stored``, what the layer keeps.

    On a device whose dense kernels autocast is for, in autocast's.

    Raises:
        TypeError: if ``x`` is no tensor, or none of float32, float64, bfloat16 and float16.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES and x.dtype not in SHORT:
        raise TypeError(f"x: expected float32, float64, bfloat16 or float16, got {x.dtype}")
    lowered = _dispatch.autocast_dtype(x)
    if lowered is not None:
        return x.to(lowered)
    casts = isinstance(stored, Tensor) and x.dtype != stored.dtype and x.dtype != torch.float64
    if casts and torch.is_autocast_enabled(x.device.type) and stored.dtype in (*SHORT, _DTYPES[0]):
        return x.to(stored.dtype)
    return x


def check_stored(name: str, stored: Tensor, nnz: int, x: Tensor) -> Tensor:
    """Return a flat tensor of one element a kept position, contiguous.

    Raises:
        TypeError: if it is no tensor or its dtype is not that of ``x``.
        ValueError: if its shape is not ``[nnz]`` or its device not that of ``x``.
    """
    if isinstance(stored, Tensor) and stored.shape != (nnz,):
        raise ValueError(
            f"{name}: expected shape [{nnz}], the support's nnz, got {list(stored.shape)}"
        )
    return _check_like(name, stored, x)


def check_bias(bias: Tensor | None, out: int, x: Tensor) -> Tensor | None:
    """Return a bias of one element an output feature or channel, contiguous.

    Raises:
        TypeError: if it is no tensor or its dtype is not that of ``x``.
        ValueError: if its shape is not ``[out]`` or its device not that of ``x``.
    """
    if bias is None:
        return None
    if isinstance(bias, Tensor) and bias.shape != (out,):
        raise ValueError(f"bias: expected shape [{out}], got {list(bias.shape)}")
    return _check_like("bias", bias, x)


def check_magnitude(magnitude: float | Tensor, nnz: int, x: Tensor) -> Magnitude:
    """Return the magnitude as the kernels read it.

    Raises:
        TypeError: if it is no number, or its dtype is not that of ``x``.
        ValueError: if a tensor is not ``[nnz]`` or asks for a gradient, which the operators do not
            give, or a constant is negative or not finite.
    """
    if isinstance(magnitude, Tensor):
        if magnitude.requires_grad:
            raise ValueError("magnitude: expected a tensor without requires_grad; detach it")
        return Magnitude(check_stored("magnitude", magnitude, nnz, x), 0.0)
    if not 0.0 <= magnitude < float("inf"):
        raise ValueError(f"magnitude: expected a finite number of at least 0, got {magnitude}")
    return Magnitude(None, float(magnitude))


def _check_like(name: str, tensor: Tensor, x: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected the input's device {x.device}, got {tensor.device}")
    if tensor.dtype != x.dtype and _dispatch.autocast_dtype(tensor) == x.dtype:
        return tensor.to(x.dtype)  # of a parameter's elements, and its gradient back
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: expected the input's dtype {x.dtype}, got {tensor.dtype}")
    return tensor.contiguous()


def check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], x: Tensor) -> None:
    """Check an optional tensor of a shape.

    Raises:
        TypeError: if it is no tensor or its dtype is not that of ``x``.
        ValueError: if its shape is another, its device not that of ``x``, or it is not contiguous.
    """
    if tensor is None:
        return
    if isinstance(tensor, Tensor) and tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
    if _check_like(name, tensor, x) is not tensor:
        raise ValueError(f"{name}: expected a contiguous tensor, got strides {tensor.stride()}")


def check_channels(x: Tensor) -> None:
    """Check the input of a normalisation.

    Raises:
        TypeError: if it is no tensor, or neither float32 nor float64.
        ValueError: if it has fewer than two dimensions.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"x: expected [N, C, ...], got {list(x.shape)}")


def check_same(
    name: str, tensor: Tensor | None, x: Tensor, shape: tuple[int, ...]
) -> Tensor | None:
    """Return an optional tensor of a shape, of any strides.

    Raises:
        TypeError: if it is no tensor or its dtype is not that of ``x``.
        ValueError: if its shape is another, or its device not that of ``x``.
    """
    if tensor is None:
        return None
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name}: expected the input's dtype {x.dtype}, got {tensor.dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.device != x.device:
        raise ValueError(f"{name}: expected the input's device {x.device}, got {tensor.device}")
    return tensor
