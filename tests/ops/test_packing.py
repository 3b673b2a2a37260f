"""Bitmaps, signs, votes and the largest elements, against numpy and the codec, bit for bit.

``plain`` is what runs on accelerators whose kernels have not passed their tests there.
"""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sparsefl import Support, codec, ops, reference
from sparsefl.ops import Arena, BitmapPlan

SIZES = (0, 1, 7, 31, 1023, 1024, 1025, 5003)
ARENAS = ((0, 5, 0, 1024, 2049, 1, 0), (7,), (3, 4))


@pytest.fixture(params=["codec", "plain"])
def path(request, monkeypatch):
    """Runs a test by the codec's functions and in plain torch."""
    plain = request.param == "plain"
    monkeypatch.setattr(ops._dispatch, "verified", lambda kernel, device: not plain)
    return request.param


def numbers(n):
    """Returns elements of which many are equal, zeros of both signs, denormals and infinities."""
    x = torch.randint(-9, 10, (n,)) / 4
    x[torch.rand(n) < 0.1] = -0.0
    x[torch.rand(n) < 0.1] = -1e-45
    x[torch.rand(n) < 0.02] = float("inf")
    return x


def bits_of(mask):
    return np.packbits(np.asarray(mask), bitorder="little")


def draw_supports(sizes, density=0.3):
    return [Support.random((n,), density, seed=i) for i, n in enumerate(sizes)]


def equal_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))


@pytest.mark.parametrize("n", SIZES)
def test_signs_are_the_codecs(n, path):
    x = numbers(n)
    bits = ops.sign_pack(x)
    assert equal_bits(bits, bits_of(x < 0))
    assert equal_bits(bits, codec.pack_signs(x))
    for scale in (1.0, -0.3, 0.0):
        assert equal_bits(ops.sign_unpack(bits, n, scale), codec.unpack_signs(bits, n, scale))


def test_any_strides_and_offsets(path):
    x = numbers(61 * 70).view(61, 70)
    for view in (x.t(), x[1:, 3::2]):
        assert equal_bits(ops.sign_pack(view), codec.pack_signs(view.contiguous()))
    bits = ops.sign_pack(x)
    shifted = torch.cat([bits.new_zeros(3), bits])[3:]
    assert torch.equal(ops.sign_unpack(shifted, x.numel()), ops.sign_unpack(bits, x.numel()))


@pytest.mark.parametrize("sizes", ARENAS, ids=str)
def test_an_arena_has_the_bytes_of_each_tensor(sizes, path):
    arena = Arena(sizes)
    x = numbers(arena.numel)
    parts = x.split(sizes)
    bits = ops.sign_pack(x, arena)
    for own, part in zip(arena.split(bits), parts, strict=True):
        assert equal_bits(own, codec.pack_signs(part))
    expected = torch.cat([torch.where(part < 0, -0.5, 0.5) for part in parts])
    assert torch.equal(ops.sign_unpack(bits, arena, 0.5), expected)


@pytest.mark.parametrize("sizes", [*((n,) for n in SIZES), *ARENAS], ids=str)
def test_bitmaps_gather_scatter_and_add_as_the_codec(sizes, path):
    supports = draw_supports(sizes)
    plan = BitmapPlan.of(supports)
    x, model = numbers(sum(sizes)), torch.randn(sum(sizes))
    values = ops.bitmap_gather(x, plan)
    parts = [p.numpy() for p in x.split(sizes)]
    expected = [codec.gather(p, s.packed) for p, s in zip(parts, supports, strict=True)]
    assert equal_bits(values, np.concatenate(expected))
    for own, part in zip(plan.split(values), expected, strict=True):
        assert equal_bits(own, part)
    mask = torch.cat([s.to_mask() for s in supports])
    assert equal_bits(ops.bitmap_scatter(values, plan), torch.where(mask, x, 0.0))
    values = torch.randn(plan.nnz)
    added = model.clone()
    for support, own, part in zip(supports, added.split(sizes), plan.split(values), strict=True):
        codec.add_at(own, support.packed, part, 0.3)
    assert ops.bitmap_add_(model, plan, values, 0.3) is model
    assert equal_bits(model, added)
    assert plan.supports([(n,) for n in sizes]) == supports


