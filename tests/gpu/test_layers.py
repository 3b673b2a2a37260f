"""Layers on a CUDA device against dense torch there: results, training, graphs, no waiting."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefl
from sparsefl import Support

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")
LAYERS = {
    "linear": (lambda: nn.Linear(300, 17), (9, 300)),
    "one row": (lambda: nn.Linear(7, 5, bias=False), (1, 7)),
    "conv": (lambda: nn.Conv2d(40, 5, 3, padding=1), (6, 40, 7, 8)),
    "stride": (lambda: nn.Conv2d(4, 3, (2, 3), stride=2, bias=False), (2, 4, 6, 7)),
    "groups": (lambda: nn.Conv2d(6, 4, 3, dilation=2, groups=2), (3, 6, 9, 8)),
    "pointwise": (lambda: nn.Conv2d(33, 20, 1), (3, 33, 4, 5)),
}
KINDS = ("sparse", "sign")


@pytest.fixture(autouse=True)
def exact_products() -> None:
    """Has torch multiply float32 as float32, not as TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def mask_of(weight: Tensor, density: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(weight.shape, generator=generator) < density


def network() -> nn.Module:
    """Returns a small network with convolutions, norms, pooling and linear layers."""
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def sparse_network(kind: str = "sparse") -> nn.Module:
    model = network()
    masks = {f"{i}.weight": mask_of(model[i].weight) for i in (0, 4, 9)}
    shape = tuple(model[11].weight.shape)
    masks["11.weight"] = Support.random(shape, 0.5, seed=1, structure="rows").to_mask()
    return sparsefl.sparsify(model, masks, layer=kind).to(DEVICE)


def differentiate(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    y.backward(grad)
    return y.detach(), x.grad, layer.weight.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("structure", ["unstructured", "rows", "columns"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_the_masked_dense_one(name, structure, channels_last, dtype, assert_matches):
    make, size = LAYERS[name]
    dense, x = make().to(dtype), torch.randn(size, dtype=dtype)
    mask = mask_of(dense.weight)
    if structure != "unstructured":
        mask = Support.random(tuple(mask.shape), 0.5, seed=1, structure=structure).to_mask()
    kind = sparsefl.nn.SparseLinear if len(size) == 2 else sparsefl.nn.SparseConv2d
    layer = kind.from_dense(dense, mask).to(DEVICE)
    with torch.no_grad():
        dense.weight.mul_(mask)
    if channels_last and len(size) == 4:
        x = x.to(memory_format=torch.channels_last)
    exact = differentiate(copy.deepcopy(dense).double(), x.double())
    same = [t.cpu() for t in differentiate(dense.to(DEVICE), x.to(DEVICE))]
    inputs = x.to(DEVICE).requires_grad_()
    y = layer(inputs)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y))
    ours = (y.detach(), inputs.grad, layer.row_major(layer.values.grad))
    for what, mine, ref, theirs in zip(("output", "x", "values"), ours, exact, same, strict=True):
        if what == "values":
            ref, theirs = ref[mask], theirs[mask]
        assert mine.device.type == "cuda"
        assert_matches(mine.cpu(), ref, theirs, what)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_trains_as_on_the_cpu(kind):
    models = [sparse_network(kind), sparse_network(kind).cpu()]
    x, labels = torch.randn(8, 3, 12, 12), torch.arange(8) % 10
    for model in models:
        device = next(model.parameters()).device
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x.to(device)), labels.to(device)).backward()
            optimizer.step()
    ours, theirs = (model.state_dict() for model in models)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name].cpu(), tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_bfloat16(kind):
    model, x = sparse_network(kind), torch.randn(4, 3, 12, 12, device=DEVICE)
    dense = sparsefl.densify(model)
    with torch.autocast("cuda", torch.bfloat16):
        ours, theirs = model(x), dense(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    ours.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_state_dicts_and_copies_do_not_depend_on_the_device():
    model = sparse_network()
    held = model.state_dict()
    twin = sparse_network().cpu()
    twin.load_state_dict({name: t.cpu() for name, t in held.items()})
    x = torch.randn(2, 3, 12, 12)
    model.eval(), twin.eval()
    for other in (copy.deepcopy(model), twin.to(DEVICE), model.cpu().to(DEVICE)):
        torch.testing.assert_close(other(x.to(DEVICE)), model(x.to(DEVICE)))


@pytest.mark.parametrize("regenerate", [False, True])
def test_frozen_weights_are_those_of_the_cpu(regenerate):
    layer = sparsefl.nn.FrozenLinear(33, 17, seed=4, regenerate=regenerate)
    there = sparsefl.nn.FrozenLinear(33, 17, seed=4, regenerate=regenerate, device=DEVICE)
    weight = layer.weight.clone()
    assert torch.equal(there.weight.cpu(), weight)
    assert torch.equal(layer.to(DEVICE).weight.cpu(), weight)


def test_a_regenerated_weight_does_not_wait_for_the_device():
    layer = sparsefl.nn.FrozenLinear(33, 17, regenerate=True, device=DEVICE)
    x = torch.randn(5, 33, device=DEVICE, requires_grad=True)
    layer(x).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("stats", ["active", "all"])
def test_gated_layers_equal_their_formula(stats):
    layers = []
    for kind in (sparsefl.nn.GatedConvBN2d, sparsefl.nn.PlainGatedConvBN2d):
        torch.manual_seed(5)
        layers.append(kind(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), 0.5, stats).to(DEVICE))
    x = torch.randn(4, 6, 9, 8, device=DEVICE)
    ours, theirs = (layer(x) for layer in layers)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layers[0].bn.running_var, layers[1].bn.running_var)


def training_step(model: nn.Module, x: Tensor, labels: Tensor, optimizer):
    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def prepared(kind: str):
    model = sparse_network(kind).to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 12, 12, device=DEVICE).to(memory_format=torch.channels_last)
    labels = torch.arange(8, device=DEVICE) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = training_step(model, x, labels, optimizer)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    return model, step


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_does_not_wait_for_the_device(kind):
    _, step = prepared(kind)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_trains_as_an_eager_one(kind):
    torch.use_deterministic_algorithms(False)
    (model, step), (twin, eager) = prepared(kind), prepared(kind)
    twin.load_state_dict(model.state_dict())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    twin.load_state_dict(model.state_dict())
    for _ in range(3):
        graph.replay()
        eager()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_compiled_step_gives_the_same(tmp_path):
    model = sparse_network()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
    x = torch.randn(4, 3, 12, 12, device=DEVICE)
    for module in (model, compiled):
        module(x).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_nothing_of_dense_size_is_kept():
    layer = sparsefl.nn.SparseLinear(4096, 4096, sparsefl.Support.random((4096, 4096), 0.1))
    layer.to(DEVICE)
    x = torch.randn(64, 4096, device=DEVICE)
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(2):
        layer(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    kept = layer.support.nnz
    # Values and two moments in float32, positions and order in int64; slack for the rest.
    assert torch.cuda.memory_allocated() < kept * (3 * 4 + 2 * 8) + 4096 * 4096 * 4 // 2
