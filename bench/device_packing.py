"""What ``sparsefl bench --device cuda`` times of packing: signs, bitmaps, votes, top-k, growth.

As in :mod:`sparsefl.bench.device_cases`; the baseline composes torch's operators, with what it can
know beforehand (positions as indices) at hand. ``sparsefl`` is what a user gets,
``sparsefl_kernels`` the kernels whether they are verified or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from sparsefl import ops
from sparsefl.support import Support

from .device_cases import DeviceCase, Step, bind, every_kernel

BASELINE = "torch"
# 256 MB of float32; 64 MB and more are asked for.
ELEMENTS = 1 << 26
LARGEST, SHARE = 10_000_000, 0.01
KEPT = 0.1
CLIENTS = 10
FEATURES, ROWS = 4096, (256, 4096)

# Two steps of the same: torch's, and ours.
Pair = Callable[[torch.device], tuple[Step, Step]]


def packing_cases(
    elements: int = ELEMENTS,
    largest: int = LARGEST,
    features: int = FEATURES,
    rows: tuple[int, ...] = ROWS,
) -> Iterator[DeviceCase]:
    """Yield all points.

    Args:
        elements: Of the tensors that are packed, a multiple of 8.
        largest: Elements that the largest are sought of.
        features: Of the layer that grows, both sides.
        rows: Of its inputs.
    """
    words, nnz = elements // 8, round(KEPT * elements)
    shape = {"elements": elements}
    support = Support.random((elements,), KEPT)
    yield _case("sign pack", shape, 1.0, bind(_sign_pack, elements), 4 * elements + words)
    yield _case("sign unpack", shape, 1.0, bind(_sign_unpack, elements), 4 * elements + words)
    yield _case("bitmap gather", shape, KEPT, bind(_gather, support), words + 8 * nnz)
    spread = words + 4 * nnz + 4 * elements
    yield _case("bitmap scatter", shape, KEPT, bind(_scatter, support), spread)
    yield _case("bitmap add", shape, KEPT, bind(_add, support), words + 12 * nnz)
    votes = {**shape, "clients": CLIENTS}
    moved = (CLIENTS + 1) * words
    yield _case("majority vote", votes, 1.0, bind(_vote, elements), moved)
    count = max(1, round(SHARE * largest))
    yield _case("top-k", {"elements": largest, "k": count}, SHARE, bind(_top_k, largest, count), 0)
    for batch in rows:
        layer = {"batch": batch, "in_features": features, "out_features": features}
        yield _case("growth", layer, KEPT, bind(_growth, features, batch), 0)


def _case(
    name: str, shape: Mapping[str, int], density: float, make: Pair, moved: int
) -> DeviceCase:
    def forced(device: torch.device) -> Step:
        with every_kernel():
            step = make(device)[1]

        def run() -> None:
            with every_kernel():
                step()

        return run

    steps = {
        BASELINE: lambda device: make(device)[0],
        "sparsefl": lambda device: make(device)[1],
        "sparsefl_kernels": forced,
    }
    return DeviceCase(name, shape, "float32", density, steps, moved, baseline=BASELINE)


def _drawn(elements: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return numbers, and the flag that saves a wait for whether one is NaN."""
    return torch.randn(elements, device=device), torch.zeros(1, dtype=torch.int32, device=device)


def _packed(negative: Tensor) -> Tensor:
    """Return bools as a bitmap by torch's operators."""
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=negative.device)
    return (negative.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


def _bits(packed: Tensor) -> Tensor:
    """Return a bitmap's bits, 0 or 1, by torch's operators."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> places & 1).flatten(-2)


def _sign_pack(elements: int, device: torch.device) -> tuple[Step, Step]:
    x, flag = _drawn(elements, device)
    return lambda: _packed(x < 0), lambda: ops.sign_pack(x, found_nan=flag)


def _sign_unpack(elements: int, device: torch.device) -> tuple[Step, Step]:
    x, flag = _drawn(elements, device)
    bits = ops.sign_pack(x, found_nan=flag)
    return lambda: 1.0 - 2.0 * _bits(bits), lambda: ops.sign_unpack(bits, elements)


def _positions(
    support: Support, device: torch.device
) -> tuple[ops.BitmapPlan, Tensor, Tensor, Tensor]:
    """Return a plan, the same positions as indices, a tensor of all, and values of the kept."""
    plan = ops.BitmapPlan.of(support, device)
    indices = torch.from_numpy(support.indices.copy()).to(device)
    x, _ = _drawn(support.numel, device)
    return plan, indices, x, x.index_select(0, indices)


def _gather(support: Support, device: torch.device) -> tuple[Step, Step]:
    plan, indices, x, _ = _positions(support, device)
    return lambda: x.index_select(0, indices), lambda: ops.bitmap_gather(x, plan)


def _scatter(support: Support, device: torch.device) -> tuple[Step, Step]:
    plan, indices, x, values = _positions(support, device)

    def by_torch() -> Tensor:
        return torch.zeros_like(x).index_copy_(0, indices, values)

    return by_torch, lambda: ops.bitmap_scatter(values, plan)


def _add(support: Support, device: torch.device) -> tuple[Step, Step]:
    plan, indices, x, values = _positions(support, device)

    def by_kernel() -> Tensor:
        ops.bitmap_add_(x, plan, values, 0.5)
        return x

    return lambda: x.index_add_(0, indices, values, alpha=0.5), by_kernel


def _vote(elements: int, device: torch.device) -> tuple[Step, Step]:
    packed = torch.randint(256, (CLIENTS, elements // 8), dtype=torch.uint8, device=device)

    def by_torch() -> Tensor:
        return _packed(_bits(packed).sum(0, dtype=torch.uint8) > CLIENTS // 2)

    return by_torch, lambda: ops.majority_vote(packed, elements)


def _top_k(elements: int, count: int, device: torch.device) -> tuple[Step, Step]:
    x, flag = _drawn(elements, device)
    return lambda: torch.topk(x.abs(), count), lambda: ops.top_k(x, count, found_nan=flag)


def _growth(features: int, batch: int, device: torch.device) -> tuple[Step, Step]:
    """Return how the 1 % of largest gradients at pruned positions is found."""
    support = Support.random((features, features), KEPT)
    plan = ops.LinearPlan(support).to(device)
    x, grad = (torch.randn(batch, features, device=device) for _ in range(2))
    kept = support.to_mask().to(device)
    count = max(1, round(SHARE * support.numel))

    def by_torch() -> object:
        dense = grad.t() @ x
        return dense.abs().masked_fill_(kept, -1.0).flatten().topk(count)

    return by_torch, lambda: ops.linear_growth([ops.Call(x, grad)], plan, count)
