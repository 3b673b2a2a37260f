"""The C library's allocator: what the command line asks of it, and how it is described.

glibc gives freed memory at the end of its heap back to the system and maps large blocks afresh. A
training step frees its activations all at once, so that each step pays for their pages again: on a
virtual machine 1 to 5 us for 4 KB, up to a third of a small convolution.
"""

import ctypes
import gc
import os
import platform

# mallopt's parameters (malloc.h), and glibc's largest threshold for mapped blocks on 64 bits.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _MAPPED_FROM_BYTES = 1 << 30, 32 << 20

_state = {"kept": False}


def keep_freed_memory() -> bool:
    """Ask glibc to keep up to 1 GiB of freed memory; return whether it does so.

    Nothing is asked where the environment says how to allocate (``MALLOC_*``, ``GLIBC_TUNABLES``,
    ``LD_PRELOAD``), nor of another C library.
    """
    if _asked_for() or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    _state["kept"] = bool(
        mallopt(_MMAP_THRESHOLD, _MAPPED_FROM_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    )
    return _state["kept"]


def give_back() -> None:
    """Return freed memory to the system, so that what is resident is what is held."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def describe_allocator() -> str:
    """Name the C library, what the environment asks of its allocator, and what was asked here."""
    asked = str(_asked_for() or ("keeps freed memory" if _state["kept"] else "defaults"))
    return f"{' '.join(platform.libc_ver())} {asked}"


def _asked_for() -> dict[str, str]:
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    return {k: v for k, v in os.environ.items() if k.startswith(names)}
