"""What ``codec_speed`` times beside messages: signs, the largest elements, votes and means."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from sparsefl import codec

from ..rows import OURS
from . import inputs, peers
from .steps import Step, copy_step

# What a kernel does, where a message would be encoded or decoded.
MODE = "fwd"
# A pass over a tensor that leaves nothing: the yardstick of what reads much and writes little.
READ = "numpy_max"
# Densities of the largest elements at which numpy's partition is timed too, which takes seconds.
SHOWN_NUMPY = (0.5,)
# What float32 sums of the signs of 1,000 clients are off by, at most, and how many are looked at:
# in float64 all of them would take longer than what is timed.
TOLERANCE, CHECKED = 1e-4, 1 << 16


def pack_steps(numel: int) -> list[Step]:
    """Prepare packing of signs; the yardstick reads the tensor."""
    x = inputs.normal(numel)
    bits = np.empty((numel + 7) // 8, np.uint8)
    expected = np.packbits(x < 0, bitorder="little")
    same = functools.partial(np.array_equal, expected)
    return [
        Step(OURS, "", MODE, lambda: codec.pack_signs(x, bits), same),
        Step(*("numpy_packbits", "", MODE), lambda: np.packbits(x < 0, bitorder="little"), same),
        Step(READ, "", MODE, x.max, lambda most: bool((x <= most).all())),
    ]


def unpack_steps(numel: int) -> list[Step]:
    """Prepare unpacking of signs into memory that is there; the yardstick copies as much."""
    x = inputs.normal(numel)
    bits, out = codec.pack_signs(x), np.empty(numel, np.float32)
    expected = np.where(x < 0, np.float32(-1), np.float32(1))
    same = functools.partial(np.array_equal, expected)

    def by_numpy() -> peers.Array:
        return 1 - 2 * np.unpackbits(bits, count=numel, bitorder="little").astype(np.float32)

    return [
        copy_step(x),
        Step(OURS, "", MODE, lambda: codec.unpack_signs(bits, numel, 1.0, out), same),
        Step("numpy_unpackbits", "", MODE, by_numpy, same),
    ]


def largest_steps(numel: int, density: float) -> list[Step]:
    """Prepare the largest elements; the yardstick is torch's, which says where they are."""
    x = inputs.normal(numel)
    kept = inputs.largest(x, density)
    count = kept.support.nnz
    tensor = torch.from_numpy(x)

    def right(found: torch.Tensor | peers.Array) -> bool:
        """Ties are theirs to break: the magnitudes are to be the same."""
        magnitudes = np.sort(np.abs(x[np.asarray(found)]))
        return bool(np.array_equal(magnitudes, np.sort(np.abs(kept.values))))

    steps = [
        Step(
            *(OURS, "", MODE),
            lambda: codec.top_k(x, count),
            lambda found: found[0] == kept.support and np.array_equal(found[1], kept.values),
        ),
        Step(
            *("torch", "", MODE),
            lambda: torch.topk(tensor.abs(), count, sorted=False).indices,
            right,
        ),
        Step(READ, "", MODE, x.max, lambda most: bool((x <= most).all())),
    ]
    if density in SHOWN_NUMPY:
        steps.append(
            Step(
                *("numpy", "", MODE),
                lambda: np.argpartition(np.abs(x), numel - count)[numel - count :],
                right,
            )
        )
    return steps


def packed_signs(numel: int, clients: int) -> list[peers.Array]:
    """Draw the signs of clients, ``[numel / 8]`` each."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, numel // 8, dtype=np.uint8) for _ in range(clients)]


def vote_steps(numel: int, clients: int) -> list[Step]:
    """Prepare a majority's vote; torch and numpy unpack each client's signs and add them."""
    packed = packed_signs(numel, clients)
    tensors = [torch.from_numpy(bits) for bits in packed]
    total = numpy_sum(packed)
    return [
        Step(
            *(OURS, "", MODE),
            lambda: codec.majority_vote(packed, numel),
            functools.partial(np.array_equal, np.packbits(total < 0, bitorder="little")),
        ),
        Step(
            *("torch", "", MODE),
            lambda: torch_sum(tensors),
            lambda found: np.array_equal(found, total),
        ),
        Step(
            *("numpy", "", MODE),
            lambda: numpy_sum(packed),
            functools.partial(np.array_equal, total),
        ),
    ]


def mean_steps(numel: int, clients: int) -> list[Step]:
    """Prepare a weighted mean of signs; torch unpacks each client's and adds them."""
    packed = packed_signs(numel, clients)
    tensors = [torch.from_numpy(bits) for bits in packed]
    weights = np.random.default_rng(1).random(clients)
    out = np.empty(numel, np.float32)
    exact = numpy_mean([bits[: CHECKED // 8] for bits in packed], weights)

    def right(found: torch.Tensor | peers.Array) -> bool:
        looked_at = np.asarray(found)[: exact.size]
        return len(found) == numel and bool(np.allclose(looked_at, exact, rtol=0, atol=TOLERANCE))

    return [
        Step(
            *(OURS, "", MODE),
            lambda: codec.weighted_mean(packed, weights, numel, None, out),
            right,
        ),
        Step("torch", "", MODE, lambda: torch_mean(tensors, weights), right),
    ]


def torch_sum(packed: Sequence[torch.Tensor]) -> torch.Tensor:
    """Unpack signs and add them, client by client, as without packed kernels."""
    total = torch.zeros(packed[0].numel(), 8, dtype=torch.int32)
    for bits in packed:
        total += 1 - 2 * _unpacked(bits).to(torch.int32)
    return total.view(-1)


def torch_mean(packed: Sequence[torch.Tensor], weights: peers.Array) -> torch.Tensor:
    """Unpack signs and add them in float32, weighted."""
    total = torch.zeros(packed[0].numel(), 8)
    for bits, weight in zip(packed, weights / weights.sum(), strict=True):
        total += float(weight) * (1 - 2 * _unpacked(bits).to(torch.float32))
    return total.view(-1)


def _unpacked(bits: torch.Tensor) -> torch.Tensor:
    return (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1


def numpy_sum(packed: Sequence[peers.Array]) -> peers.Array:
    """Unpack signs with ``numpy.unpackbits`` and add them, client by client."""
    total = np.full(8 * packed[0].size, len(packed), np.int16)
    for bits in packed:
        total -= np.unpackbits(bits, bitorder="little") << 1
    return total


def numpy_mean(packed: Sequence[peers.Array], weights: peers.Array) -> peers.Array:
    """Compute the weighted mean in float64."""
    total = np.zeros(8 * packed[0].size)
    for bits, weight in zip(packed, weights, strict=True):
        total += weight * (1.0 - 2.0 * np.unpackbits(bits, bitorder="little"))
    return total / weights.sum()
