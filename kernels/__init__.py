"""Triton kernels and their launchers, and the plans that they read; nothing here is a default.

Importing this package loads neither torch nor triton: ``REGISTRY`` says what there is. A module of
it imports triton, which the extra ``triton`` installs.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["REGISTRY", "Kernel"]


@dataclass(frozen=True)
class Kernel:
    """A kernel that a dispatcher may choose once it is verified on the architecture at hand.

    Attributes:
        name: Under which a list of verified kernels keeps it.
        module: That holds the launcher.
        function: The launcher.
        serves: What is computed, in a few words.
        kinds: Kinds of ``sparsefl.Support`` that it takes.
    """

    name: str
    module: str
    function: str
    serves: str
    kinds: tuple[str, ...]

    def load(self) -> Callable[..., Any]:
        """Import the launcher.

        Raises:
            ImportError: where triton is not installed.
        """
        try:
            loaded = importlib.import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"the kernel {self.name} needs triton: pip install 'sparsefl[triton]' ({error})"
            ) from error
        launcher: Callable[..., Any] = getattr(loaded, self.function)
        return launcher


_BLOCK = ("block",)
_KERNELS = (
    Kernel(
        "block_dw",
        "sparsefl.kernels.block_dw",
        "block_dw",
        "weight or score gradient of a linear layer on kept blocks",
        _BLOCK,
    ),
)
REGISTRY: dict[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}
