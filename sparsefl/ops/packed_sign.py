"""Products with packed signs: weights ``-m``, 0 and ``+m`` at two bits or less, for inference.

Source: table look-up in the place of multiplication follows Wei et al. 2024, "T-MAC: CPU
Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge", arXiv 2407.00088; here a table
holds the sums of three inputs under all 27 ternary patterns, so that the time does not depend on
the density. Plus and minus lists follow from the sign supermasks of HideNseek (Vallapuram et al.
2022, arXiv 2206.04385).
"""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from sparsefl.ops import _checks
from sparsefl.ops._axis import Axis
from sparsefl.ops._dispatch import MOST_KEPT, MOST_LISTED, PackedLayout
from sparsefl.ops._library import LIBRARY, define

Activations = Literal["float32", "int8"]

_ROWS_A_BLOCK = 32
_COLUMNS_A_WORD = 9
_PAIR = (1, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedSigns:
    """A matrix of -1, 0 and +1 in the memory that the kernels read (csrc/cpu/packed_sign.h).

    Attributes:
        shape: Of the weight: ``[out, in]`` or ``[out, in / groups, kh, kw]``.
        nnz: Elements that are not zero.
        groups: Of a convolution; 1 for a linear map.
        begin: First +1 and first -1 of every row where the signs lie in lists, ``[2 * out + 1]``
            int32; else empty.
        data: The lists' columns, ``[nnz]`` int16 holding uint16; or words of 9 columns of a row,
            5 bits for each 3.
    """

    shape: tuple[int, ...]
    nnz: int
    groups: int
    begin: Tensor
    data: Tensor

    @property
    def layout(self) -> PackedLayout:
        """How the signs lie: ``"triples"`` (1.8 bits an element) or ``"lists"`` (16 a kept one)."""
        return "lists" if self.begin.numel() else "triples"

    @property
    def nbytes(self) -> int:
        """Bytes that the signs take in memory."""
        return self.begin.nbytes + self.data.nbytes

    def unpack(self) -> tuple[Tensor, Tensor]:
        """Return the bitmaps that :func:`pack_signs` takes, on the CPU."""
        rows, columns = _matrix(self.shape)
        unpacked: tuple[Tensor, Tensor] = torch.ops.sparsefl.packed_sign_unpack.default(
            self.begin.cpu(), self.data.cpu(), rows, columns, self.groups, self.nnz
        )
        return unpacked


def pack_signs(
    support: Tensor,
    negative: Tensor,
    shape: tuple[int, ...],
    layout: PackedLayout,
    groups: int = 1,
) -> PackedSigns:
    """Bring bitmaps of a weight's signs into the memory that the kernels read.

    Args:
        support: A bit for each element of the weight, row-major, least significant bit first, set
            where it is kept, ``[ceil(numel / 8)]`` uint8.
        negative: A bit for each kept element, set where it is negative, ``[ceil(nnz / 8)]`` uint8.
        shape: Shape of the weight.
        layout: ``"triples"``: 1.8 bits an element, the same time at every density; ``"lists"``:
            16 bits a kept element, the less the faster.
        groups: Groups of a convolution.

    Raises:
        TypeError: if a bitmap is no uint8 tensor.
        ValueError: if the bitmaps do not fit the shape or each other, the layout is another, or
            lists cannot name so many columns or kept elements.
    """
    if layout not in ("triples", "lists"):
        raise ValueError(f"layout: expected 'triples' or 'lists', got {layout!r}")
    rows, columns = _matrix(shape)
    if layout == "lists" and columns > MOST_LISTED:
        raise ValueError(
            f"layout: lists hold at most {MOST_LISTED} inputs of a row, the weight has {columns}"
        )
    if groups < 1 or rows % groups:
        raise ValueError(f"groups={groups} does not divide the weight's {rows} rows")
    _check_bits("support", support, rows * columns)
    nnz = _count(support)
    if layout == "lists" and nnz > MOST_KEPT:
        raise ValueError(f"layout: lists hold at most {MOST_KEPT} kept elements, there are {nnz}")
    _check_bits("negative", negative, nnz)
    begin, data = torch.ops.sparsefl.packed_sign_pack.default(
        support.contiguous(), negative.contiguous(), rows, columns, groups, nnz, layout == "lists"
    )
    return PackedSigns(tuple(shape), nnz, groups, begin, data)


def packed_nbytes(shape: tuple[int, ...], nnz: int, layout: PackedLayout, groups: int = 1) -> int:
    """Return the bytes that packed signs take in memory.

    Lists take 2 bytes an entry and 8 a row, triples 2 bytes for 9 columns of a row, both rounded
    up.

    Args:
        shape: Of the weight, ``[out, in]`` or ``[out, in / groups, kh, kw]``.
        nnz: Signs that are not zero.
        layout: "lists" or "triples".
        groups: Of a convolution.
    """
    rows, columns = _matrix(shape)
    if layout == "lists":
        return 2 * nnz + 4 * (2 * rows + 1)
    blocks = math.ceil(rows / groups / _ROWS_A_BLOCK)
    return groups * blocks * math.ceil(columns / _COLUMNS_A_WORD) * _ROWS_A_BLOCK * 2


def packed_sign_linear(
    x: Tensor,
    signs: PackedSigns,
    magnitude: float,
    bias: Tensor | None = None,
    activations: Activations = "float32",
) -> Tensor:
    """Compute ``y = x @ (magnitude * S).T + bias`` for a matrix ``S`` of -1, 0 and +1.

    No gradients: an input that needs one is refused.

    Args:
        x: Input, ``[..., in]``, float32, any strides.
        signs: ``S``, ``[out, in]``.
        magnitude: One for all weights, at least 0.
        bias: ``[out]`` float32, or None.
        activations: ``"float32"``: exact up to rounding. ``"int8"``: every input vector is rounded
            to 255 levels, ``round(127 x / max|x|)``, and summed exactly: half the time, and for
            normal inputs an error of about 1 % of the outputs' standard deviation. The result is
            the same bits on every instruction set.

    Returns:
        ``[..., out]`` float32, row-major.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, device, magnitude or ``activations`` does not fit.
        RuntimeError: if ``x`` needs a gradient.
    """
    x = _check(x, signs, magnitude, activations)
    rows, columns = _matrix(signs.shape)
    if len(signs.shape) != 2 or x.dim() == 0 or x.shape[-1] != columns:
        raise ValueError(f"x: expected [..., {columns}] (in_features), got {list(x.shape)}")
    bias = _checks.check_bias(bias, rows, x)
    flat = x.reshape(x.shape[:-1].numel(), columns)  # [N, in]
    y: Tensor = torch.ops.sparsefl.packed_sign_linear.default(
        flat, signs.begin, signs.data, rows, float(magnitude), bias, activations == "int8"
    )
    return y if x.dim() == 2 else y.view(*x.shape[:-1], rows)


def packed_sign_conv2d(
    x: Tensor,
    signs: PackedSigns,
    magnitude: float,
    bias: Tensor | None = None,
    stride: tuple[int, int] = _PAIR,
    padding: tuple[int, int] | str = (0, 0),
    dilation: tuple[int, int] = _PAIR,
    activations: Activations = "float32",
) -> Tensor:
    """Compute the convolution of ``x`` with ``magnitude * S`` for signs ``S``, plus ``bias``.

    Args:
        x: Input, ``[N, C, H, W]``, float32, any strides.
        signs: ``S``, ``[out, in / groups, kh, kw]``.
        magnitude: One for all weights, at least 0.
        bias: ``[out]`` float32, or None.
        stride: Vertical and horizontal step.
        padding: Zeros on each side, or ``"same"``.
        dilation: Distance between the taps.
        activations: As in :func:`packed_sign_linear`; a sample has one scale.

    Returns:
        ``[N, out, P, Q]`` float32, row-major.

    Raises:
        TypeError: if a dtype does not fit.
        ValueError: if a shape, device, magnitude or ``activations`` does not fit.
        RuntimeError: if ``x`` needs a gradient.
    """
    x = _check(x, signs, magnitude, activations)
    if len(signs.shape) != 4 or x.dim() != 4 or x.shape[1] != signs.shape[1] * signs.groups:
        channels = signs.shape[1] * signs.groups if len(signs.shape) == 4 else "C"
        raise ValueError(f"x: expected [N, {channels}, H, W], got {list(x.shape)}")
    bias = _checks.check_bias(bias, signs.shape[0], x)
    geometry = _geometry(signs, x, stride, padding, dilation)
    y: Tensor = torch.ops.sparsefl.packed_sign_conv2d.default(
        x, signs.begin, signs.data, float(magnitude), bias, activations == "int8", geometry
    )
    return y


def _geometry(
    signs: PackedSigns,
    x: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
) -> list[int]:
    """Return the sizes in the order of ``sparse_conv2d``."""
    out, inner, kh, kw = signs.shape
    pads = (None, None) if isinstance(padding, str) else padding
    axes = (
        Axis(kh, stride[0], pads[0], dilation[0]),
        Axis(kw, stride[1], pads[1], dilation[1]),
    )
    height, width = x.shape[2:]
    sizes = [axes[0].output(height), axes[1].output(width)]
    if min(sizes) < 1:
        raise ValueError(f"x: {height}x{width} pixels are fewer than the kernel's {kh}x{kw} reach")
    return [
        *(out, inner * signs.groups, signs.groups),
        *(height, width, *sizes, kh, kw),
        *stride,
        *(axis.pad_total()[0] for axis in axes),
        *dilation,
    ]


def _check(x: Tensor, signs: PackedSigns, magnitude: float, activations: str) -> Tensor:
    x = _checks.check_operand(x)
    if x.dtype != torch.float32:
        raise TypeError(f"x: expected float32, got {x.dtype}")
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError(
            "x needs a gradient, and packed signs have none: run under torch.inference_mode()"
        )
    check_activations(activations)
    if not 0.0 <= magnitude < float("inf"):
        raise ValueError(f"magnitude: expected a finite number of at least 0, got {magnitude}")
    if signs.data.device != x.device:
        raise ValueError(f"signs: expected on the input's {x.device}, got {signs.data.device}")
    return x


def check_activations(activations: object) -> Activations:
    """Return what says how inputs are rounded.

    Raises:
        ValueError: if it is neither ``"float32"`` nor ``"int8"``.
    """
    if activations == "float32":
        return "float32"
    if activations == "int8":
        return "int8"
    raise ValueError(f"activations: expected 'float32' or 'int8', got {activations!r}")


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) not in (2, 4):
        raise ValueError(f"shape: expected that of a linear or 2-d convolution, got {shape}")
    return shape[0], math.prod(shape[1:])


