"""Loads the compiled operators; every op file defines its own schemas in ``LIBRARY``."""

from pathlib import Path

import torch

LIBRARY = torch.library.Library("sparsefl", "DEF")

_PATH = Path(__file__).parent.parent / "_ops.so"
if not _PATH.exists():
    raise ImportError(
        f"sparsefl's compiled operators are missing ({_PATH.name}); "
        "build them with `pip install -e .` in the project's folder"
    )

LIBRARY.define("isa() -> str")
torch.ops.load_library(str(_PATH))


def define(schema: str) -> None:
    """Define an operator whose result does not depend on hidden state (safe to compile)."""
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def isa() -> str:
    """Return the instruction set in use: ``"scalar"``, ``"avx2"`` or ``"avx512"``.

    ``SPARSEFL_ISA`` overrides the choice when the process first asks.

    Raises:
        RuntimeError: if ``SPARSEFL_ISA`` is unknown or this machine lacks it.
    """
    return str(torch.ops.sparsefl.isa.default())
