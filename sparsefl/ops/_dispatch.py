"""The only choice of layout: sparse kernels, or dense torch on a scratch weight."""

from typing import Literal

from sparsefl.support import Support

Layout = Literal["sparse", "dense"]

# Above this density dense torch wins (bench/results/cpu.json, crossover of the linear and
# convolution sweeps); the shipped default until a machine measures its own.
DENSE_ABOVE = 0.65


def layout(support: Support) -> Layout:
    """Return the layout that a layer with this support computes in."""
    return "dense" if support.density > DENSE_ABOVE else "sparse"
