import itertools

import pytest
import torch

from sparsefl import Support
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan, Geometry, backward_taps, forward_taps

GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1)),
    Geometry((3, 2), (2, 3), (0, 1), (2, 1)),
    Geometry((1, 1), (2, 2)),
    Geometry((2, 2), (3, 3), (2, 0), (3, 2)),
]


def listed(taps, phase):
    first, last = taps.begin[phase : phase + 2].tolist()
    return [tuple(tap) for tap in taps.taps[first:last].tolist()]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_taps_say_which_pixels_meet(geometry):
    """Every pair of an output's pixel and an input's that a tap joins is listed from both sides."""
    (height, width), kernel = (9, 8), geometry.kernel
    rows, columns = geometry.output_size(height, width)
    joined = set()
    for p, q, i, j in itertools.product(*map(range, (rows, columns, *kernel))):
        y = p * geometry.stride[0] - geometry.padding[0] + i * geometry.dilation[0]
        x = q * geometry.stride[1] - geometry.padding[1] + j * geometry.dilation[1]
        if 0 <= y < height and 0 <= x < width:
            joined.add((p, q, i * kernel[1] + j, y, x))
    forward, backward = forward_taps(geometry), backward_taps(geometry)
    down, right = geometry.stride
    found = {
        (p, q, tap, p * down + dy, q * right + dx)
        for p, q in itertools.product(range(rows), range(columns))
        for tap, dy, dx in listed(forward, 0)
        if 0 <= p * down + dy < height and 0 <= q * right + dx < width
    }
    assert found == joined
    found = {
        (y // down + dy, x // right + dx, tap, y, x)
        for y, x in itertools.product(range(height), range(width))
        for tap, dy, dx in listed(backward, y % down * right + x % right)
        if 0 <= y // down + dy < rows and 0 <= x // right + dx < columns
    }
    assert found == joined


def test_output_size_is_torchs():
    for geometry in GEOMETRIES:
        kernel, *of = geometry
        y = torch.nn.functional.conv2d(
            torch.zeros(1, 1, 9, 8), torch.zeros(1, 1, *kernel), None, *of
        )
        assert geometry.output_size(9, 8) == tuple(y.shape[2:])


def test_pack_and_unpack_are_inverse():
    support = Support.random((40, 20, 3, 2), 0.5, seed=3, structure=(32, 16))
    plan = BlockConv2dPlan.from_mask(support, (32, 16))
    weight = torch.randn(40, 20, 3, 2)
    packed = plan.pack(weight)
    assert packed.shape == plan.packed_shape == (plan.blocks.nnzb, 6, 32, 16)
    assert torch.equal(plan.unpack(packed), weight * support.to_mask())
    with pytest.raises(ValueError, match=r"weight must be \[40, 20, 3, 2\], got \[40, 20, 3, 3\]"):
        plan.pack(torch.zeros(40, 20, 3, 3))
    with pytest.raises(ValueError, match=r"values must be \[\d, 6, 32, 16\], got"):
        plan.unpack(packed[:, :5])


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match=r"mask must be \[out, in, kh, kw\], got shape \(32, 32\)"):
        BlockConv2dPlan.from_mask(torch.ones(32, 32, dtype=torch.bool), (16, 16))
    mask = torch.ones(32, 32, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="stride and dilation must be positive"):
        BlockConv2dPlan.from_mask(mask, (16, 16), stride=(0, 1))
    mask[0, 0, 1, 1] = False
    with pytest.raises(ValueError, match="block"):
        BlockConv2dPlan.from_mask(mask, (16, 16))
