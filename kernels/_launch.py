"""What every launcher asks and checks: operands, the device, and how a product is rounded."""

import contextlib
from typing import Any, Literal, Protocol, TypeAlias

import torch
import triton
from torch import Tensor

Gate: TypeAlias = Literal["none", "rows", "elements"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Programs for each multiprocessor that a split of the batch aims at: two are resident.
_WAVES = 2
# Parts of the batch at most: their partial sums are written and read again.
_MOST_SPLITS = 32
# Tiles of the batch that a part has at least.
_LEAST_TILES = 4
# Pixels are counted in int32.
MOST_PIXELS = 2**31
# Multiprocessors assumed where there is no device, in the interpreter.
_NO_DEVICE_PROCESSORS = 4


def interpreted() -> bool:
    """Tell whether Triton runs kernels in its interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def upcasts(dtype: torch.dtype) -> bool:
    """Tell whether a kernel has to convert operands of that dtype before a product.

    Triton's interpreter keeps bfloat16 as uint16 and multiplies those integers.
    """
    return interpreted() and dtype != torch.float32


def precision(dtype: torch.dtype) -> str:
    """Return how float32 products are rounded: as torch's own matmul on CUDA is told to."""
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if tf32 else "ieee"


def launch_options(num_warps: int, num_stages: int) -> dict[str, Any]:
    """Return the options of a launch; fused multiply-adds are named, as their default changes."""
    return {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make the device current: Triton launches on the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def split_rows(M: int, tiles: int, block_m: int, device: torch.device, splits: int | None) -> int:
    """Return the rows of the batch that a program sums, a multiple of ``block_m``.

    Args:
        M: Rows in all.
        tiles: Tiles of the output, each computed by one program a part.
        block_m: Rows that a program reads at a time.
        device: Of the operands.
        splits: Parts of the batch; None chooses as many as fill the device.

    Raises:
        ValueError: if ``splits`` is not positive.
    """
    if splits is None:
        wanted = -(-_WAVES * _processors(device) // max(tiles, 1))
        splits = min(wanted, _MOST_SPLITS, -(-M // (_LEAST_TILES * block_m)))
        splits = max(splits, 1)
    elif splits < 1:
        raise ValueError(f"splits must be positive, got {splits}")
    return -(-M // (splits * block_m)) * block_m


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _NO_DEVICE_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def check_matrix(name: str, matrix: Tensor, columns: int) -> Tensor:
    """Return the matrix with contiguous rows.

    Raises:
        TypeError: if it is not float32, float16 or bfloat16.
        ValueError: if it is not ``[M, columns]``.
    """
    _check_dtype(name, matrix)
    if matrix.dim() != 2 or matrix.shape[1] != columns:
        raise ValueError(f"{name} must be [M, {columns}], got {list(matrix.shape)}")
    return matrix if matrix.stride(1) == 1 or matrix.numel() == 0 else matrix.contiguous()


def check_images(name: str, images: Tensor, channels: int) -> Tensor:
    """Return the images in channels_last, copied unless they are.

    Raises:
        TypeError: if they are not float32, float16 or bfloat16.
        ValueError: if they are not ``[M, channels, H, W]``, or have 2**31 pixels or more.
    """
    _check_dtype(name, images)
    if images.dim() != 4 or images.shape[1] != channels:
        raise ValueError(f"{name} must be [M, {channels}, H, W], got {list(images.shape)}")
    if images.shape[0] * images.shape[2] * images.shape[3] >= MOST_PIXELS:
        raise ValueError(f"{name} must have fewer than 2**31 pixels, got {list(images.shape)}")
    return images.contiguous(memory_format=torch.channels_last)


def _check_dtype(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} must be one of {names}, got {tensor.dtype}")


def check_pair(dy: Tensor, x: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the operands of a weight gradient with contiguous rows.

    Raises:
        TypeError: if their dtypes differ or are not allowed.
        ValueError: if they are not ``[M, out]`` and ``[M, in]``, or on different devices.
    """
    dy, x = check_matrix("dy", dy, shape[0]), check_matrix("x", x, shape[1])
    if dy.shape[0] != x.shape[0]:
        raise ValueError(f"dy and x must have as many rows, got {dy.shape[0]} and {x.shape[0]}")
    check_same("x", x, dy.dtype, dy.device)
    return dy, x


def check_same(name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a tensor of another dtype or device.

    Raises:
        TypeError: if the dtype differs.
        ValueError: if the device does.
    """
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device}, got {tensor.device}")


def check_packed(name: str, packed: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return a packed tensor, contiguous.

    Raises:
        ValueError: if its shape or device is another.
    """
    if tuple(packed.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(packed.shape)}")
    if packed.device != device:
        raise ValueError(f"{name} must be on {device}, got {packed.device}")
    return packed.contiguous()


def check_signs(
    signs: Tensor,
    magnitude: Tensor | float,
    packed_shape: tuple[int, ...],
    rows: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | float]:
    """Return packed signs and the magnitude, each contiguous.

    Raises:
        TypeError: if the signs are not uint8.
        ValueError: if they are not eight to the byte of ``packed_shape``, the magnitude is no
            number and not ``[rows]``, or one is on another device.
    """
    if signs.dtype != torch.uint8:
        raise TypeError(f"signs must be torch.uint8, got {signs.dtype}")
    signs = check_packed("signs", signs, (*packed_shape[:-1], packed_shape[-1] // 8), device)
    if isinstance(magnitude, Tensor):
        magnitude = check_packed("magnitude", magnitude, (rows,), device)
    return signs, magnitude


class Plan(Protocol):
    """What lies on a device."""

    @property
    def device(self) -> torch.device:
        """Which."""


def check_plan(plan: Plan, device: torch.device) -> None:
    """Refuse a plan on another device than the operands.

    Raises:
        ValueError: if it is.
    """
    if plan.device != device:
        raise ValueError(f"plan must be on {device}, got {plan.device}: use plan.to(device)")


def checked_gate(
    gate: Tensor | None, rows: int, packed_shape: tuple[int, ...], like: Tensor
) -> tuple[Gate, Tensor]:
    """Return the kind of a gradient's gate and the gate, ``like`` in place of none.

    Raises:
        ValueError: if it is neither ``[rows]`` nor of ``packed_shape``, or on another device.
    """
    if gate is None:
        return "none", like
    kind: Gate = "rows" if gate.dim() == 1 else "elements"
    shape = (rows,) if kind == "rows" else packed_shape
    return kind, check_packed("gate", gate, shape, like.device)
