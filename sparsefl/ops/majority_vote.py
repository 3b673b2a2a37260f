"""``majority_vote``: the sign that most clients' packed signs have, on their device.

The same bits as ``sparsefl.codec.majority_vote``.

Source: Bernstein et al. 2019, "signSGD with Majority Vote is Communication Efficient and Fault
Tolerant", algorithm 1. Counted bit-sliced by carry-save adders: Harley and Seal's population count
(Warren 2013, "Hacker's Delight", section 5-2).
"""

import math
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from sparsefl._codec import vote
from sparsefl.ops import _dispatch
from sparsefl.ops._arena import check_count
from sparsefl.ops._library import LIBRARY, define
from sparsefl.reference import majority_vote as count_votes
from sparsefl.reference import pack_bits

# Clients that the kernels can count.
_MOST_CLIENTS = 65535

define("majority_vote(Tensor packed, int n, int least, bool ties) -> (Tensor, Tensor)")


@overload
def majority_vote(packed: Tensor, n: int, ties: Literal["positive"] = ...) -> Tensor: ...
@overload
def majority_vote(packed: Tensor, n: int, ties: Literal["abstain"]) -> tuple[Tensor, Tensor]: ...


def majority_vote(
    packed: Tensor, n: int, ties: Literal["positive", "abstain"] = "positive"
) -> Tensor | tuple[Tensor, Tensor]:
    """Return ``sign(sum_c s_c)`` of the clients' signs ``s_c``.

    Args:
        packed: A row for each client, ``[clients, ceil(n / 8)]`` or wider, uint8, a bit set for -1;
            bits past the last position do not count. Rows at multiples of 16 bytes are read at
            full speed.
        n: Number of positions.
        ties: What an even number of clients decides where its votes are equal: ``"positive"``, +1,
            or ``"abstain"``, nothing.

    Returns:
        Bitmap ``[ceil(n / 8)]``, uint8, a bit set for -1, zeros past the last. With
        ``ties="abstain"`` a second one, a bit set where the votes decide; where they do not, the
        first one's is clear.

    Raises:
        TypeError: if ``packed`` is no uint8 tensor, or ``n`` no integer.
        ValueError: if it does not fit, there is no client or more than 65,535, ``n`` is negative,
            or ``ties`` is neither.
    """
    n = check_count("n", n)
    _check(packed, n, ties)
    clients, least = packed.shape[0], packed.shape[0] // 2 + 1
    # An odd number of votes is never equal.
    wants = ties == "abstain" and clients % 2 == 0
    if _dispatch.verified("majority_vote", packed.device):
        rows = packed if packed.stride(1) == 1 else packed.contiguous()
        negative, tied = torch.ops.sparsefl.majority_vote.default(rows, n, least, wants)
    else:
        negative, tied = (pack_bits(v) for v in count_votes(packed, n, least))
    negative = negative[: math.ceil(n / 8)]
    if ties == "positive":
        return negative
    decided = ~tied[: math.ceil(n / 8)] if wants else torch.full_like(negative, 255)
    if n % 8:
        decided[-1:] &= (1 << n % 8) - 1
    return negative, decided


def _check(packed: Tensor, n: int, ties: str) -> None:
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8:
        got = packed.dtype if isinstance(packed, Tensor) else type(packed).__name__
        raise TypeError(f"packed: expected a uint8 tensor, got {got}")
    if n < 0:
        raise ValueError(f"n: expected 0 or more positions, got {n}")
    if packed.dim() != 2 or packed.shape[1] < math.ceil(n / 8):
        raise ValueError(
            f"packed: expected [clients, {math.ceil(n / 8)}] for {n} positions, got "
            f"{list(packed.shape)}"
        )
    if not 1 <= packed.shape[0] <= _MOST_CLIENTS:
        raise ValueError(f"packed: expected 1 to {_MOST_CLIENTS} clients, got {packed.shape[0]}")
    if ties not in ("positive", "abstain"):
        raise ValueError(f"ties: expected 'positive' or 'abstain', got {ties!r}")


@torch.library.register_fake("sparsefl::majority_vote", lib=LIBRARY)
def _(packed: Tensor, n: int, least: int, ties: bool) -> tuple[Tensor, Tensor]:
    size = (n + 31) // 32 * 4
    return packed.new_empty(size), packed.new_empty(size if ties else 0)


@torch.library.impl("sparsefl::majority_vote", "CPU", lib=LIBRARY)
def _(packed: Tensor, n: int, least: int, ties: bool) -> tuple[Tensor, Tensor]:
    size = (n + 31) // 32 * 4
    bytes_ = math.ceil(n / 8)
    negative = torch.zeros(size, dtype=torch.uint8)
    tied = torch.zeros(size if ties else 0, dtype=torch.uint8)
    rows = packed[:, :bytes_].contiguous().numpy()
    if n % 8:
        # The codec takes no bits past the last position.
        rows = rows.copy()
        rows[:, -1] &= np.uint8((1 << n % 8) - 1)
    equal = tied[:bytes_].numpy() if ties else None
    vote(list(rows), n, least, negative[:bytes_].numpy(), equal)
    return negative, tied
