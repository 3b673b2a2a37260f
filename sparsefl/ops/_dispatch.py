"""The only choice of layout: sparse kernels, or dense torch on a scratch weight."""

import math
from typing import Literal

from sparsefl.ops._gated import GatedGeometry
from sparsefl.ops._library import isa
from sparsefl.support import Support

Layout = Literal["sparse", "dense"]
PackedLayout = Literal["triples", "lists"]

# Above this density dense torch wins (bench/results/cpu.json, crossover of the linear and
# convolution sweeps); the shipped default until a machine measures its own.
DENSE_ABOVE = 0.65
# Below so many output pixels the gated kernels' vectors of pixels are mostly empty.
LEAST_GATED_PIXELS = 16


def layout(support: Support) -> Layout:
    """Return the layout that a layer with this support computes in."""
    return "dense" if support.density > DENSE_ABOVE else "sparse"


# Columns that a list's uint16 can name.
MOST_LISTED = 65536
# Up to this density lists of a linear layer's packed signs take less time than triples for one
# sample: 0.13 and 0.21 ms at density .03 of 4096 x 4096, both 0.2 ms at .05, with AVX-512, which
# looks up 16 rows at a time. Elsewhere, from this many samples on, and for convolutions (0.26 and
# 0.73 ms for 64 channels of 32 x 32 at .1) lists are faster up to twice the density at which they
# take more memory than the 1.78 bits a weight of triples.
_LISTS_BELOW = {"avx512": 0.05}
_MANY_SAMPLES = 8
_LISTS_SMALLER_BELOW = 1.78 / 16


def packed_layout(support: Support, batch_size: int) -> PackedLayout:
    """Return the layout that holds a sign layer's packed weight, for batches of this size."""
    rows = support.shape[0]
    columns = support.numel // rows if rows else 0
    limit = _LISTS_SMALLER_BELOW
    if batch_size < _MANY_SAMPLES and len(support.shape) == 2:
        limit = _LISTS_BELOW.get(isa(), limit)
    return "lists" if support.density <= limit and columns <= MOST_LISTED else "triples"


def gated_layout(geometry: GatedGeometry, height: int, width: int) -> Layout:
    """Return the layout that a gated convolution of images of that size computes in."""
    pixels = math.prod(geometry.output_size(height, width))
    return "dense" if pixels < LEAST_GATED_PIXELS else "sparse"
