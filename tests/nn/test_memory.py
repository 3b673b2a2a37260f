"""A sparse layer trains in memory of its kept weights: nothing of dense size is ever allocated."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import sparsefl
from sparsefl.measuring import forget_peak, resident_bytes
from sparsefl.ops import memory_pool

SIZE, BATCH = 4096, 16
# One dense weight, or one dense gradient.
DENSE_BYTES = 4 * SIZE * SIZE


def train(layer: nn.Module) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(BATCH, SIZE, requires_grad=True)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()


def allocations(layer: nn.Module) -> list[int]:
    """Returns the sizes of torch's allocations while the layer trains, bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        train(layer)
    events = found.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]"]


@pytest.fixture(scope="module")
def layers():
    support = sparsefl.Support.random((SIZE, SIZE), 0.01, seed=0)
    return {
        "sparse": sparsefl.nn.SparseLinear(SIZE, SIZE, support),
        "sign": sparsefl.nn.SignLinear(SIZE, SIZE, support),
    }


@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_large_layer_trains_without_an_allocation_of_dense_size(layers, kind):
    memory_pool.forget_peak()
    before = memory_pool.memory_counts().lent_bytes
    sizes = allocations(layers[kind])
    assert memory_pool.memory_counts().peak_bytes - before < DENSE_BYTES // 8
    assert max(sizes) > 0
    assert max(sizes) < DENSE_BYTES // 8
    assert sum(size for size in sizes if size > 0) < DENSE_BYTES


def test_dense_layer_is_seen_to_allocate_it():
    assert max(allocations(nn.Linear(SIZE, SIZE))) >= DENSE_BYTES


@pytest.mark.parametrize("kind", ["sparse", "sign"])
def test_kernels_need_no_dense_workspace_of_their_own(layers, kind):
    # What the kernels allocate themselves, torch does not see.
    forget_peak()
    before = resident_bytes("VmRSS")
    train(layers[kind])
    assert resident_bytes("VmHWM") - before < DENSE_BYTES
