"""Steps of linear layers through the Triton kernels on a device: no waiting, and in a graph."""

import pytest
import torch

import sparsefl
from sparsefl import Support

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.verifies(
        *("block_linear", "block_linear_dx", "block_dw", "masked_dw"),
        *("sign_linear", "sign_linear_dx", "masked_linear", "masked_linear_dx"),
    ),
]

LAYERS = {"sparse": sparsefl.nn.SparseLinear, "sign": sparsefl.nn.SignLinear}
EACH = [
    pytest.mark.parametrize("kind", LAYERS),
    pytest.mark.parametrize("structure", [None, (64, 128)], ids=str),
    pytest.mark.parametrize("rows", [7, 70]),
]


def prepared(kind, structure, rows):
    support = Support.random((256, 384), 0.3, structure=structure)
    torch.manual_seed(4)
    layer = LAYERS[kind](384, 256, support).to("cuda")
    held = layer.plan.kernels
    assert held is not None
    assert (held.blocks is None) == (structure is None)
    x = torch.randn(rows, 384, device="cuda", requires_grad=True)
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
@EACH[2]
def test_a_step_does_not_wait_for_the_device(kind, structure, rows):
    _, step = prepared(kind, structure, rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@EACH[0]
@EACH[1]
@EACH[2]
def test_a_captured_step_trains_as_an_eager_one(kind, structure, rows):
    (layer, step), (twin, eager) = prepared(kind, structure, rows), prepared(kind, structure, rows)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    twin.load_state_dict(layer.state_dict())
    for _ in range(3):
        graph.replay()
        eager()
    for ours, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