def test_fused_add_rounds_once():
    generator = np.random.default_rng(0)
    n = 10_000
    values, model = (
        torch.from_numpy((generator.standard_normal(n) * 10.0**s).astype(np.float32))
        for s in (generator.integers(-3, 3, n), generator.integers(-3, 3, n))
    )
    # A sum that lies half way between two of float32 but for what float64 cannot hold.
    values[0], model[0] = 1 + 2**-23, 2.0**30
    values[1], model[1] = 2.0**-60, 1 + 2**-23
    for weight in (0.3, -1.0, 2.0**-24, 1 + 2**-23):
        expected = model.numpy().copy()
        codec.add_at(expected, bits_of(np.ones(n, bool)), values, weight)
        assert equal_bits(reference.fused_add(model, values, weight), expected)


@pytest.mark.parametrize("clients", [1, 2, 5, 8, 300])
@pytest.mark.parametrize("n", [0, 1, 31, 33, 1025])
def test_votes_are_the_codecs(n, clients, path):
    packed = torch.randint(256, (clients, (n + 7) // 8 + 3), dtype=torch.uint8)
    rows = packed[:, : (n + 7) // 8].numpy().copy()
    if n % 8:
        rows[:, -1] &= (1 << n % 8) - 1
    assert equal_bits(ops.majority_vote(packed, n), codec.majority_vote(list(rows), n))
    for own, expected in zip(
        ops.majority_vote(packed, n, "abstain"),
        codec.majority_vote(list(rows), n, "abstain"),
        strict=True,
    ):
        assert equal_bits(own, expected)


@pytest.mark.parametrize("sizes", [*((n,) for n in SIZES), *ARENAS], ids=str)
def test_the_largest_are_the_codecs(sizes, path):
    arena, n = Arena(sizes), sum(sizes)
    x = numbers(n)
    for k in sorted({0, min(1, n), n // 100, n // 2, n}):
        found = ops.top_k(x, k, arena)
        expected = codec.top_k_of_all({str(i): p for i, p in enumerate(x.split(sizes))}, k)
        assert found.plan.supports([(n,) for n in sizes]) == [e.support for e in expected.values()]
        for own, entry in zip(found.plan.split(found.values), expected.values(), strict=True):
            assert equal_bits(own, entry.values)
        assert torch.equal(ops.bitmap_gather(x, found.plan), found.values)


def test_a_nan_is_refused_or_told(path):
    x = numbers(3000)
    x[2999] = -float("nan")
    for call in (ops.sign_pack, lambda x, **named: ops.top_k(x, 7, **named)):
        with pytest.raises(ValueError, match="x has a NaN"):
            call(x)
        flag = torch.zeros(1, dtype=torch.int32)
        call(x[:2999], found_nan=flag)
        assert flag.item() == 0
        call(x, found_nan=flag)
        assert flag.item() == 1


def test_messages_of_what_a_device_packs_are_those_of_dense_tensors(path):
    shapes = {"a": (30, 41), "b": (7,)}
    schema = codec.Schema({name: (shape, "float32") for name, shape in shapes.items()})
    dense = {name: torch.randn(shape) for name, shape in shapes.items()}
    x = torch.cat([t.reshape(-1) for t in dense.values()])
    found = ops.top_k(x, 300, Arena([t.numel() for t in dense.values()]))
    supports = found.plan.supports(shapes.values())
    values = found.plan.split(found.values)
    sparse = codec.Update(
        {n: codec.Sparse(s, v) for n, s, v in zip(shapes, supports, values, strict=True)}
    )
    expected = codec.Update(codec.top_k_of_all(dense, 300))
    assert codec.encode(sparse, schema) == codec.encode(expected, schema)
    signs = codec.Update(
        {
            n: codec.Signs.from_packed(s, ops.sign_pack(v), 0.5)
            for n, s, v in zip(shapes, supports, values, strict=True)
        }
    )
    unpacked = codec.Update(
        {
            n: codec.Signs(e.support, np.where(e.values < 0, -1, 1).astype(np.int8), 0.5)
            for n, e in expected.items()
        }
    )
    assert signs == unpacked
    assert codec.encode(signs, schema) == codec.encode(unpacked, schema)


def test_values_beside_the_model_in_one_tensor_are_added():
    both = torch.arange(9.0)
    ops.bitmap_add_(both[:4], BitmapPlan.of(Support.random((4,), 1.0)), both[5:])
    assert both.tolist() == [5, 7, 9, 11, 4, 5, 6, 7, 8]


def op_arguments():
    """Yields every operator with arguments of its kernels, of an arena."""
    supports = draw_supports((5, 0, 1030))
    plan = BitmapPlan.of(supports)
    arena, n = plan.arena, plan.arena.numel
    table = arena.table(torch.device("cpu"))
    x, flag = torch.randn(n), torch.zeros(1, dtype=torch.int32)
    values = torch.randn(plan.nnz)
    yield "sign_pack", (x, table, arena.blocks, flag)
    yield "sign_pack", (x, None, 2, flag)
    yield "sign_unpack", (plan.bits, table, n, 0.5)
    yield "bitmap_plan", (plan.bits, table, n)
    yield "bitmap_gather", (x, plan.bits, plan.prefix, table, plan.nnz)
    yield "bitmap_scatter", (values, plan.bits, plan.prefix, table, n)
    yield "bitmap_add", (x, plan.bits, plan.prefix, table, values, 0.5)
    yield "majority_vote", (torch.zeros(3, 128, dtype=torch.uint8), 1000, 2, True)
    yield "top_k", (x, table, arena.blocks, 9, flag)


CALLS = pytest.mark.parametrize(
    "index", range(9), ids=[f"{i}-{name}" for i, (name, _) in enumerate(op_arguments())]
)


@CALLS
def test_operators_are_registered_soundly(index):
    name, arguments = list(op_arguments())[index]
    torch.library.opcheck(getattr(torch.ops.sparsefl, name).default, arguments)


@CALLS
def test_fake_cuda_tensors_have_the_kernels_results(index):
    name, arguments = list(op_arguments())[index]
    run = getattr(torch.ops.sparsefl, name).default
    expected = run(*arguments)
    with FakeTensorMode():
        fake = [
            torch.empty(a.shape, dtype=a.dtype, device="cuda") if isinstance(a, torch.Tensor) else a
            for a in arguments
        ]
        results = run(*fake)
    if expected is None:
        assert results is None
        return
    several = isinstance(expected, tuple)
    for own, result in zip(
        expected if several else [expected], results if several else [results], strict=True
    ):
        assert (result.shape, result.dtype) == (own.shape, own.dtype)
        assert result.device.type == "cuda"


@pytest.mark.skipif(
    not torch.backends.cuda.is_built(), reason="torch is built without CUDA, even for fake tensors"
)
def test_plain_torch_runs_on_devices_without_verified_kernels():
    with FakeTensorMode():
        x = torch.empty(3000, device="cuda")
        flag = torch.zeros(1, dtype=torch.int32, device="cuda")
        assert ops.sign_pack(x, found_nan=flag).shape == (375,)
        found = ops.top_k(x, 70, found_nan=flag)
        assert found.values.shape == (70,)
        assert found.values.device.type == "cuda"
        assert ops.bitmap_gather(x, found.plan).shape == (70,)
        assert ops.bitmap_scatter(found.values, found.plan).shape == (3000,)
        assert ops.bitmap_add_(x, found.plan, found.values) is x


def test_kernels_compile_whole(path):
    if path == "plain":
        pytest.skip("the same graph on every device")
    plan = BitmapPlan.of(draw_supports((5, 1030)))
    x, flag = torch.randn(1035), torch.zeros(1, dtype=torch.int32)

    def step(x):
        values = ops.bitmap_gather(x, plan) * 2
        return ops.bitmap_scatter(values, plan), ops.sign_pack(x, found_nan=flag)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for own, expected in zip(compiled(x), step(x), strict=True):
        assert torch.equal(own, expected)
