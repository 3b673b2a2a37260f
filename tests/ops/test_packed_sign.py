"""Products with packed signs against dense torch in float64."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsefl import ops, reference
from sparsefl.ops import packed_sign

DENSITIES = (0.0, "one", 0.01, 0.1, 0.5, 1.0)
LAYOUTS = ("triples", "lists")
# Rows and columns around the 32 of a block, the 9 of a word and the 252 of a run of words.
SHAPES = ((1, 1), (7, 9), (32, 8), (33, 10), (65, 257), (63, 252), (129, 505), (160, 63), (4, 0))
MAGNITUDE = 0.37

CONVOLUTIONS = {
    "plain": ((2, 3, 8, 9), (5, 3, 3, 3), {}),
    "padded": ((1, 4, 5, 6), (33, 4, 3, 3), {"padding": (1, 1)}),
    "strided": ((3, 4, 11, 8), (6, 4, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilated": ((1, 2, 9, 7), (3, 2, 3, 3), {"dilation": (2, 1), "padding": (2, 1)}),
    "grouped": ((2, 6, 6, 5), (66, 3, 3, 3), {"groups": 2, "padding": (1, 1)}),
    "depthwise": ((1, 5, 6, 6), (5, 1, 3, 3), {"groups": 5, "padding": (1, 1)}),
    "same": ((1, 3, 9, 8), (4, 3, 5, 5), {"padding": "same"}),
    "pointwise": ((2, 17, 3, 3), (9, 17, 1, 1), {}),
    "wide": ((1, 30, 4, 4), (70, 30, 3, 3), {"padding": (1, 1)}),
    "empty-batch": ((0, 3, 6, 7), (4, 3, 3, 3), {}),
}


def make_signs(shape: tuple[int, ...], density: float | str) -> Tensor:
    """Returns an int8 tensor of -1, 0 and +1; ``"one"`` keeps a single element."""
    negative = torch.rand(shape) < 0.5
    kept = torch.rand(shape) < (0 if density == "one" else density)
    if density == "one" and kept.numel():
        kept.view(-1)[torch.randint(kept.numel(), ())] = True
    return torch.where(negative, -1, 1).to(torch.int8) * kept


def bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.bool().reshape(-1).numpy(), bitorder="little"))


def pack(signs: Tensor, layout: str, groups: int = 1) -> ops.PackedSigns:
    kept = signs != 0
    return ops.pack_signs(
        bits(kept), bits(signs[kept] < 0), tuple(signs.shape), layout, groups=groups
    )


def rounded(x: Tensor) -> Tensor:
    """Returns every sample of ``x`` rounded to 255 levels, float64."""
    if x.numel() == 0:
        return x.double()
    flat = x.reshape(len(x), -1)
    scale = flat.abs().amax(1, keepdim=True).double().clamp_min(1e-300) / 127
    return ((flat.double() / scale).round() * scale).reshape(x.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [0, 1, 2, 17, 64], ids=lambda b: f"batch={b}")
@pytest.mark.parametrize(
    ("shape", "density"),
    [*itertools.product(SHAPES, [0.1]), *itertools.product([(65, 257)], DENSITIES)],
    ids=str,
)
def test_linear_matches_dense_torch(
    shape: tuple[int, int],
    density: float | str,
    batch: int,
    layout: str,
    assert_matches: Callable[..., None],
) -> None:
    signs, bias = make_signs(shape, density), torch.randn(shape[0])
    x = torch.randn(batch, shape[1])
    y = ops.packed_sign_linear(x, pack(signs, layout), MAGNITUDE, bias)
    weight = MAGNITUDE * signs.double()
    expected = F.linear(x.double(), weight, bias.double())
    assert_matches(y, expected, F.linear(x, weight.float(), bias), "output")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 5], ids=lambda b: f"batch={b}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_with_int8_activations_is_that_of_rounded_inputs(
    shape: tuple[int, int], batch: int, layout: str
) -> None:
    signs, bias = make_signs(shape, 0.5), torch.randn(shape[0])
    x = torch.randn(batch, shape[1]) * 100
    y = ops.packed_sign_linear(x, pack(signs, layout), MAGNITUDE, bias, activations="int8")
    expected = F.linear(rounded(x), MAGNITUDE * signs.double(), bias.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-4)


def test_int8_error_is_a_hundredth_of_the_outputs() -> None:
    signs = make_signs((500, 1000), 0.3)
    x = torch.randn(3, 1000)
    exact = ops.packed_sign_linear(x, pack(signs, "triples"), 1.0)
    close = ops.packed_sign_linear(x, pack(signs, "triples"), 1.0, activations="int8")
    assert 0 < (close - exact).std() < 0.01 * exact.std()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_int8_sums_at_their_limit_stay_exact(layout: str) -> None:
    signs = torch.ones(40, 1000, dtype=torch.int8)
    y = ops.packed_sign_linear(
        torch.full((1, 1000), 127.0), pack(signs, layout), 1.0, activations="int8"
    )
    assert (y == 127_000).all()
    y = ops.packed_sign_linear(
        torch.full((1, 1000), -127.0), pack(signs, layout), 1.0, activations="int8"
    )
    assert (y == -127_000).all()


@pytest.mark.parametrize("activations", ["float32", "int8"])
def test_layouts_and_batches_agree(activations: str) -> None:
    signs = make_signs((70, 300), 0.2)
    x = torch.randn(19, 300)
    results = [
        ops.packed_sign_linear(x, pack(signs, layout), MAGNITUDE, activations=activations)
        for layout in LAYOUTS
    ]
    each = [
        ops.packed_sign_linear(row, pack(signs, layout), MAGNITUDE, activations=activations)
        for layout in LAYOUTS
        for row in x[:3]
    ]
    tolerance = 0 if activations == "int8" else 1e-5
    for result in (results[1], torch.stack([*each[:3]]), torch.stack([*each[3:]])):
        torch.testing.assert_close(
            result, results[0][: len(result)], rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_matches_dense_torch(
    name: str, activations: str, layout: str, assert_matches: Callable[..., None]
) -> None:
    x_shape, shape, geometry = CONVOLUTIONS[name]
    signs, bias, x = make_signs(shape, 0.3), torch.randn(shape[0]), torch.randn(x_shape)
    options = {k: v for k, v in geometry.items() if k != "groups"}
    packed = pack(signs, layout, groups=geometry.get("groups", 1))
    y = ops.packed_sign_conv2d(x, packed, MAGNITUDE, bias, **options, activations=activations)
    weight = MAGNITUDE * signs.double()
    seen = rounded(x) if activations == "int8" else x.double()
    expected = F.conv2d(seen, weight, bias.double(), **geometry)
    assert y.is_contiguous()
    if activations == "int8":
        torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-5)
    else:
        dense = F.conv2d(x, weight.float(), bias, **geometry)
        assert_matches(y, expected, dense, "output")


@pytest.mark.parametrize("threads", [1, 2])
def test_large_products_in_parallel(threads: int, assert_matches: Callable[..., None]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        signs, x = make_signs((1500, 1201), 0.2), torch.randn(40, 1201)
        weight = signs.double()
        for layout, batch in itertools.product(LAYOUTS, (1, 40)):
            y = ops.packed_sign_linear(x[:batch], pack(signs, layout), 1.0)
            exact = F.linear(x[:batch].double(), weight)
            assert_matches(y, exact, F.linear(x[:batch], weight.float()), layout)
        few = pack(signs[:40], "triples")
        y = ops.packed_sign_linear(x.repeat(60, 1), few, 1.0)
        exact = F.linear(x.double(), weight[:40]).repeat(60, 1)
        assert_matches(y, exact, exact.float(), "many samples, few rows")
        image = torch.randn(3, 100, 9, 9)
        kernel = make_signs((64, 100, 3, 3), 0.2)
        y = ops.packed_sign_conv2d(image, pack(kernel, "triples"), 1.0)
        exact = F.conv2d(image.double(), kernel.double())
        assert_matches(y, exact, F.conv2d(image, kernel.float()), "convolution")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), [((65, 257), 1), ((66, 3, 3, 3), 2), ((3, 7), 1)])
def test_unpacking_gives_the_bits_back(
    shape: tuple[int, ...], groups: int, density: float | str, layout: str
) -> None:
    signs = make_signs(shape, density)
    packed = pack(signs, layout, groups)
    kept = signs != 0
    support, negative = packed.unpack()
    assert torch.equal(support, bits(kept))
    assert torch.equal(negative, bits(signs[kept] < 0))
    assert packed.nnz == int(kept.sum())
    assert packed.nbytes == ops.packed_nbytes(shape, packed.nnz, layout, groups)


def test_bits_a_weight() -> None:
    signs = make_signs((1024, 1152), 0.1)
    assert pack(signs, "triples").nbytes * 8 / signs.numel() < 1.78
    assert pack(signs, "lists").nbytes * 8 / signs.numel() < 1.7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_and_deep_inputs(layout: str) -> None:
    signs = make_signs((33, 20), 0.4)
    packed = pack(signs, layout)
    x = torch.randn(20, 3, 5).permute(1, 2, 0)
    y = ops.packed_sign_linear(x, packed, 1.0)
    torch.testing.assert_close(y, F.linear(x, signs.float()))
    assert ops.packed_sign_linear(x[0, 0], packed, 1.0).shape == (33,)
    batch_last = reference.batch_last(torch.randn(4, 20))
    torch.testing.assert_close(
        ops.packed_sign_linear(batch_last, packed, 1.0), F.linear(batch_last, signs.float())
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_int8_of_what_is_not_finite_is_nan_for_that_sample_alone(bad: float) -> None:
    x = torch.randn(2, 30)
    x[1, 7] = bad
    y = ops.packed_sign_linear(
        x, pack(make_signs((8, 30), 0.5), "triples"), 1.0, activations="int8"
    )
    assert torch.isfinite(y[0]).all()
    assert torch.isnan(y[1]).all()


def test_int8_of_zeros_and_of_tiny_inputs() -> None:
    packed = pack(torch.ones(3, 4, dtype=torch.int8), "triples")
    assert not ops.packed_sign_linear(torch.zeros(1, 4), packed, 1.0, activations="int8").any()
    tiny = torch.full((1, 4), 1e-37)
    y = ops.packed_sign_linear(tiny, packed, 1.0, activations="int8")
    torch.testing.assert_close(y, torch.full((1, 3), 4e-37), rtol=1e-5, atol=0)


def test_operators_are_well_formed() -> None:
    packed, x = pack(make_signs((33, 20), 0.4), "triples"), torch.randn(3, 20)
    arguments = (x, packed.begin, packed.data, 33, 0.5, torch.randn(33), False)
    torch.library.opcheck(torch.ops.sparsefl.packed_sign_linear.default, arguments)
    kernel, image = pack(make_signs((5, 4, 3, 3), 0.4), "lists"), torch.randn(2, 4, 6, 6)
    geometry = [5, 4, 1, 6, 6, 4, 4, 3, 3, 1, 1, 0, 0, 1, 1]
    arguments = (image, kernel.begin, kernel.data, 0.5, None, True, geometry)
    torch.library.opcheck(torch.ops.sparsefl.packed_sign_conv2d.default, arguments)


GOOD = {"x": torch.zeros(2, 20), "magnitude": 1.0, "bias": None, "activations": "float32"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 20).double()}, TypeError, "x: expected float32, got torch.float64"),
        ({"x": torch.zeros(2, 19)}, ValueError, r"x: expected \[..., 20\]"),
        ({"x": [1.0]}, TypeError, "x: expected a tensor, got list"),
        ({"magnitude": -1.0}, ValueError, "magnitude: expected a finite number"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias: expected shape \[33\]"),
        ({"activations": "int4"}, ValueError, "activations: expected 'float32' or 'int8'"),
        ({"x": torch.zeros(2, 20, requires_grad=True)}, RuntimeError, "packed signs have none"),
    ],
    ids=lambda v: str(v)[:30] if not isinstance(v, dict) else next(iter(v)),
)
def test_bad_arguments_are_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {**GOOD, **change}
    signs = pack(make_signs((33, 20), 0.4), "triples")
    with pytest.raises(error, match=message):
        ops.packed_sign_linear(arguments.pop("x"), signs, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2), torch.zeros(0), (3, 4), "lists"), TypeError, "support: expected a uint8"),
        ((bits(torch.ones(9)), bits(torch.ones(8)), (3, 4), "lists"), ValueError, "negative"),
        ((bits(torch.ones(16)), bits(torch.ones(0)), (3, 3), "lists"), ValueError, "past the last"),
        ((bits(torch.zeros(9)), bits(torch.ones(0)), (3, 3), "dense"), ValueError, "layout"),
        ((bits(torch.zeros(9)), bits(torch.ones(0)), (3, 3, 1), "lists"), ValueError, "shape"),
        ((bits(torch.zeros(8)), bits(torch.ones(0)), (2, 4), "lists", 3), ValueError, "groups=3"),
        (
            (bits(torch.zeros(65537)), bits(torch.ones(0)), (1, 65537), "lists"),
            ValueError,
            "at most 65536",
        ),
    ],
)
def test_bad_bitmaps_are_refused(
    arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.pack_signs(*arguments)


def test_convolution_of_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than the kernel"):
        ops.packed_sign_conv2d(
            torch.zeros(1, 2, 2, 2), pack(make_signs((3, 2, 3, 3), 0.5), "lists"), 1.0
        )


def test_more_kept_elements_than_lists_can_count_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(packed_sign, "MOST_KEPT", 11)
    pack(make_signs((1, 11), 1.0), "lists")
    with pytest.raises(ValueError, match="at most 11 kept elements, there are 12"):
        pack(make_signs((1, 12), 1.0), "lists")