def _check_bits(name: str, bits: Tensor, count: int) -> None:
    expected = (count + 7) // 8
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        got = bits.dtype if isinstance(bits, Tensor) else type(bits).__name__
        raise TypeError(f"{name}: expected a uint8 tensor, got {got}")
    if bits.shape != (expected,):
        raise ValueError(f"{name}: expected [{expected}] for {count} bits, got {list(bits.shape)}")
    if count % 8 and int(bits[-1]) >> count % 8:
        raise ValueError(f"{name}: has bits set past the last of {count}")


def _count(bits: Tensor) -> int:
    of_byte = torch.tensor([b.bit_count() for b in range(256)], device=bits.device)
    return int((torch.bincount(bits.int(), minlength=256) * of_byte).sum())


define(
    "packed_sign_pack(Tensor support, Tensor negative, int rows, int columns, int groups, int nnz,"
    " bool lists) -> (Tensor begin, Tensor data)"
)
define(
    "packed_sign_unpack(Tensor begin, Tensor data, int rows, int columns, int groups, int nnz)"
    " -> (Tensor support, Tensor negative)"
)
define(
    "packed_sign_linear(Tensor x, Tensor begin, Tensor data, int rows, float magnitude,"
    " Tensor? bias, bool rounded) -> Tensor"
)
define(
    "packed_sign_conv2d(Tensor x, Tensor begin, Tensor data, float magnitude, Tensor? bias,"
    " bool rounded, int[] geometry) -> Tensor"
)


@torch.library.register_fake("sparsefl::packed_sign_linear", lib=LIBRARY)
def _(
    x: Tensor,
    begin: Tensor,
    data: Tensor,
    rows: int,
    magnitude: float,
    bias: Tensor | None,
    rounded: bool,
) -> Tensor:
    return x.new_empty(x.shape[0], rows)


@torch.library.register_fake("sparsefl::packed_sign_conv2d", lib=LIBRARY)
def _(
    x: Tensor,
    begin: Tensor,
    data: Tensor,
    magnitude: float,
    bias: Tensor | None,
    rounded: bool,
    geometry: list[int],
) -> Tensor:
    return x.new_empty(x.shape[0], geometry[0], geometry[5], geometry[6])
