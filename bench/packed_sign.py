"""Exported signs for one sample against dense torch, bfloat16 and MKL's CSR: ``sign_batch_1``.

``python -m sparsefl.bench.packed_sign`` prints a row for each density, and exits with 1 where the
product by packed signs is below its floor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sparsefl import ops
from sparsefl.nn import PackedSignLinear, SignLinear
from sparsefl.support import Support
from sparsefl.timing import Effort, interleave, paired_ratio, stopwatch

from .baselines import csr
from .goals import SIGN_BATCH_1
from .rows import BASELINE, OURS, Row
from .sweeps import linear
from .tolerance import allowed_error, max_error

SIZE = 4096
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)
# Least ratios of a product of SIZE x SIZE at density .1 on two threads.
FLOOR_DENSITY, FLOORS = 0.1, {"torch_dense": 15.0, "torch_sparse": 1.5}
EFFORT = Effort(warmup=5, timed=50)
# What rounding inputs to 8 bits may cost, of the largest output.
INT8_TOLERANCE = 0.02
PEERS = ("torch_dense", "torch_bf16", "torch_sparse")
ACTIVATIONS = ("float32", "int8")
# Rounded inputs are another product: they have no part in the goals.
PROVIDERS = {"float32": OURS, "int8": f"{OURS}_int8"}

Products = Mapping[str, Callable[[], torch.Tensor]]


@torch.inference_mode()
def measure(
    density: float, size: int = SIZE, effort: Effort | None = None
) -> dict[str, dict[str, float]]:
    """Time the products of one sample, in turns, each checked first.

    Returns:
        For each provider ``us``, the median, and the ratios to each peer, for ours ``bits`` too, of
        memory a weight.

    Raises:
        ValueError: if a product is wrong.
    """
    torch.manual_seed(0)
    layer = SignLinear(size, size, Support.random((size, size), density, seed=0), bias=False)
    x, weight = torch.randn(1, size), layer.to_dense().weight
    exact = F.linear(x.double(), weight.double())
    packed = {name: PackedSignLinear.from_sign(layer, activations=name) for name in ACTIVATIONS}
    products = {**peers(x, weight), **{name: lambda p=p: p(x) for name, p in packed.items()}}
    for name, product in products.items():
        check(name, product().view_as(exact), exact, F.linear(x, weight))
    taken = {
        name: seconds[-1]
        for name, seconds in interleave(
            {name: stopwatch(product) for name, product in products.items()}, effort or EFFORT
        ).items()
    }
    found = {name: {"us": 1e6 * float(np.nanmedian(taken[name]))} for name in products}
    for name in products:
        found[name] |= {peer: paired_ratio(taken[peer], taken[name]) for peer in PEERS}
    for name, layer_of_name in packed.items():
        found[name]["bits"] = 8 * layer_of_name.signs.nbytes / size**2
    return found


def rows(
    described: Row, densities: Sequence[float] = DENSITIES, size: int = SIZE
) -> Iterator[list[Row]]:
    """Measure the table, a density at a time."""
    for density in densities:
        found = measure(density, size)
        yield [row_of(name, figures, density, size, described) for name, figures in found.items()]


def row_of(
    name: str, figures: Mapping[str, float], density: float, size: int, described: Row
) -> Row:
    """Return the row of a provider, or of ours with that kind of activations."""
    ours = name in ACTIVATIONS
    return {
        **{"table": SIGN_BATCH_1, "op": "packed_sign_linear", "shape": linear(1, size, size)},
        **{"density": density, "provider": PROVIDERS.get(name, name), "mode": "fwd"},
        **{"variant": name if ours else "inference", "correct": True, "dtype": "float32"},
        **{"threads": torch.get_num_threads(), "timed_steps": EFFORT.timed, **described},
        "median_us": round(figures["us"], 2),
        "ratio_to_dense": round(figures[BASELINE], 3),
        "ratios": {peer: round(figures[peer], 3) for peer in PEERS if peer != name},
        "bits_a_weight": round(figures["bits"], 3) if ours else None,
    }


def peers(x: torch.Tensor, weight: torch.Tensor) -> Products:
    """Return what a user has without packed signs; MKL's CSR with the sample as a vector."""
    short_x, short_weight = x.bfloat16(), weight.bfloat16()
    sparse, vector = csr(weight, weight != 0), x[0]
    return {
        "torch_dense": lambda: F.linear(x, weight),
        "torch_bf16": lambda: F.linear(short_x, short_weight),
        "torch_sparse": lambda: sparse @ vector,
    }


def check(name: str, out: torch.Tensor, exact: torch.Tensor, dense: torch.Tensor) -> None:
    """Refuse a wrong product: ours by the tolerance rule, rounded ones by what rounding may cost.

    Raises:
        ValueError: if it is wrong.
    """
    largest = exact.abs().max().item() if exact.numel() else 0.0
    allowed = INT8_TOLERANCE * largest
    if name == "float32":
        allowed = allowed_error(exact, dense)
    error = max_error(out, exact)
    if not error <= allowed:
        raise ValueError(f"{name}: error {error:.3g}, allowed {allowed:.3g}")


def main(densities: Sequence[float] = DENSITIES) -> int:
    """Print a row for each density; return 1 where a floor is missed."""
    below = 0
    print(f"{SIZE} x {SIZE}, one sample, {torch.get_num_threads()} threads, {ops.isa()}")
    for density in densities:
        found = measure(density)
        peers_us = ", ".join(f"{peer} {found[peer]['us']:.0f} us" for peer in PEERS)
        print(f"density {density}: {peers_us}")
        for name in ACTIVATIONS:
            ratios = ", ".join(f"{found[name][peer]:.1f}x {peer}" for peer in PEERS)
            us, bits = found[name]["us"], found[name]["bits"]
            print(f"  packed, {name}: {us:.0f} us, {bits:.2f} bits a weight: {ratios}")
        if density == FLOOR_DENSITY:
            below += any(found["float32"][peer] < floor for peer, floor in FLOORS.items())
    return int(below > 0)


if __name__ == "__main__":
    sys.exit(main())
