"""Checkpoints of a run: written atomically, read without running what is in them.

A checkpoint is plain: numbers, strings, lists, dictionaries and tensors, in torch's file format and
read with ``weights_only=True``, behind a SHA-256 of all of it that is checked first.
Records (the methods' states, the ledger) are named by class and rebuilt only from sparsefl's own
dataclasses.
"""

import dataclasses
import hashlib
import importlib
import io
import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsefl.codec import Schema
from sparsefl.support import Support

FILE = "checkpoint.pt"
_FORMAT = 3
# Formats 1 and 2 were torch's file alone, a zip archive.
_UNDIGESTED = b"PK\x03\x04"
_DIGEST_BYTES = hashlib.sha256().digest_size
_KIND = "kind"
_OWN = "sparsefl."


@dataclass(frozen=True)
class Checkpoint:
    """The newest checkpoint of a run, in a folder of its own.

    Attributes:
        folder: Where it is; created with the first one.
        config: What a run that goes on must agree in, JSON-ready.
    """

    folder: str | os.PathLike[str]
    config: Mapping[str, Any]

    @property
    def path(self) -> pathlib.Path:
        """The file."""
        return pathlib.Path(self.folder) / FILE

    def save(self, run: Mapping[str, Any]) -> None:
        """Write a run in progress, ``Federation.snapshot()``; a crash leaves the file before it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        content = {"format": _FORMAT, "config": json.dumps(self.config), "run": to_plain(run)}
        written = io.BytesIO()
        torch.save(content, written)
        with unfinished.open("wb") as file:
            file.write(hashlib.sha256(written.getbuffer()).digest())
            file.write(written.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)

    def load(self) -> dict[str, Any] | None:
        """Return what was saved; ``None`` if the folder holds no checkpoint.

        Raises:
            ValueError: if it is damaged, or of another configuration: the first key that differs is
                named.
        """
        content = self._read()
        if content is None:
            return None
        _check_same(content["config"], json.loads(json.dumps(self.config)), self.path)
        run: dict[str, Any] = from_plain(content["run"])
        return run

    def saved_config(self) -> dict[str, Any] | None:
        """Return the configuration that was saved; ``None`` if the folder holds no checkpoint.

        Raises:
            ValueError: if it is damaged.
        """
        content = self._read()
        return None if content is None else content["config"]

    def _read(self) -> dict[str, Any] | None:
        """Return what the file holds, its configuration parsed, the run still plain."""
        if not self.path.exists():
            return None
        written = _checked(self.path.read_bytes(), self.path)
        try:
            content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
            version, config, run = (content[key] for key in ("format", "config", "run"))
            config = json.loads(config)
        except Exception as error:  # torch raises one of half a dozen
            raise ValueError(f"{self.path} is no checkpoint, or a damaged one: {error}") from error
        if version != _FORMAT:
            raise ValueError(f"{self.path} has format {version}, this version reads {_FORMAT}")
        return {"config": config, "run": run}


def _checked(found: bytes, path: pathlib.Path) -> bytes:
    """Return what follows the digest: torch reads on over flipped bits, also those a zip misses.

    Raises:
        ValueError: if the digest is of other bytes.
    """
    digest, written = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
    if hashlib.sha256(written).digest() == digest:
        return written
    if found.startswith(_UNDIGESTED):
        raise ValueError(
            f"{path} has a format before {_FORMAT}, the one that this version reads, or is "
            "damaged: go on with the version that wrote it, or choose another folder"
        )
    raise ValueError(f"{path} is no checkpoint, or a damaged one: its digest is wrong")


def _check_same(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: pathlib.Path) -> None:
    before, now = _flat(saved), _flat(wanted)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{path} is of another run: {key} is {now.get(key)!r}, there it was "
                f"{before.get(key)!r}; resume with the same arguments, or choose another folder"
            )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"options.lr": 0.1}`` for ``{"options": {"lr": 0.1}}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def to_plain(value: Any) -> Any:
    """Return a value as numbers, strings, lists, dictionaries and tensors.

    Raises:
        TypeError: if it holds something that is none of these, nor an array, a support, a schema or
            a dataclass of sparsefl.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray | np.generic):
        return {_KIND: "array", "values": torch.from_numpy(np.array(value))}
    if isinstance(value, Support):
        packed = torch.from_numpy(value.packed.copy())
        return {_KIND: "support", "shape": list(value.shape), "packed": packed}
    if isinstance(value, Schema):
        specs = [[name, list(spec.shape), spec.dtype] for name, spec in value.items()]
        return {_KIND: "schema", "specs": specs}
    return _plain_container(value)


def _plain_container(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [[to_plain(key), to_plain(item)] for key, item in value.items()]
        return {_KIND: "mapping", "items": items}
    for kind, of in _SEQUENCES.items():
        if isinstance(value, of):
            return {_KIND: kind, "items": [to_plain(item) for item in value]}
    module = type(value).__module__
    if dataclasses.is_dataclass(value) and module.startswith(_OWN):
        held = [[f.name, to_plain(getattr(value, f.name))] for f in dataclasses.fields(value)]
        return {_KIND: "record", "type": [module, type(value).__qualname__], "fields": held}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__qualname__} of {module}")


_SEQUENCES: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def from_plain(plain: Any) -> Any:
    """Return what :func:`to_plain` was given.

    Raises:
        ValueError: if a record is of no dataclass of sparsefl.
    """
    if not isinstance(plain, dict):
        return plain
    kind = plain[_KIND]
    if kind == "array":
        return plain["values"].numpy()
    if kind == "support":
        return Support.from_packed(plain["shape"], plain["packed"].numpy())
    if kind == "schema":
        return Schema({name: (shape, dtype) for name, shape, dtype in plain["specs"]})
    if kind == "mapping":
        return {from_plain(key): from_plain(item) for key, item in plain["items"]}
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](from_plain(item) for item in plain["items"])
    module, name = plain["type"]
    of = getattr(importlib.import_module(module), name, None) if module.startswith(_OWN) else None
    if not (isinstance(of, type) and dataclasses.is_dataclass(of)):
        raise ValueError(f"a checkpoint cannot hold a {name} of {module}")
    return of(**{field: from_plain(item) for field, item in plain["fields"]})
