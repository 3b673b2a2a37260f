"""Support: which positions of one tensor are kept. Needs numpy alone."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from sparsefl.arrays import as_bool, as_numpy, checked_shape, increases
from sparsefl.structure import Blocks, Kind, Structure, StructureLike, find, parse, parse_some

if TYPE_CHECKING:
    import torch

Mask: TypeAlias = "npt.NDArray[np.bool_] | torch.Tensor"

_DIGEST_BYTES = 16


class Support:
    """The kept positions of one tensor, immutable and hashable by content.

    Stored as a packed bitmap of one bit a position. Make one with ``from_mask``, ``from_indices``,
    ``from_packed``, ``from_blocks`` or ``random``. Its structure is found in the kept positions,
    not declared: messages, checkpoints and pickles keep it, and after an exchange it is found anew.
    """

    __slots__ = ("_digest", "_found", "_indices", "_nnz", "_packed", "_shape")

    _shape: tuple[int, ...]
    _packed: npt.NDArray[np.uint8]
    _nnz: int
    _indices: npt.NDArray[np.int64] | None
    _digest: bytes | None
    _found: tuple[Structure | None] | None

    def __init__(self) -> None:
        """Refuses: the named constructors say what the argument is.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "Support() is not called directly: use Support.from_mask(mask), "
            "Support.from_indices(shape, indices) or Support.random(shape, density, seed)"
        )

    @classmethod
    def _trusted(cls, shape: tuple[int, ...], packed: npt.NDArray[np.uint8], nnz: int) -> Support:
        """Wraps a bitmap whose length, count and trailing bits the caller has checked."""
        support = object.__new__(cls)
        packed.flags.writeable = False
        for name, value in (("_shape", shape), ("_packed", packed), ("_nnz", nnz)):
            object.__setattr__(support, name, value)
        for name in ("_indices", "_digest", "_found"):
            object.__setattr__(support, name, None)
        return support

    @classmethod
    def from_mask(cls, mask: Mask, structure: StructureLike | None = None) -> Support:
        """Keep the positions where ``mask`` is true.

        Args:
            mask: Which positions are kept, of the tensor's shape, bool; numpy array or torch tensor
                on any device. Copied.
            structure: What the mask has to be made of, as in :func:`sparsefl.structure.parse`.

        Returns:
            The support.

        Raises:
            TypeError: if ``mask`` is neither, or not bool, or ``structure`` of another type.
            ValueError: if ``mask`` is not made of whole rectangles of ``structure``.
        """
        wanted = parse(structure)
        array = as_bool(mask, "mask")
        packed = np.packbits(array, bitorder="little")  # flattens row-major
        support = cls._trusted(array.shape, packed, int(np.count_nonzero(array)))
        if wanted is not None:
            wanted.check(support._largest, array.shape, "mask")
        return support

    @classmethod
    def from_blocks(
        cls, shape: Iterable[int], structure: StructureLike, kept: npt.NDArray[np.bool_]
    ) -> Support:
        """Keep whole rectangles of rows and columns, all taps of each.

        Args:
            shape: Shape of the tensor, two dimensions or more.
            structure: The rectangles, as in :func:`sparsefl.structure.parse`.
            kept: Which of them are kept, bool ``structure.grid(shape)``.

        Returns:
            The support.

        Raises:
            TypeError: if ``kept`` is not bool, or ``structure`` of another type.
            ValueError: if ``kept`` or ``shape`` is of another shape.
        """
        dims, _ = checked_shape(shape)
        return cls.from_mask(parse_some(structure).expand(as_bool(kept, "kept"), dims))

    @classmethod
    def from_indices(cls, shape: Iterable[int], indices: npt.ArrayLike | torch.Tensor) -> Support:
        """Keep the positions at the given flat row-major indices.

        Args:
            shape: Shape of the tensor.
            indices: Flat row-major positions, ``[nnz]``, integer, strictly increasing.

        Returns:
            The support.

        Raises:
            TypeError: if ``indices`` is not of an integer dtype.
            ValueError: if ``indices`` is not one-dimensional, strictly increasing and in range.
        """
        dims, numel = checked_shape(shape)
        flat = as_numpy(indices, "indices") if hasattr(indices, "detach") else np.asarray(indices)
        if flat.size == 0:
            flat = flat.astype(np.int64)
        if flat.dtype.kind not in "iu":
            raise TypeError(f"indices must be integers, got {flat.dtype}")
        if flat.ndim != 1:
            raise ValueError(f"indices must be one-dimensional, got shape {flat.shape}")
        if not increases(flat, numel):
            raise ValueError(f"indices must increase strictly within [0, {numel}) for shape {dims}")
        mask = np.zeros(numel, dtype=np.bool_)
        mask[flat] = True
        return cls._trusted(dims, np.packbits(mask, bitorder="little"), int(flat.size))

    @classmethod
    def from_packed(cls, shape: Iterable[int], packed: bytes | npt.NDArray[np.uint8]) -> Support:
        """Keep the positions whose bit is set; the inverse of ``packed``.

        Args:
            shape: Shape of the tensor.
            packed: Row-major bitmap, ``[ceil(numel / 8)]`` bytes, least significant bit first; the
                bits past the last position are zero. Copied.

        Returns:
            The support.

        Raises:
            TypeError: if ``packed`` is neither bytes nor uint8.
            ValueError: if its length is wrong, or a bit past the last position is set.
        """
        dims, numel = checked_shape(shape)
        raw = np.frombuffer(packed, dtype=np.uint8) if isinstance(packed, bytes) else packed
        if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8:
            raise TypeError(f"packed must be bytes or a uint8 array, got {type(packed).__name__}")
        if raw.shape != ((numel + 7) // 8,):
            raise ValueError(
                f"packed must be [{(numel + 7) // 8}] for shape {dims}, got {raw.shape}"
            )
        if numel % 8 and int(raw[-1]) >> (numel % 8):
            raise ValueError(
                f"packed has bits set past the last of the {numel} positions of {dims}"
            )
        nnz = int(np.count_nonzero(np.unpackbits(raw)))
        return cls._trusted(dims, raw.copy(), nnz)

    @classmethod
    def random(
        cls,
        shape: Iterable[int],
        density: float,
        seed: int = 0,
        structure: StructureLike | None = None,
    ) -> Support:
        """Keep ``round(density * numel)`` positions drawn without replacement.

        The positions whose 64-bit Philox words are smallest are kept, ties to the lowest index:
        equal arguments give equal supports on every machine. With a ``structure`` it is so many of
        the rectangles instead, whatever their sizes at the edges.

        Args:
            shape: Shape of the tensor.
            density: Fraction to keep, within [0, 1].
            seed: Non-negative seed of the stream.
            structure: What is drawn, as in :func:`sparsefl.structure.parse`; None: positions.

        Returns:
            The support.

        Raises:
            ValueError: if ``density`` is outside [0, 1] or ``seed`` is negative.
        """
        dims, numel = checked_shape(shape)
        wanted = parse(structure)
        if wanted is not None:
            grid = cls.random(wanted.grid(dims), density, seed)
            return cls.from_blocks(dims, wanted, grid.to_numpy_mask())
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"density must be within [0, 1], got {density}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        nnz = round(density * numel)
        mask = np.zeros(numel, dtype=np.bool_)
        if nnz:
            words = np.random.Philox(seed).random_raw(numel)
            limit = np.partition(words, nnz - 1)[nnz - 1]
            mask = words < limit
            ties = np.flatnonzero(words == limit)
            mask[ties[: nnz - int(np.count_nonzero(mask))]] = True
        return cls._trusted(dims, np.packbits(mask, bitorder="little"), nnz)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self._shape

    @property
    def numel(self) -> int:
        """Number of positions of the tensor."""
        return math.prod(self._shape)

    @property
    def nnz(self) -> int:
        """Number of kept positions."""
        return self._nnz

    @property
    def density(self) -> float:
        """Kept fraction ``nnz / numel``; 0 for a tensor of no elements."""
        return self._nnz / self.numel if self.numel else 0.0

    @property
    def structure(self) -> Structure | None:
        """Largest rectangles that are kept or pruned whole (see :mod:`sparsefl.structure`).

        None where no two rows and no two columns go together. Found once, when first asked for.
        """
        largest = self._largest
        return None if largest == Structure(1, 1) else largest

    @property
    def kind(self) -> Kind:
        """``"rows"`` or ``"columns"`` where these are whole, ``"block"``, or ``"unstructured"``.

        Of what is full or empty, rows are whole.
        """
        return "unstructured" if self.structure is None else self.structure.kind

    @property
    def _largest(self) -> Structure | None:
        if self._found is None:
            object.__setattr__(self, "_found", (find(self._shape, self._packed),))
        return cast("tuple[Structure | None]", self._found)[0]

    def has(self, structure: StructureLike) -> bool:
        """Tell whether all rectangles of a structure are kept or pruned as a whole.

        What is made of blocks of 64x128 is made of 32x32 ones, too.

        Raises:
            TypeError: if ``structure`` is of another type.
            ValueError: if it is none, or the tensor has fewer than two dimensions.
        """
        return parse_some(structure).is_within(self._largest, self._shape)

    def blocks(self, structure: StructureLike) -> Blocks:
        """Return the kept rectangles of a structure, in row-major order of its grid.

        Raises:
            TypeError: if ``structure`` is of another type.
            ValueError: if the support is not made of whole ones.
        """
        wanted = parse_some(structure)
        wanted.check(self._largest, self._shape, "support")
        return wanted.kept(self.to_numpy_mask())

    @property
    def packed(self) -> npt.NDArray[np.uint8]:
        """Row-major bitmap, ``[ceil(numel / 8)]``, least significant bit first, read-only."""
        return self._packed

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Flat row-major kept positions, ``[nnz]``, increasing, read-only; computed once."""
        if self._indices is None:
            flat = np.flatnonzero(self.to_numpy_mask()).astype(np.int64, copy=False)
            flat.flags.writeable = False
            object.__setattr__(self, "_indices", flat)
            return flat
        return self._indices

    @property
    def digest(self) -> bytes:
        """BLAKE2b-128 of shape and bitmap, equal on every machine (codec/FORMAT.md defines it)."""
        if self._digest is None:
            head = struct.pack(f"<B{len(self._shape)}Q", len(self._shape), *self._shape)
            state = hashlib.blake2b(head, digest_size=_DIGEST_BYTES)
            state.update(self._packed.data)
            object.__setattr__(self, "_digest", state.digest())
        return cast("bytes", self._digest)

    def exchanged(self, dropped: npt.NDArray[np.int64], grown: npt.NDArray[np.int64]) -> Support:
        """Keep ``grown`` in place of ``dropped``: time for the kept positions, not for all.

        Args:
            dropped: Flat row-major positions kept so far, int64, strictly increasing.
            grown: Positions not kept so far, int64, strictly increasing.

        Returns:
            The support.

        Raises:
            ValueError: if one does not increase strictly within the tensor, a dropped position is
                not kept, or a grown one is.
        """
        packed = self._packed.copy()
        for name, flat, kept in (("dropped", dropped, 1), ("grown", grown, 0)):
            if not increases(flat, self.numel):
                raise ValueError(f"{name} must increase strictly within [0, {self.numel})")
            shifts = (flat & 7).astype(np.uint8)
            if not bool(np.all(self._packed[flat >> 3] >> shifts & 1 == kept)):
                raise ValueError(f"{name} must hold {'only' if kept else 'no'} kept positions")
            np.bitwise_xor.at(packed, flat >> 3, np.uint8(1) << shifts)
        changed = Support._trusted(self._shape, packed, self._nnz - dropped.size + grown.size)
        if self._indices is not None:
            left = np.delete(self._indices, np.searchsorted(self._indices, dropped))
            flat = np.insert(left, np.searchsorted(left, grown), grown)
            flat.flags.writeable = False
            object.__setattr__(changed, "_indices", flat)
        return changed

    def to_numpy_mask(self) -> npt.NDArray[np.bool_]:
        """Returns a fresh bool array of ``shape``, true where kept."""
        bits = np.unpackbits(self._packed, count=self.numel, bitorder="little")
        return bits.view(np.bool_).reshape(self._shape)

    def to_mask(self) -> torch.Tensor:
        """Returns a fresh bool torch tensor of ``shape`` on the CPU, true where kept.

        Raises:
            ImportError: where torch is not installed; ``to_numpy_mask`` needs none.
        """
        try:
            import torch
        except ImportError as error:
            raise ImportError("Support.to_mask needs torch; use Support.to_numpy_mask") from error
        return torch.from_numpy(self.to_numpy_mask())

    def __eq__(self, other: object) -> bool:
        """Equal when shape and kept positions are, and thereby structure."""
        if not isinstance(other, Support):
            return NotImplemented
        if self is other:
            return True
        same = self._shape == other._shape and self._nnz == other._nnz
        return same and bool(np.array_equal(self._packed, other._packed))

    def __hash__(self) -> int:
        """Hash of the content."""
        return int.from_bytes(self.digest[:8], "little")

    def __repr__(self) -> str:
        """Shape, count, density, kind, and structure where there is one."""
        found = f", structure='{self.structure}'" if self.structure else ""
        return (
            f"Support(shape={self._shape}, nnz={self._nnz}, density={self.density:.4g}, "
            f"kind={self.kind!r}{found})"
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Refuses.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"Support is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        """Refuses.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"Support is immutable: cannot delete {name!r}")

    def __copy__(self) -> Support:
        """Returns itself: it cannot change."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Support:
        """Returns itself: it cannot change."""
        return self

    def __reduce__(self) -> tuple[Callable[..., Support], tuple[tuple[int, ...], bytes]]:
        """Pickles as shape and bitmap, checked again when read."""
        return Support.from_packed, (self._shape, self._packed.tobytes())
