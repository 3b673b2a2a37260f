"""Schema: the ordered tensors that sender and receiver agree on before any message."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np

from sparsefl import _codec
from sparsefl.codec.scalars import as_integer

if TYPE_CHECKING:
    import torch

# The dtypes of the format and their numbers in it (FORMAT.md, "Schema fingerprint").
DTYPE_CODES = {
    "float32": 1,
    "float64": 2,
    "float16": 3,
    "bfloat16": 4,
    "int64": 5,
    "int32": 6,
    "int16": 7,
    "int8": 8,
    "uint8": 9,
    "bool": 10,
}
FLOATING = frozenset({"float32", "float64", "float16", "bfloat16"})
MAX_NUMEL = 2**40
_MAX_NAME_BYTES = 2**16 - 1
_MAX_DIMS = 255

Declared: TypeAlias = "tuple[Iterable[int], Any]"


class TensorSpec(NamedTuple):
    """Shape and dtype of one tensor.

    Attributes:
        shape: Its sizes.
        dtype: Name of its dtype, ``"float32"`` for example.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Elements of a row, ``numel / shape[0]``; 0 for less than two dimensions or no rows."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 and self.shape[0] else 0

    @property
    def is_floating(self) -> bool:
        """Whether the dtype is a floating one."""
        return self.dtype in FLOATING


class Schema(Mapping[str, TensorSpec]):
    """Names, shapes and dtypes of a model's tensors: an ordered mapping to ``TensorSpec``.

    Immutable. A message carries ``fingerprint`` and refers to tensors by position.
    """

    __slots__ = ("_fingerprint", "_ordinals", "_specs", "_table")

    def __init__(self, tensors: Mapping[str, Declared]) -> None:
        """Declares the tensors.

        Args:
            tensors: ``{name: (shape, dtype)}`` in order; dtype as a name, or numpy's, or torch's.

        Raises:
            TypeError: if a name is no string or a dtype is none of the format's.
            ValueError: if a size is negative, or a name or tensor exceeds the format's limits.
        """
        self._specs = {name: _checked(name, declared) for name, declared in tensors.items()}
        self._ordinals = {name: i for i, name in enumerate(self._specs)}
        self._fingerprint = _fingerprint(self._specs)
        self._table = _codec.SchemaTable(
            self._fingerprint,
            np.array([s.numel for s in self._specs.values()], dtype=np.uint64),
            np.array([s.row for s in self._specs.values()], dtype=np.uint64),
            np.array([DTYPE_CODES[s.dtype] for s in self._specs.values()], dtype=np.uint8),
        )

    @classmethod
    def of(cls, model: torch.nn.Module) -> Schema:
        """Declare the parameters and buffers of a model, under the names of its dense equivalent.

        A module that stores a tensor otherwise than dense says what it stands for with
        ``dense_state_shapes() -> {name: (shape, dtype)}``, names relative to it.

        Args:
            model: A torch module; sparsefl's layers may be among its modules.

        Returns:
            The schema, in the order of the model's ``state_dict``.

        Raises:
            TypeError: if ``model`` is no module, or a dtype is none of the format's.
        """
        if not hasattr(model, "named_modules"):
            raise TypeError(f"model must be a torch module, got {type(model).__name__}")
        modules = list(model.named_modules(remove_duplicate=False))
        if not any(hasattr(m, "dense_state_shapes") for _, m in modules):
            state = model.state_dict()
            return cls({n: (t.shape, t.dtype) for n, t in state.items() if hasattr(t, "dtype")})
        tensors: dict[str, Declared] = {}
        opaque: list[str] = []
        for path, module in modules:
            if any(path.startswith(inside) for inside in opaque):
                continue
            prefix = f"{path}." if path else ""
            if hasattr(module, "dense_state_shapes"):
                opaque.append(prefix)
                own = cast("Mapping[str, Declared]", module.dense_state_shapes())
                tensors |= {prefix + name: declared for name, declared in own.items()}
            else:
                tensors |= {prefix + n: (t.shape, t.dtype) for n, t in _own_tensors(module)}
        return cls(tensors)

    @property
    def fingerprint(self) -> int:
        """64-bit BLAKE2b of names, shapes and dtypes in order; FORMAT.md defines it."""
        return self._fingerprint

    @property
    def table(self) -> _codec.SchemaTable:
        """What the compiled codec knows of the schema."""
        return self._table

    def ordinal(self, name: str) -> int:
        """Returns the position of a tensor.

        Raises:
            KeyError: if there is no tensor of that name.
        """
        return self._ordinals[name]

    def __getitem__(self, name: str) -> TensorSpec:
        """Returns shape and dtype of a tensor."""
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names, in order."""
        return iter(self._specs)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._specs)

    def __eq__(self, other: object) -> bool:
        """Equal when names, shapes, dtypes and their order are."""
        if not isinstance(other, Schema):
            return NotImplemented
        return list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        """Hash of the fingerprint."""
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        """Number of tensors and elements, and the fingerprint."""
        numel = sum(s.numel for s in self._specs.values())
        return f"Schema({len(self)} tensors, {numel} elements, {self._fingerprint:#018x})"

    def __reduce__(self) -> tuple[type[Schema], tuple[dict[str, tuple[tuple[int, ...], str]]]]:
        """Pickles as what it was declared with."""
        return Schema, ({name: (s.shape, s.dtype) for name, s in self._specs.items()},)


def _own_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the module's own parameters and persistent buffers, those of its children left out."""
    persistent = set(module.state_dict())
    for named in (module.named_parameters, module.named_buffers):
        for name, tensor in named(recurse=False, remove_duplicate=False):
            if name in persistent:
                yield name, tensor


