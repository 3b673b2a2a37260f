"""Bitmaps, signs, votes and the largest elements on a CUDA device against the codec on the CPU.

What a kernel leaves unwritten would be seen: ``torch.empty`` is filled with NaN or 255 in tests.
"""

import pytest
import torch

from sparsefl import Support, ops
from sparsefl.ops import Arena, BitmapPlan

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
SIZES = (0, 1, 31, 1023, 1024, 1025, 1_100_003)
ARENAS = [(n,) for n in SIZES] + [(0, 5, 0, 1024, 2049, 1, 70_001, 0)]
EACH = pytest.mark.parametrize("sizes", ARENAS, ids=str)


def numbers(n, magnitudes=9):
    """Returns elements of which many are equal, zeros of both signs, denormals and infinities."""
    x = torch.randint(-magnitudes, magnitudes + 1, (n,)) / 4
    x[torch.rand(n) < 0.1] = -0.0
    x[torch.rand(n) < 0.1] = -1e-45
    x[torch.rand(n) < 0.02] = float("inf")
    return x


def same(on_device, expected):
    assert on_device.device.type == "cuda"
    assert (on_device.dtype, on_device.shape) == (expected.dtype, expected.shape)
    assert on_device.cpu().numpy().tobytes() == expected.numpy().tobytes()


def shifted(x):
    """Returns the elements on the device where no four of them are aligned to 16 bytes."""
    return torch.cat([x.new_zeros(1), x]).to(DEVICE)[1:]


@pytest.mark.verifies("sign_pack", "sign_unpack")
@EACH
def test_signs(sizes):
    arena = Arena(sizes)
    x = numbers(arena.numel)
    expected = ops.sign_pack(x, arena)
    for on_device in (x.to(DEVICE), shifted(x)):
        bits = ops.sign_pack(on_device, arena)
        same(bits, expected)
    same(ops.sign_unpack(bits, arena, -0.3), ops.sign_unpack(expected, arena, -0.3))


@pytest.mark.verifies("bitmap_plan", "bitmap_gather", "bitmap_scatter", "bitmap_add")
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@EACH
def test_bitmaps(sizes, density):
    supports = [Support.random((n,), density, seed=i) for i, n in enumerate(sizes)]
    here, there = BitmapPlan.of(supports), BitmapPlan.of(supports, DEVICE)
    same(there.prefix, here.prefix)
    x = numbers(sum(sizes))
    values = ops.bitmap_gather(x, here)
    same(ops.bitmap_gather(shifted(x), there), values)
    same(ops.bitmap_scatter(values.to(DEVICE), there), ops.bitmap_scatter(values, here))
    model, values = torch.randn(sum(sizes)), torch.randn(here.nnz)
    moved = model.to(DEVICE)
    ops.bitmap_add_(moved, there, values.to(DEVICE), 0.3)
    same(moved, ops.bitmap_add_(model, here, values, 0.3))


@pytest.mark.verifies("majority_vote")
@pytest.mark.parametrize("clients", [1, 2, 9, 255, 256, 700])
@pytest.mark.parametrize("n", [0, 1, 31, 1025, 100_001])
@pytest.mark.parametrize("aligned", [True, False])
def test_votes(n, clients, aligned):
    width = -(-n // 128) * 16 if aligned else (n + 7) // 8 + 1
    packed = torch.randint(256, (clients, width), dtype=torch.uint8)
    moved = packed.to(DEVICE)
    same(ops.majority_vote(moved, n), ops.majority_vote(packed, n))
    results = ops.majority_vote(moved, n, "abstain"), ops.majority_vote(packed, n, "abstain")
    for own, expected in zip(*results, strict=True):
        same(own, expected)


@pytest.mark.verifies("top_k")
@pytest.mark.parametrize("magnitudes", [0, 9, 1_000_000])
@EACH
def test_the_largest(sizes, magnitudes):
    arena, n = Arena(sizes), sum(sizes)
    x = numbers(n, magnitudes)
    for k in sorted({0, min(1, n), n // 100, n // 2, n}):
        expected = ops.top_k(x, k, arena)
        for on_device in (x.to(DEVICE), shifted(x)):
            for _ in range(2):
                found = ops.top_k(on_device, k, arena)
                same(found.plan.bits, expected.plan.bits)
                same(found.plan.prefix, expected.plan.prefix)
                same(found.values, expected.values)


@pytest.mark.verifies("sign_pack", "top_k")
def test_a_nan_is_told():
    x = numbers(5000).to(DEVICE)
    x[4999] = -float("nan")
    for call in (ops.sign_pack, lambda x, **named: ops.top_k(x, 7, **named)):
        flag = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        call(x[:4999], found_nan=flag)
        assert flag.item() == 0
        call(x, found_nan=flag)
        assert flag.item() == 1
        with pytest.raises(ValueError, match="x has a NaN"):
            call(x)


@pytest.mark.verifies("sign_pack", "bitmap_gather", "bitmap_scatter", "bitmap_add", "top_k")
def test_a_graph_captures_all():
    arena = Arena((5000, 3))
    x, flag = torch.randn(5003, device=DEVICE), torch.zeros(1, dtype=torch.int32, device=DEVICE)

    def step():
        found = ops.top_k(x, 50, arena, flag)
        rest = ops.bitmap_scatter(found.values, found.plan)
        ops.bitmap_add_(rest, found.plan, ops.bitmap_gather(x, found.plan), 0.5)
        return ops.sign_pack(x, arena, flag), rest

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(torch.randn(5003))
    graph.replay()
    for own, expected in zip(captured, step(), strict=True):
        assert torch.equal(own, expected)


@pytest.mark.verifies("sign_pack", "sign_unpack", "bitmap_gather", "bitmap_scatter", "top_k")
@pytest.mark.slow
def test_positions_past_2_to_the_31():
    n = 2**31 + 1024
    if torch.cuda.mem_get_info()[0] < 6 * 4 * n:
        pytest.skip("needs 52 GB of the device's memory")
    x = torch.ones(n, device=DEVICE)
    x[-1024::2] = -2.0
    bits = ops.sign_pack(x)
    assert not bits[:-128].any()
    same(bits[-128:], ops.sign_pack(x[-1024:].cpu()))
    found = ops.top_k(x, 512)
    assert torch.equal(found.plan.bits, bits)
    assert found.plan.prefix[-2:].tolist() == [0, 512]
    assert torch.equal(found.values, torch.full_like(found.values, -2.0))
    assert torch.equal(ops.bitmap_gather(x, found.plan), found.values)
    assert torch.equal(ops.bitmap_scatter(found.values, found.plan)[-1024:], x[-1024:].clamp(max=0))
    assert torch.equal(ops.sign_unpack(bits, n)[-1025:], x[-1025:].sign())
