"""Convolutions by blocks of channels, of values and of signs: all three passes against torch's."""

import pytest
import torch
from torch.nn.functional import conv2d

from sparsefl.kernels.block_conv2d import block_conv2d, block_conv2d_dx
from sparsefl.kernels.block_conv2d_dw import block_conv2d_dw
from sparsefl.kernels.block_plan import pack_block_signs
from sparsefl.kernels.conv2d_plan import BlockConv2dPlan
from sparsefl.kernels.sign_conv2d import sign_conv2d, sign_conv2d_dx

VALUES = pytest.mark.verifies("block_conv2d", "block_conv2d_dx", "block_conv2d_dw")
SIGNS = pytest.mark.verifies("sign_conv2d", "sign_conv2d_dx", "block_conv2d_dw")
# Input's shape, weight's, block, density, and stride, padding and dilation.
CASES = {
    "tail": ((3, 48, 7, 5), (32, 48, 3, 3), (16, 16), 0.4, (1, 1), (1, 1), (1, 1)),
    "stride": ((2, 32, 9, 8), (48, 32, 3, 3), (16, 32), 0.6, (2, 2), (1, 1), (1, 1)),
    "beyond-the-edge": ((2, 20, 6, 7), (40, 20, 3, 2), (32, 16), 0.7, (1, 2), (0, 1), (1, 1)),
    "pointwise": ((2, 32, 5, 5), (32, 32, 1, 1), (16, 16), 0.5, (2, 2), (0, 0), (1, 1)),
    "dilated": ((1, 16, 11, 9), (32, 16, 3, 3), (16, 16), 1.0, (2, 3), (3, 2), (2, 3)),
    "two-steps-a-block": ((1, 128, 4, 3), (64, 128, 2, 2), (64, 128), 1.0, (1, 1), (1, 1), (1, 1)),
    "one-pixel": ((1, 16, 3, 3), (16, 16, 3, 3), (16, 16), 1.0, (1, 1), (0, 0), (1, 1)),
    "a-step-over-all": ((2, 16, 5, 5), (16, 16, 2, 2), (16, 16), 1.0, (4, 4), (0, 0), (1, 1)),
    "nothing": ((2, 32, 4, 4), (32, 32, 3, 3), (16, 16), 0.0, (1, 1), (1, 1), (1, 1)),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Layer:
    """A convolution of kept blocks and its operands, on a device."""

    def __init__(self, case, dtype, device):
        size, shape, block, density, self.stride, self.padding, self.dilation = case
        grid = -(-shape[0] // block[0]), -(-shape[1] // block[1])
        kept = torch.rand(grid) < density
        if grid[0] > 1:
            kept[-1] = False  # a block row without a block
        whole = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        mask = whole[: shape[0], : shape[1], None, None].expand(shape).contiguous()
        of = self.stride, self.padding, self.dilation
        self.plan = BlockConv2dPlan.from_mask(mask, block, *of, device)
        self.mask = mask.to(device)
        self.x = torch.randn(size, device=device).to(dtype)
        self.weight = torch.randn(shape, device=device).mul(self.mask).to(dtype)
        self.bias = torch.randn(shape[0], device=device).to(dtype)
        self.dy = torch.randn_like(self.torchs(dtype)[0])

    def torchs(self, dtype, weight=None):
        """Returns output, input gradient and weight gradient by torch, computed in a dtype."""
        x, weight = (
            part.to(dtype).requires_grad_()
            for part in (self.x.detach(), self.weight if weight is None else weight)
        )
        of = self.stride, self.padding, self.dilation
        y = conv2d(x, weight, self.bias.to(dtype), *of)
        dy = getattr(self, "dy", torch.ones_like(y))
        dx, dw = torch.autograd.grad(y, (x, weight), dy.to(dtype))
        return y.detach(), dx, dw

    def values(self):
        """Returns the packed weight, with NaN beyond the edge."""
        inside = self.plan.pack(torch.ones_like(self.weight)) > 0
        return self.plan.pack(self.weight).masked_fill(~inside, float("nan"))


@VALUES
@EACH
def test_equals_dense(case, device, assert_matches):
    layer = Layer(case, torch.float32, device)
    values, plan, size = layer.values(), layer.plan, tuple(layer.x.shape[2:])
    y = block_conv2d(layer.x, values, plan, layer.bias)
    dx = block_conv2d_dx(layer.dy, values, plan, size)
    dw = plan.unpack(block_conv2d_dw(layer.dy, layer.x, plan, scale=0.5))
    exact, same = layer.torchs(torch.float64), layer.torchs(torch.float32)
    assert_matches(y, exact[0], same[0], "output")
    assert_matches(dx, exact[1], same[1], "input gradient")
    kept = [0.5 * full[2] * layer.mask for full in (exact, same)]
    assert_matches(dw, *kept, "weight gradient")
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)


@VALUES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, device, assert_matches):
    layer = Layer(CASES["beyond-the-edge"], dtype, device)
    values, plan, size = layer.values(), layer.plan, tuple(layer.x.shape[2:])
    x = layer.x.contiguous(memory_format=torch.channels_last)
    exact, same = layer.torchs(torch.float64), layer.torchs(dtype)
    assert_matches(block_conv2d(x, values, plan, layer.bias), exact[0], same[0], "output")
    assert_matches(block_conv2d_dx(layer.dy, values, plan, size), exact[1], same[1], "dx")
    dw = block_conv2d_dw(layer.dy, x, plan, dtype=torch.float32)
    kept = exact[2] * layer.mask, layer.torchs(torch.float32)[2] * layer.mask
    assert_matches(plan.unpack(dw), *kept, "weight gradient")


