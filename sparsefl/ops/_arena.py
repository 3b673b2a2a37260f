"""Arenas: the elements of several tensors behind each other, so that one launch serves all."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsefl.reference import pack_bits, unpack_bits

# Positions of a block, what a warp of the kernels takes, and the bytes of its bitmap.
BLOCK = 1024
BLOCK_BYTES = BLOCK // 8


class Part(NamedTuple):
    """One tensor of an arena.

    Attributes:
        elements: Where its elements lie.
        bits: Where its bitmap lies, in bytes, as a message has it.
        blocks: Its blocks.
    """

    elements: slice
    bits: slice
    blocks: slice


@dataclasses.dataclass(frozen=True)
class Arena:
    """The elements of several tensors behind each other in one flat tensor, in this order.

    In a bitmap of an arena every tensor begins a block of 1024 positions of its own; the bits of
    its last block past its last position are zero. So a tensor's bytes are those of its own bitmap.

    Attributes:
        sizes: Elements of each tensor, one at least.
    """

    sizes: tuple[int, ...]
    _tables: dict[torch.device, Tensor] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def __init__(self, sizes: Sequence[int]) -> None:
        """Take the tensors' sizes.

        Raises:
            TypeError: if one is no integer.
            ValueError: if there is none, or one is negative.
        """
        object.__setattr__(self, "sizes", tuple(check_count("sizes", n) for n in sizes))
        object.__setattr__(self, "_tables", {})
        if not self.sizes or min(self.sizes) < 0:
            raise ValueError(f"sizes: expected those of one tensor at least, got {self.sizes}")

    @property
    def numel(self) -> int:
        """Elements of all tensors."""
        return sum(self.sizes)

    @property
    def blocks(self) -> int:
        """Blocks of all tensors."""
        return sum(-(-n // BLOCK) for n in self.sizes)

    def parts(self) -> Iterator[Part]:
        """Yield where each tensor lies."""
        element = block = 0
        for n in self.sizes:
            blocks = -(-n // BLOCK)
            first = block * BLOCK_BYTES
            yield Part(
                slice(element, element + n),
                slice(first, first + -(-n // 8)),
                slice(block, block + blocks),
            )
            element, block = element + n, block + blocks

    def table(self, device: torch.device) -> Tensor | None:
        """Return the tensors' first elements and blocks, ``[2, tensors + 1]`` int64; None for one.

        Held for each device: only the first call copies.
        """
        if len(self.sizes) == 1:
            return None
        if device not in self._tables:
            blocks = [-(-n // BLOCK) for n in self.sizes]
            rows = [[0, *itertools.accumulate(counts)] for counts in (self.sizes, blocks)]
            self._tables[device] = torch.tensor(rows, dtype=torch.int64).to(device)
        return self._tables[device]

    def split(self, bits: Tensor) -> list[Tensor]:
        """Return the bitmap of each tensor, ``[ceil(n / 8)]`` uint8, a view of the arena's.

        Args:
            bits: Of the arena, ``[128 * blocks]`` uint8.

        Raises:
            ValueError: if it has another shape.
        """
        if bits.shape != (self.blocks * BLOCK_BYTES,):
            raise ValueError(
                f"bits: expected [{self.blocks * BLOCK_BYTES}], 128 bytes a block, got "
                f"{list(bits.shape)}"
            )
        return [bits[part.bits] for part in self.parts()]

    def pack(self, kept: Tensor) -> Tensor:
        """Return the bitmap of a flat bool tensor, ``[numel]``, in plain torch."""
        bits = kept.new_zeros(self.blocks * BLOCK_BYTES, dtype=torch.uint8)
        for part in self.parts():
            bits[part.bits] = pack_bits(kept[part.elements])
        return bits

    def unpack(self, bits: Tensor) -> Tensor:
        """Return the flat bool tensor of a bitmap, ``[numel]``, in plain torch."""
        unpacked = [
            unpack_bits(own, n) for own, n in zip(self.split(bits), self.sizes, strict=True)
        ]
        return torch.cat(unpacked)


def check_count(name: str, value: int) -> int:
    """Return an integer of any integer type.

    Raises:
        TypeError: if it is no integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected integers, got {value!r}") from None


