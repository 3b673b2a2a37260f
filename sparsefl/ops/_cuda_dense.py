"""``dense_weight``, ``kept_gradient`` and ``transpose`` on CUDA devices, in plain torch.

Positions are found when a layer moves to the device; a step copies by them, without synchronising
or sizes that depend on data, so that it can be captured in a CUDA graph. No position is met twice,
and so the results are deterministic.
"""

import torch
from torch import Tensor

from sparsefl.ops._library import LIBRARY
from sparsefl.ops._magnitude import Magnitude, kept_weights, stored_gradient


def dense_weight(
    stored: Tensor,
    magnitudes: Tensor | None,
    constant: float,
    signs: bool,
    begin: Tensor,
    positions: Tensor,
    position: Tensor | None,
    work: Tensor,
    block: int,
    out: Tensor,
) -> None:
    """Write the weights at their positions into ``out``, contiguous, and zero elsewhere.

    Args:
        stored: Values or scores, ``[nnz]``.
        magnitudes: Of a sign operator's weights, ``[nnz]``, or None: all have the ``constant`` one.
        constant: See ``magnitudes``.
        signs: Whether this is of a sign operator.
        begin: Of the flat view (:class:`sparsefl.ops._view.View`).
        positions: Its ``columns``.
        position: Not read.
        work: Not read.
        block: Not read.
        out: What is written.
    """
    magnitude = Magnitude(magnitudes, constant) if signs else None
    out.zero_().view(-1).index_copy_(0, positions, kept_weights(stored, magnitude))


def kept_gradient(
    dense: Tensor,
    magnitudes: Tensor | None,
    constant: float,
    signs: bool,
    begin: Tensor,
    positions: Tensor,
    position: Tensor | None,
    work: Tensor,
    block: int,
) -> Tensor:
    """Return the stored elements' gradient, ``[nnz]``, from the dense weight's, contiguous."""
    magnitude = Magnitude(magnitudes, constant) if signs else None
    return stored_gradient(dense.view(-1).index_select(0, positions), magnitude)


def transpose(x: Tensor) -> Tensor:
    """Return a contiguous copy of the transpose of ``x``, ``[rows, columns]``."""
    return x.t().clone(memory_format=torch.contiguous_format)


for _name, _function in (
    ("dense_weight", dense_weight),
    ("kept_gradient", kept_gradient),
    ("transpose", transpose),
):
    LIBRARY.impl(_name, _function, "CUDA")
