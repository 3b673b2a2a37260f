"""Sparse federated learning whose FLOP and byte savings you can time.

Names load on first use, so that ``Support`` and ``sparsefl.codec`` work where torch is absent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsefl import codec, data, fl, models, nn, ops, pruning, reference
    from sparsefl.nn import densify, export_sign, gate, load_sign, sparsify
    from sparsefl.ops.batch_last import batch_last, row_major
    from sparsefl.profiling import profile, profile_crossover
    from sparsefl.structure import Structure
    from sparsefl.support import Support

    __version__: str

__all__ = [
    "Structure",
    "Support",
    "__version__",
    "batch_last",
    "codec",
    "data",
    "densify",
    "export_sign",
    "fl",
    "gate",
    "load_sign",
    "models",
    "nn",
    "ops",
    "profile",
    "profile_crossover",
    "pruning",
    "reference",
    "row_major",
    "sparsify",
]

_MODULES = frozenset({"codec", "data", "fl", "models", "nn", "ops", "pruning", "reference"})
_HOME_OF = {
    "Structure": "sparsefl.structure",
    "Support": "sparsefl.support",
    "batch_last": "sparsefl.ops",
    "densify": "sparsefl.nn",
    "export_sign": "sparsefl.nn",
    "gate": "sparsefl.nn",
    "load_sign": "sparsefl.nn",
    "profile": "sparsefl.profiling",
    "profile_crossover": "sparsefl.profiling",
    "row_major": "sparsefl.ops",
    "sparsify": "sparsefl.nn",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"sparsefl.{name}")
    elif name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    elif name == "__version__":
        value = importlib.import_module("importlib.metadata").version("sparsefl")
    else:
        raise AttributeError(f"module 'sparsefl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
