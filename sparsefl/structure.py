"""Structure of a support: the rectangles of a weight that are kept or pruned as a whole.

Needs numpy alone. A weight ``[out, in, *taps]`` is seen as a matrix of ``out`` rows and ``in``
columns whose entries are all taps of a pair of channels: a linear layer's have one tap, a
convolution's ``kh * kw``. Rows are output channels, columns input channels (of a group's own, where
the convolution has groups), and rectangles of both are channel groups.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Kind: TypeAlias = Literal["unstructured", "block", "rows", "columns"]

# Rows that are looked at in one go: an unstructured support of any size is known by the first few.
_ROWS_AT_ONCE = 64
_FORMS = (
    "a Structure, a pair (height, width), 'rows', 'rows:N', 'columns', 'columns:N', "
    "'block:HEIGHTxWIDTH'"
)


@dataclass(frozen=True)
class Structure:
    """A grid of rectangles over the rows and columns of a weight.

    The grid starts at row 0 and column 0, and its last rectangles are cut off at the weight's
    edge: 100 rows in blocks of 32 make blocks of 32, 32, 32 and 4. ``str`` gives the form that
    :func:`parse` reads.

    Attributes:
        height: Rows of a rectangle; None: all, so that columns are whole.
        width: Columns of a rectangle; None: all, so that rows are whole.
    """

    height: int | None
    width: int | None

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            TypeError: if one is neither int nor None.
            ValueError: if one is less than 1.
        """
        for name, size in (("height", self.height), ("width", self.width)):
            if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
                raise TypeError(f"{name} must be an int or None, got {type(size).__name__}")
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")

    @property
    def kind(self) -> Kind:
        """``"rows"`` where rows are whole, ``"columns"`` where columns are, else ``"block"``."""
        if self.width is None:
            return "rows"
        return "columns" if self.height is None else "block"

    def __str__(self) -> str:
        """``block:16x32``, ``rows:8``, ``columns:8``; without a number for single ones."""
        if self.kind == "block":
            return f"block:{self.height}x{self.width}"
        size = self.height if self.kind == "rows" else self.width
        return self.kind if size in (1, None) else f"{self.kind}:{size}"

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return rows and columns of a rectangle in a weight of ``shape``, none larger than it.

        Raises:
            ValueError: if the weight has fewer than two dimensions.
        """
        if len(shape) < 2:
            raise ValueError(f"structure {self} needs a weight of rows and columns, got {shape}")
        rows, columns = max(shape[0], 1), max(shape[1], 1)
        return min(self.height or rows, rows), min(self.width or columns, columns)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many rectangles lie below and beside each other, cut ones included.

        Raises:
            ValueError: if the weight has fewer than two dimensions.
        """
        height, width = self.sizes(shape)
        return -(-shape[0] // height), -(-shape[1] // width)

    def areas(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return how many positions each rectangle holds, ``[rectangles]`` int64, row-major.

        Raises:
            ValueError: if the weight has fewer than two dimensions.
        """
        height, width = self.sizes(shape)
        rows, columns = (
            np.diff(np.append(np.arange(0, length, size), length))
            for length, size in ((shape[0], height), (shape[1], width))
        )
        return np.outer(rows, columns).reshape(-1) * math.prod(shape[2:])

    def which(
        self, indices: npt.NDArray[np.int64], shape: tuple[int, ...]
    ) -> npt.NDArray[np.int64]:
        """Return the number of the rectangle, row-major, of each flat position.

        Raises:
            ValueError: if the weight has fewer than two dimensions.
        """
        height, width = self.sizes(shape)
        channels = indices // math.prod(shape[2:])
        rows, columns = channels // shape[1], channels % shape[1]
        return rows // height * self.grid(shape)[1] + columns // width

    def is_within(self, found: Structure | None, shape: tuple[int, ...]) -> bool:
        """Tell whether what has ``found`` as largest rectangles is made of these, too.

        Raises:
            ValueError: if ``shape`` has fewer than two dimensions.
        """
        sizes = self.sizes(shape)
        if math.prod(shape) == 0:
            return True
        if found is None:
            return False
        pairs = zip((found.height, found.width), sizes, strict=True)
        return all(most is None or most % size == 0 for most, size in pairs)

    def check(self, found: Structure | None, shape: tuple[int, ...], argument: str) -> None:
        """Refuse what has ``found`` as largest rectangles where it is not made of these.

        Raises:
            ValueError: if so, or if ``shape`` has fewer than two dimensions.
        """
        if not self.is_within(found, shape):
            largest = "unstructured" if found in (None, Structure(1, 1)) else f"of {found}"
            raise ValueError(f"{argument} must be made of whole {self}, it is {largest}")

    def expand(self, grid: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Return the mask of ``shape`` that keeps the rectangles where ``grid`` is true.

        Raises:
            ValueError: if ``grid`` is not of the shape that :meth:`grid` gives.
        """
        if grid.shape != self.grid(shape):
            raise ValueError(
                f"kept must be {self.grid(shape)} for shape {shape} in {self}, got {grid.shape}"
            )
        height, width = self.sizes(shape)
        matrix = np.repeat(np.repeat(grid, height, axis=0), width, axis=1)
        matrix = matrix[: shape[0], : shape[1]]
        return np.broadcast_to(matrix.reshape(*shape[:2], *(1 for _ in shape[2:])), shape)

    def kept(self, mask: npt.NDArray[np.bool_]) -> Blocks:
        """Return the kept rectangles of a mask that is made of whole ones."""
        height, width = self.sizes(mask.shape)
        corners = mask[::height, ::width]
        for _ in mask.shape[2:]:
            corners = corners[..., 0]
        rows, columns = np.nonzero(corners)
        return Blocks(height, width, rows.astype(np.int64), columns.astype(np.int64))


StructureLike: TypeAlias = Structure | str | tuple[int, int]


class Blocks(NamedTuple):
    """The kept rectangles of a support, in row-major order of the grid.

    Attributes:
        height: Rows of a rectangle (the last ones may be cut off).
        width: Columns of a rectangle.
        rows: Which row of the grid each lies in, int64 ``[kept]``, not decreasing; its first row
            of the weight is ``rows * height``.
        columns: Which column of the grid, int64 ``[kept]``, increasing within a row.
    """

    height: int
    width: int
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]


def parse(given: StructureLike | None, argument: str = "structure") -> Structure | None:
    """Return what an argument says: None for ``None`` and ``"unstructured"``.

    Args:
        given: A structure, a pair (height, width) like torch's ``blocksize``, or text:
            ``"unstructured"``, ``"rows"``, ``"rows:16"`` (groups of 16), ``"columns"``,
            ``"columns:16"``, ``"block:32x32"``.
        argument: Name of the argument in the error.

    Raises:
        TypeError: if it is of another type.
        ValueError: if it is other text, or a size is less than 1.
    """
    if given is None or isinstance(given, Structure):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return Structure(*given)
    if not isinstance(given, str):
        raise TypeError(f"{argument} must be {_FORMS} or 'unstructured', got {given!r}")
    if given == "unstructured":
        return None
    lines = re.fullmatch(r"(rows|columns)(?::(\d+))?", given)
    if lines is not None:
        size = int(lines[2] or 1)
        return Structure(size, None) if lines[1] == "rows" else Structure(None, size)
    block = re.fullmatch(r"block:(\d+)x(\d+)", given)
    if block is None:
        raise ValueError(f"{argument} must be {_FORMS} or 'unstructured', got {given!r}")
    return Structure(int(block[1]), int(block[2]))


def parse_some(given: StructureLike, argument: str = "structure") -> Structure:
    """Return what an argument says that must name a structure.

    Raises:
        TypeError: as :func:`parse`.
        ValueError: as :func:`parse`, or if it is ``None`` or ``"unstructured"``.
    """
    found = parse(given, argument)
    if found is None:
        raise ValueError(f"{argument} must be {_FORMS}, got {given!r}")
    return found


def find(shape: tuple[int, ...], packed: npt.NDArray[np.uint8]) -> Structure | None:
    """Return the largest rectangles of which each is kept or pruned as a whole.

    Their height is the greatest common divisor of the rows that differ from the one before, their
    width likewise: all that divides both holds, too, and nothing else does. Where no row differs,
    columns are whole; where no column does, rows are; of a support that is full or empty both.

    Args:
        shape: Shape of the tensor.
        packed: Its row-major bitmap, least significant bit first.

    Returns:
        The structure, ``Structure(1, 1)`` where taps alone go together; None where not even these
        do, and for tensors without elements or of fewer than two dimensions.
    """
    numel = math.prod(shape)
    if len(shape) < 2 or numel == 0:
        return None
    rows, columns = shape[:2]
    row = numel // rows
    height = width = 0
    for start in range(0, rows, _ROWS_AT_ONCE):
        first, last = max(start - 1, 0), min(start + _ROWS_AT_ONCE, rows)
        part = _unpack(packed, first * row, last * row).reshape(last - first, columns, -1)
        if bool((part != part[..., :1]).any()):
            return None
        part = part[..., 0]
        differ = np.flatnonzero((part[1:] != part[:-1]).any(axis=1)) + first + 1
        height = math.gcd(height, *differ.tolist())
        differ = np.flatnonzero((part[:, 1:] != part[:, :-1]).any(axis=0)) + 1
        width = math.gcd(width, *differ.tolist())
        if row == columns and height == width == 1:
            break
    return Structure(height or None, width or None)


def _unpack(packed: npt.NDArray[np.uint8], start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Return the bits ``start`` to ``stop`` of a bitmap."""
    some = np.unpackbits(packed[start // 8 : -(-stop // 8)], bitorder="little")
    return some[start % 8 : start % 8 + stop - start].view(np.bool_)
