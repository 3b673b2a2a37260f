import gzip
import pathlib
import struct

import numpy as np
import pytest

from sparsefl import data


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write(folder: pathlib.Path, content: bytes) -> pathlib.Path:
    path = folder / "file.gz"
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("shape", [(7,), (3, 5, 4), (0,), (2, 0, 3), (2, 1, 3, 2)], ids=str)
def test_reads_what_was_written(tmp_path: pathlib.Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    back = data.read_idx(write(tmp_path, idx_bytes(array)))
    assert back.dtype == np.uint8
    assert back.shape == shape
    assert np.array_equal(back, array)


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_truncation_at_every_byte_is_refused(tmp_path: pathlib.Path, length: int) -> None:
    with pytest.raises(ValueError, match=r"file\.gz"):
        data.read_idx(write(tmp_path, GOOD[:length]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01" + GOOD[1:], "not an idx file"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "type 0x0d"),
        (GOOD[:3] + b"\x00" + GOOD[4:], "0 dimensions"),
        (GOOD[:3] + b"\xff" + GOOD[4:], "255 dimensions"),
        (GOOD + b"\x00", "does not hold"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "announces shape"),
        (b"", "not an idx file"),
    ],
    ids=["magic", "type", "no-dimensions", "many-dimensions", "trailing", "huge", "empty"],
)
def test_malformed_file_is_refused(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.read_idx(write(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:-1] + b"\xff", b""],
    ids=["plain", "cut", "wrong-length", "empty"],
)
def test_damaged_gzip_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.gz"):
        data.read_idx(path)


def test_bomb_is_not_unpacked(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        content = read(self, size)
        taken.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(ValueError, match="does not hold"):
        data.read_idx(write(tmp_path, GOOD + bytes(10_000_000)))
    assert sum(taken) == len(GOOD) + 1


def test_missing_file_is_an_os_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "none.gz")