def _dtype_name(dtype: object) -> str:
    """Returns the name of a dtype given as a name, or numpy's, or torch's."""
    if str(dtype).startswith("torch."):
        return str(dtype).removeprefix("torch.")
    try:
        return dtype if isinstance(dtype, str) else np.dtype(cast("Any", dtype)).name
    except TypeError:
        return repr(dtype)


def _checked(name: str, declared: object) -> TensorSpec:
    """Returns the spec of one tensor, checked against the format's limits."""
    if not isinstance(name, str):
        raise TypeError(f"a tensor's name must be a string, got {name!r}")
    if not (isinstance(declared, tuple | list) and len(declared) == 2):
        got = type(declared).__name__
        raise TypeError(f"tensor {name!r}: expected a pair (shape, dtype), got {got}")
    shape, dtype = declared
    if not isinstance(shape, Iterable):
        raise TypeError(f"tensor {name!r}: expected a pair (shape, dtype), got {declared!r}")
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(f"tensor name of {len(name.encode())} bytes exceeds {_MAX_NAME_BYTES}")
    spec = TensorSpec(tuple(as_integer(size, "a size") for size in shape), _dtype_name(dtype))
    if spec.dtype not in DTYPE_CODES:
        raise TypeError(f"tensor {name!r}: dtype must be one of {[*DTYPE_CODES]}, got {dtype!r}")
    if any(size < 0 for size in spec.shape):
        raise ValueError(f"tensor {name!r}: sizes must not be negative, got {spec.shape}")
    if len(spec.shape) > _MAX_DIMS or spec.numel > MAX_NUMEL or max(spec.shape, default=0) >= 2**64:
        raise ValueError(
            f"tensor {name!r}: at most {_MAX_DIMS} dimensions and {MAX_NUMEL} elements, "
            f"got {len(spec.shape)} and {spec.numel}"
        )
    return spec


def _fingerprint(specs: Mapping[str, TensorSpec]) -> int:
    """Returns the fingerprint that FORMAT.md defines."""
    state = hashlib.blake2b(struct.pack("<I", len(specs)), digest_size=8)
    for name, spec in specs.items():
        encoded = name.encode()
        state.update(struct.pack("<H", len(encoded)) + encoded)
        dims = len(spec.shape)
        state.update(struct.pack(f"<BB{dims}Q", DTYPE_CODES[spec.dtype], dims, *spec.shape))
    return int.from_bytes(state.digest(), "little")
