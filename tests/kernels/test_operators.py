"""The kernels' operators: schema, fake results and those of a run agree."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sparsefl
from sparsefl import Support

BLOCKS = Support.random((32, 48), 0.4, seed=1, structure=(16, 16))
ANY = Support.random((33, 47), 0.3, seed=1)
CHANNELS = Support.random((32, 48, 3, 2), 0.4, seed=1, structure=(16, 16))
LAYERS = {
    "blocks": (lambda: sparsefl.nn.SparseLinear(48, 32, BLOCKS), (5, 48)),
    "signs": (lambda: sparsefl.nn.SignLinear(48, 32, BLOCKS, magnitude=0.5), (5, 48)),
    "any": (lambda: sparsefl.nn.SparseLinear(47, 33, ANY), (5, 47)),
    "channels": (lambda: sparsefl.nn.SparseConv2d(48, 32, (3, 2), CHANNELS), (2, 48, 5, 4)),
    "signs of channels": (
        lambda: sparsefl.nn.SignConv2d(48, 32, (3, 2), CHANNELS, magnitude=0.5, stride=2),
        (2, 48, 5, 4),
    ),
}
OPERATORS = ("block_product", "masked_product", "block_conv2d", "_dw", "gather_signs")


class Calls(TorchDispatchMode):
    """Collects the calls of the kernels' operators."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "sparsefl" and any(o in function.__name__ for o in OPERATORS):
            self.found.append((function, args))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LAYERS)
def test_opcheck(name, move, device):
    make, size = LAYERS[name]
    layer, x = move(make()), torch.randn(size, device=device, requires_grad=True)
    with Calls() as calls:
        layer(x).sum().backward()
    assert len(calls.found) == (4 if name.startswith("signs") else 3)
    for function, arguments in calls.found:
        torch.library.opcheck(function, arguments, test_utils=("test_schema", "test_faketensor"))
