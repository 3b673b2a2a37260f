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
        name: Of the launcher, under which a list of verified kernels keeps it.
        file: Module of this package that holds the launcher.
        serves: What is computed, in a few words.
        kinds: Kinds of ``sparsefl.Support`` that it takes.
    """

    name: str
    file: str
    serves: str
    kinds: tuple[str, ...]

    def load(self) -> Callable[..., Any]:
        """Import the launcher.

        Raises:
            ImportError: where triton is not installed.
        """
        try:
            loaded = importlib.import_module(f"{__name__}.{self.file}")
        except ImportError as error:
            raise ImportError(
                f"the kernel {self.name} needs triton: pip install 'sparsefl[triton]' ({error})"
            ) from error
        launcher: Callable[..., Any] = getattr(loaded, self.name)
        return launcher


_BLOCK = ("block",)
_ANY = ("unstructured", "block", "rows", "columns")
_KERNELS = (
    Kernel("block_dw", "block_dw", "weight or score gradient of a linear layer", _BLOCK),
    Kernel("block_linear", "block_linear", "output of a linear layer", _BLOCK),
    Kernel("block_linear_dx", "block_linear", "its input gradient", _BLOCK),
    Kernel("sign_linear", "sign_linear", "output of a linear layer of packed signs", _BLOCK),
    Kernel("sign_linear_dx", "sign_linear", "its input gradient", _BLOCK),
    Kernel("masked_linear", "masked_linear", "output of a linear layer of few rows", _ANY),
    Kernel("masked_linear_dx", "masked_linear", "its input gradient", _ANY),
    Kernel("masked_dw", "masked_dw", "weight gradient of a linear layer at kept positions", _ANY),
    Kernel("block_conv2d", "block_conv2d", "output of a convolution", _BLOCK),
    Kernel("block_conv2d_dx", "block_conv2d", "its input gradient", _BLOCK),
    Kernel("block_conv2d_dw", "block_conv2d_dw", "its weight or score gradient", _BLOCK),
    Kernel("sign_conv2d", "sign_conv2d", "output of a convolution of packed signs", _BLOCK),
    Kernel("sign_conv2d_dx", "sign_conv2d", "its input gradient", _BLOCK),
    Kernel("gather_signs", "gather_signs", "packed signs of a layer's scores", ()),
    Kernel("seeded_normal", "normal", "frozen weights of a seed", ()),
    Kernel("linear_growth", "growth", "largest weight gradients at pruned positions", _ANY),
    Kernel("conv2d_growth", "conv2d_growth", "the same of a convolution", _ANY),
)
REGISTRY: dict[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}
