"""``memory_pool``: what lends the operators' large results their memory, and keeps it when freed.

A training step frees its activations and asks for the same sizes again. The C library's allocator
returns such blocks to the system, so that every step pays for their pages, or keeps them in a heap
that small allocations cut into pieces too short for the next size. Results of 256 KB and more are
therefore lent from one range of addresses, in which freed neighbours become one; what lies in
memory, lent or not, is at most a sixteenth more than was lent at once of late. A tensor keeps what
it was lent as long as anything refers to it.

``SPARSEFL_MEMORY_POOL=0`` in the environment, when the process first asks, leaves all to torch's
allocator; ``poison`` fills every block with NaN first, for tests. Linux only.

A tensor's memory from the pool cannot grow: ``resize_`` beyond it raises.
"""

from typing import NamedTuple

import torch

from sparsefl.ops._library import define

define("memory_pool_counts() -> int[]")
define("memory_pool_release() -> ()")
define("memory_pool_forget_peak() -> ()")


class MemoryCounts(NamedTuple):
    """What the pool holds.

    Attributes:
        lent_bytes: What tensors hold now.
        kept_bytes: What lies in memory and is not lent.
        peak_bytes: The most that was lent at once, since :func:`forget_peak`.
        fresh_bytes: What was lent and did not lie in memory, since the process started.
        reserved_bytes: Addresses that it may lend, of memory or not; 0 where it is off.
    """

    lent_bytes: int
    kept_bytes: int
    peak_bytes: int
    fresh_bytes: int
    reserved_bytes: int


def memory_counts() -> MemoryCounts:
    """Return what the pool holds; zeros where it is switched off."""
    return MemoryCounts(*torch.ops.sparsefl.memory_pool_counts.default())


def release_memory() -> None:
    """Return what the pool keeps to the system; what tensors hold stays."""
    torch.ops.sparsefl.memory_pool_release.default()


def forget_peak() -> None:
    """Count the peak from what is lent now."""
    torch.ops.sparsefl.memory_pool_forget_peak.default()
