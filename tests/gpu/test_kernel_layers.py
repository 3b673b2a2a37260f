"""Steps of layers through the Triton kernels on a device: no waiting, and in a graph."""

import pytest
import torch

import sparsefl
from sparsefl import Support

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.verifies(
        *("block_linear", "block_linear_dx", "block_dw", "masked_dw"),
        *("sign_linear", "sign_linear_dx", "masked_linear", "masked_linear_dx"),
        *("block_conv2d", "block_conv2d_dx", "block_conv2d_dw", "sign_conv2d", "sign_conv2d_dx"),
    ),
]

LAYERS = {
    "sparse": (sparsefl.nn.SparseLinear, sparsefl.nn.SparseConv2d),
    "sign": (sparsefl.nn.SignLinear, sparsefl.nn.SignConv2d),
}
# The support's shape and structure, and the input's shape.
CASES = {
    "any, few rows": ((256, 384), None, (7, 384)),
    "any, rows": ((256, 384), None, (70, 384)),
    "blocks, few rows": ((256, 384), (64, 128), (7, 384)),
    "blocks, rows": ((256, 384), (64, 128), (70, 384)),
    "channels": ((128, 96, 3, 3), (32, 16), (5, 96, 9, 8)),
}
EACH = [pytest.mark.parametrize("kind", LAYERS), pytest.mark.parametrize("case", CASES)]


def prepared(kind, case):
    shape, structure, size = CASES[case]
    support = Support.random(shape, 0.3, structure=structure)
    torch.manual_seed(4)
    of, taps = LAYERS[kind][len(shape) == 4], shape[2:]
    layer = of(shape[1], shape[0], *([taps] if taps else []), support).to("cuda")
    held = layer.plan.kernels
    assert held is not None
    assert (held.blocks is None) == (structure is None)
    x = torch.randn(size, device="cuda", requires_grad=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)

    def step():
        optimizer.zero_grad(set_to_none=False)
        layer(x).square().mean().backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    return layer, step


@EACH[0]
@EACH[1]
def test_a_step_does_not_wait_for_the_device(kind, case):
    _, step = prepared(kind, case)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@EACH[0]
@EACH[1]
def test_a_captured_step_trains_as_an_eager_one(kind, case):
    (layer, step), (twin, eager) = prepared(kind, case), prepared(kind, case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    twin.load_state_dict(layer.state_dict())
    for _ in range(3):
        graph.replay()
        eager()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