def check_flat(name: str, x: Tensor, arena: Arena | None) -> tuple[Tensor, Arena]:
    """Return ``x`` flat and contiguous, and its arena: without one it is a tensor alone.

    Raises:
        TypeError: if ``x`` is no dense float32 tensor, or ``arena`` no arena.
        ValueError: if it does not have the arena's elements.
    """
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a float32 tensor, got {got}")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got {x.layout}")
    if arena is not None and not isinstance(arena, Arena):
        raise TypeError(f"arena: expected an Arena, got {type(arena).__name__}")
    if arena is not None and arena.numel != x.numel():
        raise ValueError(
            f"{name}: expected {arena.numel} elements, those of the arena, got {x.numel()}"
        )
    flat = x.detach().reshape(-1).contiguous()
    return flat, Arena((x.numel(),)) if arena is None else arena


def check_bits(name: str, bits: Tensor, arena: Arena) -> Tensor:
    """Return a bitmap as the kernels read it, 128 bytes a block.

    Raises:
        TypeError: if it is no uint8 tensor.
        ValueError: if it is neither that nor, for one tensor alone, ``[ceil(n / 8)]``.
    """
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        got = bits.dtype if isinstance(bits, Tensor) else type(bits).__name__
        raise TypeError(f"{name}: expected a uint8 tensor, got {got}")
    padded = arena.blocks * BLOCK_BYTES
    alone = math.ceil(arena.sizes[0] / 8) if len(arena.sizes) == 1 else padded
    if bits.shape not in ((padded,), (alone,)):
        raise ValueError(f"{name}: expected [{alone}], got {list(bits.shape)}")
    bits = bits.contiguous()
    # The kernels read words; a view may begin anywhere.
    if bits.numel() < padded:
        return torch.nn.functional.pad(bits, (0, padded - bits.numel()))
    return bits.clone() if bits.storage_offset() % 16 else bits


def check_apart(name: str, read: Tensor, written: Tensor) -> None:
    """Refuse what shares memory with a tensor that is written; both contiguous, of one dtype.

    Raises:
        ValueError: if they overlap.
    """
    one, other = (tensor.untyped_storage()._cdata for tensor in (read, written))
    begin = max(read.storage_offset(), written.storage_offset())
    end = min(tensor.storage_offset() + tensor.numel() for tensor in (read, written))
    if one == other and begin < end:
        raise ValueError(f"{name}: expected memory of its own, it overlaps what is written")


def found_nan_of(x: Tensor, found_nan: Tensor | None) -> Tensor:
    """Return where kernels say that they met a NaN: what a caller gave, or a fresh flag.

    Raises:
        ValueError: if it is no int32 tensor of one element on the device of ``x``.
    """
    if found_nan is None:
        return torch.zeros(1, dtype=torch.int32, device=x.device)
    fits = isinstance(found_nan, Tensor) and found_nan.dtype == torch.int32
    if not fits or found_nan.numel() != 1 or found_nan.device != x.device:
        raise ValueError(f"found_nan: expected int32, one element, on {x.device}")
    return found_nan


def refuse_nan(name: str, flag: Tensor, found_nan: Tensor | None, what: str) -> None:
    """Wait for the device and raise where a NaN was met, unless the caller looks himself.

    Raises:
        ValueError: if there is a NaN and ``found_nan`` is None.
    """
    if found_nan is None and bool(flag):
        raise ValueError(f"{name} has a NaN, which has no {what}")


def arena_of(table: Tensor | None, numel: int) -> Arena:
    """Return the arena of a table on the CPU, or of one tensor alone."""
    return Arena((numel,) if table is None else table[0].diff().tolist())
