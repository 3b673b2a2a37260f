"""Packed signs on CUDA devices: no kernel reads them there, and the error says what to do."""

from typing import Any, NoReturn

from sparsefl.ops._library import LIBRARY


def refuse(*_: Any) -> NoReturn:
    """Refuse to multiply with packed signs.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "packed signs are multiplied on the CPU only: move model and input there, or run "
        "sparsefl.densify(model) on this device"
    )


for _name in ("packed_sign_linear", "packed_sign_conv2d"):
    LIBRARY.impl(_name, refuse, "CUDA")
