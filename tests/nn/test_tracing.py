"""torch.fx takes the layers whole, as it does those of torch.nn; torch.jit.script is refused."""

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.nn import FrozenConv2d, FrozenLinear, SignLinear


@pytest.fixture
def model(random_mask):
    """A model of every kind of layer."""
    dense = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 4, 3, padding=1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, 6),
    )
    masks = {
        f"{name}.weight": random_mask(module.weight.shape, 0.5)
        for name, module in dense.named_children()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    sparse = sparsefl.sparsify(dense, masks)
    sign = SignLinear(6, 6, random_mask((6, 6)))
    return nn.Sequential(FrozenConv2d(3, 3, 3), sparse, sign, nn.Linear(6, 6), FrozenLinear(6, 2))


def test_symbolic_trace_calls_every_layer_whole(model):
    traced = torch.fx.symbolic_trace(model)
    nodes = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    leaves = [name for name, module in model.named_modules() if not list(module.children())]
    assert [(node.op, node.target) for node in nodes] == [("call_module", name) for name in leaves]
    x = torch.randn(5, 3, 13, 14)
    torch.testing.assert_close(traced(x), model(x))
    traced(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(sparsefl.densify(traced)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_layer_traced_by_itself_says_what_to_trace(random_mask):
    layer = SignLinear(6, 6, random_mask((6, 6)))
    with pytest.raises(NotImplementedError, match=r"look into a SignLinear: .*nn\.Sequential"):
        torch.fx.symbolic_trace(layer)


def test_hooks_are_not_run_twice(model):
    model[4].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(NotImplementedError, match=r"hooks of 4, a FrozenLinear.*is_leaf_module"):
        torch.fx.symbolic_trace(model)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return super().is_leaf_module(m, module_qualified_name) or m is model[4]

    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    x = torch.randn(5, 3, 13, 14)
    torch.testing.assert_close(traced(x), model(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["0", "1.0", "1.1", "1.3", "1.5", "1.6", "1.8", "2", "4", ""])
def test_scripting_is_refused_with_the_ways_out(model, name):
    with pytest.raises(
        NotImplementedError, match=r"jit\.script cannot compile .*torch\.compile.*densify"
    ):
        torch.jit.script(model.get_submodule(name))
    torch.jit.script(sparsefl.densify(model))