@VALUES
def test_parts_of_the_batch_add_up_the_same_each_time(device, assert_matches):
    layer = Layer(((9, 16, 12, 11), (32, 16, 3, 3), (16, 16), 1.0, *CASES["tail"][4:]),
                  torch.float32, device)  # fmt: skip
    first, again = (block_conv2d_dw(layer.dy, layer.x, layer.plan, splits=5) for _ in range(2))
    assert torch.equal(first, again)
    kept = (layer.torchs(dtype)[2] * layer.mask for dtype in (torch.float64, torch.float32))
    assert_matches(layer.plan.unpack(first), *kept)


@SIGNS
@pytest.mark.parametrize("by_row", [False, True], ids=["constant", "channels"])
@EACH
def test_signs_equal_dense(case, by_row, device, assert_matches):
    layer = Layer(case, torch.float32, device)
    plan, size = layer.plan, tuple(layer.x.shape[2:])
    magnitude = torch.rand(layer.bias.shape, device=device) + 0.1 if by_row else 0.3
    signs = torch.where(layer.weight < 0, -1.0, 1.0) * layer.mask
    weight = signs * (magnitude[:, None, None, None] if by_row else magnitude)
    packed = pack_block_signs(plan.pack(layer.weight))
    exact, same = (layer.torchs(dtype, weight) for dtype in (torch.float64, torch.float32))
    y = sign_conv2d(layer.x, packed, plan, magnitude, layer.bias)
    assert_matches(y, exact[0], same[0], "output")
    dx = sign_conv2d_dx(layer.dy, packed, plan, size, magnitude)
    assert_matches(dx, exact[1], same[1], "input gradient")


@VALUES
def test_no_image_gives_none(device):
    layer = Layer(CASES["tail"], torch.float32, device)
    x, dy = layer.x[:0], layer.dy[:0]
    assert block_conv2d(x, layer.values(), layer.plan).shape == (0, 32, 7, 5)
    assert block_conv2d_dx(dy, layer.values(), layer.plan, (7, 5)).shape == (0, 48, 7, 5)
    assert not block_conv2d_dw(dy, x, layer.plan).any()


def test_bad_operands_are_named(device):
    layer = Layer(CASES["tail"], torch.float32, device)
    x, dy, plan, values = layer.x, layer.dy, layer.plan, layer.values()
    nnzb = plan.blocks.nnzb
    with pytest.raises(ValueError, match=r"x must be \[M, 48, H, W\], got \[3, 32, 7, 5\]"):
        block_conv2d(x[:, :32], values, plan)
    with pytest.raises(ValueError, match=r"x must give 1 .* by Geometry\(kernel=\(3, 3\)"):
        block_conv2d(x[:, :, :0], values, plan)
    with pytest.raises(ValueError, match=rf"values must be \[{nnzb}, 9, 16, 16\], got"):
        block_conv2d(x, values[:, :8], plan)
    with pytest.raises(TypeError, match=r"values must be torch.float32, got torch.float16"):
        block_conv2d(x, values.half(), plan)
    with pytest.raises(ValueError, match=r"bias must be \[32\], got \[48\]"):
        block_conv2d(x, values, plan, torch.zeros(48, device=device))
    with pytest.raises(ValueError, match=r"dy must be of \(7, 6\) pixels for inputs of \(7, 6\)"):
        block_conv2d_dx(dy, values, plan, (7, 6))
    with pytest.raises(ValueError, match=r"dy and x must have as many images, got 2 and 3"):
        block_conv2d_dw(dy[:2], x, plan)
    with pytest.raises(TypeError, match=r"signs must be torch.uint8, got torch.float32"):
        sign_conv2d(x, values, plan, 1.0)
    signs = pack_block_signs(plan.pack(layer.weight))
    with pytest.raises(ValueError, match=r"magnitude must be \[32\], got \[48\]"):
        sign_conv2d(x, signs, plan, torch.zeros(48, device=device))
