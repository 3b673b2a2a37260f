"""The kernels beside messages against numpy and torch, on one thread: ``codec_kernels``.

``python -m sparsefl.bench.codec_kernels`` prints a row for each op and peer, and exits with 1 where
an op is below its floor. Every result is compared with a peer's before it is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from sparsefl import codec
from sparsefl.timing import Effort, interleave, paired_ratio, stopwatch

from .rows import OURS, Row

TABLE = "codec_kernels"
ELEMENTS = 1 << 24
VOTE_POSITIONS = 1 << 22
CLIENTS = (10, 64, 100)
DENSITIES = (0.5, 0.1, 0.01, 0.001)
EFFORT = Effort(warmup=1, timed=9, probes=1, slow_s=0.3)

Calls = Mapping[str, Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An op, who computes it, and the peer and ratio that it has to reach.

    Attributes:
        op: Name in ``sparsefl.codec``.
        shape: Sizes, and the density where there is one.
        calls: For each provider what is timed; the peers that only move memory are yards.
        peer: The provider that the floor and the aim are ratios to.
        floor: Least ratio.
        aim: Ratio aimed at.
    """

    op: str
    shape: Mapping[str, float]
    calls: Calls
    peer: str
    floor: float
    aim: float


def signs(n: int = ELEMENTS) -> Iterator[Comparison]:
    """Yield packing against a read of the tensor, unpacking against a copy."""
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    bits, out = np.empty((n + 7) // 8, np.uint8), np.empty(n, np.float32)
    agree(codec.pack_signs(x), np.packbits(x < 0, bitorder="little"))
    reads = {
        "numpy_packbits": lambda: np.packbits(np.signbit(x), bitorder="little"),
        "numpy_max": x.max,
    }
    yield Comparison(
        *("pack_signs", {"n": n}, {OURS: lambda: codec.pack_signs(x, bits), **reads}),
        *("numpy_max", 0.8, 0.95),
    )
    agree(codec.unpack_signs(bits, n), np.where(x < 0, -1, 1))
    writes = {
        "numpy_unpackbits": lambda: 1 - 2 * np.unpackbits(bits, bitorder="little").astype("f4"),
        "numpy_copy": lambda: np.copyto(out, x),
    }
    yield Comparison(
        *(
            "unpack_signs",
            {"n": n},
            {OURS: lambda: codec.unpack_signs(bits, n, 1.0, out), **writes},
        ),
        *("numpy_copy", 2.7, 3.0),
    )


def largest(n: int = ELEMENTS) -> Iterator[Comparison]:
    """Yield top-k against torch's and numpy's."""
    x = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    tensor = torch.from_numpy(x)
    for density in DENSITIES:
        k = round(density * n)
        support, values = codec.top_k(x, k)
        agree(np.abs(values).min(), torch.topk(tensor.abs(), k, sorted=False).values.min().numpy())
        agree(values, x[support.to_numpy_mask().ravel()])
        calls = {
            OURS: functools.partial(codec.top_k, x, k),
            "torch": lambda k=k: torch.topk(tensor.abs(), k, sorted=False),
            "numpy": lambda k=k: np.argpartition(np.abs(x), n - k),
            "read": x.max,
        }
        if density < max(DENSITIES):
            del calls["numpy"]
        yield Comparison("top_k", {"n": n, "density": density}, calls, "torch", 40, 150)


def votes(n: int = VOTE_POSITIONS) -> Iterator[Comparison]:
    """Yield votes and means over packed signs against unpacking and adding them."""
    random = np.random.default_rng(0)
    out = np.empty(n, np.float32)
    for clients in CLIENTS:
        packed = [random.integers(0, 256, n // 8, dtype=np.uint8) for _ in range(clients)]
        tensors = [torch.from_numpy(bits) for bits in packed]
        weights = random.random(clients)
        agree(codec.majority_vote(packed, n), np.packbits(numpy_sum(packed) < 0, bitorder="little"))
        exact = torch_sum(tensors, weights).numpy() / weights.sum()
        if not np.allclose(codec.weighted_mean(packed, weights, n), exact, atol=1e-5):
            raise ValueError("weighted_mean is wrong")
        shape = {"n": n, "clients": clients}
        plain = {
            "torch": functools.partial(torch_sum, tensors),
            "numpy": functools.partial(numpy_sum, packed),
        }
        ours = functools.partial(codec.majority_vote, packed, n)
        yield Comparison("majority_vote", shape, {OURS: ours, **plain}, "torch", 80, 300)
        weighted = {
            OURS: functools.partial(codec.weighted_mean, packed, weights, n, None, out),
            "torch": functools.partial(torch_sum, tensors, weights),
        }
        yield Comparison("weighted_mean", shape, weighted, "torch", 12, 60)


def torch_sum(packed: list[torch.Tensor], weights: np.ndarray | None = None) -> torch.Tensor:
    """Unpack signs and add them, client by client, as without packed kernels."""
    places = torch.arange(8, dtype=torch.uint8)
    total = torch.zeros(packed[0].numel(), 8, dtype=torch.int32 if weights is None else None)
    for c, bits in enumerate(packed):
        ones = (bits[:, None] >> places) & 1
        signs = 1 - 2 * ones.to(total.dtype)
        total += signs if weights is None else float(weights[c]) * signs
    return total.view(-1)


def numpy_sum(packed: list[np.ndarray]) -> np.ndarray:
    """Unpack signs with ``numpy.unpackbits`` and add them, client by client."""
    total = np.full(8 * packed[0].size, len(packed), np.int16)
    for bits in packed:
        total -= np.unpackbits(bits, bitorder="little") << 1
    return total


def agree(ours: object, theirs: object) -> None:
    """Raise a ValueError where a result is not the peer's."""
    if not np.array_equal(np.asarray(ours), np.asarray(theirs)):
        raise ValueError("a result differs from its peer's")


def rows_of(comparison: Comparison, described: Row, effort: Effort = EFFORT) -> list[Row]:
    """Time the providers in turns and return a row of each."""
    runs = {name: stopwatch(call) for name, call in comparison.calls.items()}
    taken = {name: seconds[-1] for name, seconds in interleave(runs, effort).items()}
    ours = taken[OURS]
    return [
        {
            **{"table": TABLE, "op": comparison.op, "shape": dict(comparison.shape)},
            **{"provider": name, "mode": "fwd", "correct": True, "dtype": "float32"},
            **{"threads": torch.get_num_threads(), "timed_steps": effort.timed, **described},
            "median_us": round(1e6 * float(np.nanmedian(seconds)), 1),
            "times_faster": round(paired_ratio(seconds, ours), 3),
            **(
                {"floor": comparison.floor, "aim": comparison.aim}
                if name == comparison.peer
                else {}
            ),
        }
        for name, seconds in taken.items()
    ]


def rows(described: Row) -> Iterator[list[Row]]:
    """Measure the table on one thread, an op and a size at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for comparisons in (signs(), largest(), votes()):
            for comparison in comparisons:
                yield rows_of(comparison, described)
    finally:
        torch.set_num_threads(threads)


def main() -> int:
    """Print a line for each op and provider; return 1 where a floor is missed."""
    below = 0
    for found in rows({}):
        for row in found:
            sizes = ", ".join(f"{name} {size:g}" for name, size in row["shape"].items())
            text = f"{row['op']:14} {sizes:30} {row['provider']:17} {row['median_us']:10.0f} us"
            if row["provider"] != OURS:
                text += f"  ours {row['times_faster']:.2f}x as fast"
            if "floor" in row:
                text += f" (floor {row['floor']:g}, aim {row['aim']:g})"
                below += row["times_faster"] < row["floor"]
            print(text, flush=True)
    return int(below > 0)


if __name__ == "__main__":
    sys.exit(main())
