"""What turns an operator's stored elements into weights: nothing, or the magnitudes of signs."""

from typing import NamedTuple

import torch
from torch import Tensor


class Magnitude(NamedTuple):
    """The magnitudes of a sign operator; ``None`` in its place: the stored elements are weights.

    Attributes:
        each: A magnitude for each stored element, ``[nnz]``, or None.
        constant: The magnitude of all where ``each`` is None.
    """

    each: Tensor | None
    constant: float

    def widened(self) -> "Magnitude":
        """Return it with its tensor in float32."""
        return self if self.each is None else Magnitude(self.each.float(), self.constant)


def kept_weights(stored: Tensor, magnitude: Magnitude | None) -> Tensor:
    """Return the weights on the support: the stored elements, or magnitude times their sign."""
    if magnitude is None:
        return stored
    if magnitude.each is None:
        # Exact: 2c - c = c. torch.where would make a tensor of either number at every call.
        constant = magnitude.constant
        return (stored >= 0).to(stored.dtype).mul_(2 * constant).sub_(constant)
    return torch.where(stored >= 0, magnitude.each, -magnitude.each)


def stored_gradient(kept: Tensor, magnitude: Magnitude | None) -> Tensor:
    """Return the stored elements' gradient from that of the weights (straight-through)."""
    if magnitude is None:
        return kept
    return kept * (magnitude.constant if magnitude.each is None else magnitude.each)
