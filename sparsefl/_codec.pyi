from typing import Any

import numpy as np
import numpy.typing as npt

class RefusedError(Exception):
    args: tuple[int, int]

class SchemaTable:
    def __init__(
        self,
        fingerprint: int,
        numels: npt.NDArray[np.uint64],
        rows: npt.NDArray[np.uint64],
        dtypes: npt.NDArray[np.uint8],
    ) -> None: ...

class Reader:
    def __init__(self, schema: SchemaTable, data: bytes) -> None: ...
    @property
    def round(self) -> int: ...
    @property
    def base_fingerprint(self) -> int: ...
    @property
    def descriptors(self) -> list[tuple[int, int, int, float, int]]: ...
    @property
    def sections(self) -> list[tuple[int, int, int, int, int]]: ...
    def read(
        self,
        bases: list[tuple[npt.NDArray[np.uint8] | None, npt.NDArray[np.int8] | None]],
        threads: int = 1,
    ) -> list[tuple[npt.NDArray[np.uint8] | None, npt.NDArray[Any] | None]]: ...

class Accumulation:
    def __init__(self, held_bytes: int = ..., isa: str | None = None) -> None: ...
    def add(
        self, reader: Reader, addends: list[tuple[object, ...]], weight: float, threads: int
    ) -> None: ...

class Writer:
    def __init__(
        self,
        schema: SchemaTable,
        sources: list[tuple[object, ...]],
        rans: bool,
        threads: int = 1,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def modes(self) -> list[tuple[int, int]]: ...
    def finish(self, round: int, base_fingerprint: int) -> bytes: ...

def block_size(value_mode: int) -> int: ...
def crc32c(data: bytes) -> int: ...
def crc32c_path() -> str: ...
def uniform_bits(seed: int, stream: int, n: int) -> npt.NDArray[np.uint32]: ...
def normal(
    seed: int, stream: int, n: int, std: float, isa: str | None = None
) -> npt.NDArray[np.float32]: ...
def normal_table() -> npt.NDArray[np.int32]: ...
def compress_bits(
    bits: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    n: int,
    complement: bool,
    isa: str | None = None,
) -> npt.NDArray[np.uint8]: ...
def expand_bits(
    ranks: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    n: int,
    complement: bool,
    isa: str | None = None,
) -> npt.NDArray[np.uint8]: ...
def popcount(data: npt.NDArray[np.uint8]) -> int: ...
def pack_signs(
    x: npt.NDArray[np.float32], bits: npt.NDArray[np.uint8], isa: str | None = None
) -> bool: ...
def unpack_signs(
    bits: npt.NDArray[np.uint8],
    scale: float,
    out: npt.NDArray[np.float32],
    isa: str | None = None,
) -> None: ...
def top_k(
    arrays: list[npt.NDArray[np.float32]], k: int, isa: str | None = None
) -> tuple[list[tuple[npt.NDArray[np.uint8], int]], npt.NDArray[np.float32]] | None: ...
def gather(
    x: npt.NDArray[np.float32], bits: npt.NDArray[np.uint8], isa: str | None = None
) -> npt.NDArray[np.float32]: ...
def add_at(
    model: npt.NDArray[np.float32],
    bits: npt.NDArray[np.uint8],
    values: npt.NDArray[np.float32],
    weight: float,
    isa: str | None = None,
) -> None: ...
def vote(
    packed: list[npt.NDArray[np.uint8]],
    n: int,
    least: int,
    negative: npt.NDArray[np.uint8],
    tied: npt.NDArray[np.uint8] | None,
    isa: str | None = None,
) -> None: ...
def mean(
    packed: list[npt.NDArray[np.uint8]],
    weights: npt.NDArray[np.int32],
    unit: float,
    out: npt.NDArray[np.float32],
    isa: str | None = None,
) -> None: ...
def value_counts(
    mode: int, dtype: int, block_log2: int, values: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint64] | None: ...
def value_section(
    mode: int,
    dtype: int,
    block_log2: int,
    values: npt.NDArray[np.uint8],
    profile: int,
    rounding: tuple[int, int, int] | None = None,
) -> tuple[int, bytes] | None: ...
