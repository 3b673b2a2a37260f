"""Which layers to make sparse: from their times alone first, from the whole step's at last."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DENSE, SPARSE, RECOMMENDED = "dense", "sparse", "recommended"

# In ranks per root of the rounds: 1.645 (95 %, one side) times the 1/2 of a fair coin's deviation.
_HALF_WIDTH = 0.82


@dataclass(frozen=True)
class LayerTimes:
    """Median seconds of a layer's forward and backward pass in one step.

    Attributes:
        dense_s: Of the dense layer.
        sparse_s: Of the sparse layer as it lies in the network where every layer is sparse.
        alone_s: Of the sparse layer between dense ones, memory conversions included.
    """

    dense_s: float
    sparse_s: float
    alone_s: float

    @property
    def conversion_s(self) -> float:
        """What dense neighbours cost the sparse layer."""
        return max(self.alone_s - self.sparse_s, 0.0)


def choose(layers: Sequence[LayerTimes]) -> list[bool]:
    """Choose the layers whose sparse form makes the sum of all times smallest.

    A chain in the order of the calls: where a sparse and a dense layer meet, the sparse one pays
    its conversions, half of them on either side (all on its only side at an end of the chain).
    Exact for chains under that rule, by dynamic programming; whether the network is one, and what
    lies between its layers, only the whole step's time can tell (:func:`settle`).

    Returns:
        True for each layer to be sparse.
    """
    if not layers:
        return []
    last = len(layers) - 1
    # Of the best choices up to a layer, by that layer's state: their time and themselves.
    best: dict[bool, tuple[float, list[bool]]] = {
        sparse: (_own_s(layers[0], sparse), [sparse]) for sparse in (False, True)
    }
    for index in range(1, len(layers)):
        border = {
            False: _share_s(layers[index - 1], index - 1 in (0, last)),
            True: _share_s(layers[index], index in (0, last)),
        }
        grown = {}
        for sparse in (False, True):
            # The border is paid by whichever of the two is sparse.
            options = (
                (time_s + (border[sparse] if before != sparse else 0.0), chosen)
                for before, (time_s, chosen) in best.items()
            )
            time_s, chosen = min(options, key=lambda option: option[0])
            grown[sparse] = (time_s + _own_s(layers[index], sparse), [*chosen, sparse])
        best = grown
    return min(best.values(), key=lambda option: option[0])[1]


def _own_s(layer: LayerTimes, sparse: bool) -> float:
    return layer.sparse_s if sparse else layer.dense_s


def _share_s(layer: LayerTimes, at_end: bool) -> float:
    return layer.conversion_s if at_end else layer.conversion_s / 2


def settle(samples: Mapping[str, npt.NDArray[np.float64]]) -> str:
    """Return which of ``dense``, ``sparse`` and ``recommended`` the whole step's times favour.

    The recommendation stands unless the better of the two others is faster beyond noise: its
    median advantage over the rounds is above 1 with 95 % confidence (from the ranks, that is
    whatever the noise's distribution; of a few rounds, in all of them).

    Args:
        samples: Seconds of each, ``[rounds]``, taken in turns.
    """
    rival = min((DENSE, SPARSE), key=lambda name: float(np.nanmedian(samples[name])))
    ratios = np.sort(samples[RECOMMENDED] / samples[rival])
    rank = max(0, math.floor(len(ratios) / 2 - _HALF_WIDTH * math.sqrt(len(ratios))))
    return rival if ratios[rank] > 1.0 else RECOMMENDED
