"""FedTiny's own accounting: storage by density, FLOPs by density, as its authors' lab counts them.

Huang et al., arXiv 2212.01977, and the same lab's later code. ``n`` positions, ``m`` kept, ``b``
bits a value, ``c`` columns and ``r`` rows of the weight as a matrix ``[out, rest]``.
"""

import math
from collections.abc import Iterable, Mapping

from sparsefl.fl.flops import PASSES_PER_STEP
from sparsefl.support import Support

VALUE_BITS = 32


def storage_bits(support: Support, value_bits: int = VALUE_BITS) -> int:
    """Return what the paper counts for a sparse weight.

    =====================  =======  =======================================================
    density                format   bits
    =====================  =======  =======================================================
    at least 0.9           dense    ``n b``
    at least 0.3           bitmap   ``n + m b``
    at least 0.1           COO      ``m ceil(log2 n) + m b``
    below                  CSR      ``m ceil(log2 c) + r ceil(log2 m) + m b``; CSC if less
    =====================  =======  =======================================================
    """
    n, m, density = support.numel, support.nnz, support.density
    if density >= 0.9:
        return n * value_bits
    if density >= 0.3:
        return n + m * value_bits
    if density >= 0.1:
        return coo_bits(n, m, value_bits)
    rows = support.shape[0]
    sides = ((rows, n // rows), (n // rows, rows))
    pointers = min(m * _index_bits(other) + side * _index_bits(m) for side, other in sides)
    return pointers + m * value_bits


def coo_bits(numel: int, count: int, value_bits: int = VALUE_BITS) -> int:
    """Return the bits of ``count`` pairs of index and value: also of the gradients sent up."""
    return count * (_index_bits(numel) + value_bits)


def model_bytes(supports: Iterable[Support], parameters: int) -> int:
    """Return the bytes of a model: sparse weights, and 4 bytes for every other parameter."""
    return math.ceil(sum(map(storage_bits, supports)) / 8) + 4 * parameters


def sparse_forward_flops(supports: Mapping[str, Support], forward: Mapping[str, int]) -> float:
    """Return ``F_s = sum_l density_l F_l`` for the layers' dense FLOPs ``F_l``."""
    return sum(f * (supports[n].density if n in supports else 1.0) for n, f in forward.items())


def round_flops(dense: float, sparse: float, steps: int, adjusts: bool = False) -> float:
    """Return the FLOPs of a round of local training.

    ``3 F_s E``, and ``3 F_s (E - 1) + F_s + 2 F_d`` where the masks are adjusted: the paper counts
    the dense gradients of one step.

    Args:
        dense: ``F_d``, one forward pass of the dense model.
        sparse: ``F_s``.
        steps: ``E``.
        adjusts: Whether it is a round of adjustment.
    """
    plain = PASSES_PER_STEP * sparse
    return plain * (steps - 1) + sparse + 2 * dense if adjusts else plain * steps


def _index_bits(positions: int) -> int:
    return math.ceil(math.log2(positions)) if positions > 1 else 0
