"""Norms that compute the addition and the ReLU after them: what is fused, and what never is."""

import copy
import gc
import io
import logging
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefl
from sparsefl.nn import report
from sparsefl.nn.batch_last import NORMS
from sparsefl.nn.fused import FusedForward, unfuse


class Block(nn.Module):
    """A residual block with every layer a module."""

    def __init__(self, channels=4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return self.relu(out + x)


class Projected(Block):
    def __init__(self):
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))


class InPlace(Block):
    def forward(self, x):
        identity = x
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += identity
        return out.relu_()


class Swapped(Block):
    def forward(self, x):
        out = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return torch.relu(torch.add(x, out))


class AddMethod(Block):
    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(out)).add_(x).relu()


class Scalar(Block):
    """The residual has another shape."""

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)) + x.mean((2, 3), keepdim=True))


class NormTwice(Block):
    """A norm that is called twice, and one whose output goes elsewhere too."""

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm1(self.conv2(out)))
        seen = self.norm2(out)
        return self.relu(seen) * seen


FUSED = {
    Block: ("0.norm1", "0.norm2"),
    Projected: ("0.norm1", "0.norm2"),
    InPlace: ("0.norm1", "0.norm2"),
    Swapped: ("0.norm1", "0.norm2"),
    AddMethod: ("0.norm1", "0.norm2"),
    Scalar: ("0.norm1", "0.norm2"),
    NormTwice: ("0.norm1",),
}


def network(block: nn.Module) -> nn.Sequential:
    return nn.Sequential(block, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def with_group_norms(model: nn.Module) -> nn.Module:
    """Puts a group norm in the place of every batch norm."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(2, child.num_features))
    return model


every_norm = pytest.mark.parametrize(
    "norms", [lambda m: m, with_group_norms], ids=["batch", "group"]
)


@pytest.fixture
def images():
    return torch.randn(9, 4, 6, 5)


def trained(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Returns output, input gradient, parameters' gradients and state after a step."""
    x = x.detach().clone().requires_grad_()
    model.zero_grad()
    out = model(x)
    generator = torch.Generator().manual_seed(3)
    out.backward(torch.randn(out.shape, generator=generator, dtype=out.dtype))
    results = {"output": out.detach(), "input": x.grad}
    results |= {f"gradient of {k}": p.grad for k, p in model.named_parameters()}
    return results | {k: v.clone() for k, v in model.state_dict().items()}


def assert_runs_as_written(model: nn.Module, x: Tensor) -> None:
    """Asserts that fused and unfused models train and evaluate alike, in float64 exactly enough."""
    model = copy.deepcopy(model).double()
    plain = copy.deepcopy(model)
    unfuse(plain)
    assert not [m for m in plain.modules() if "forward" in vars(m)]
    for training in (True, True, False):
        model.train(training), plain.train(training)
        mine, expected = trained(model, x.double()), trained(plain, x.double())
        assert mine.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(mine[name], value, msg=name)


@pytest.fixture
def fused_relus(monkeypatch):
    """Lists the norms that ran with a ReLU in them."""
    seen = []

    def watch(kind):
        original = kind.forward

        def forward(self, x, residual=None, relu=False):
            if relu:
                seen.append(self)
            return original(self, x, residual, relu)

        monkeypatch.setattr(kind, "forward", forward)

    for kind in NORMS:
        watch(kind)
    return seen


@every_norm
@pytest.mark.parametrize(("kind", "names"), FUSED.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_blocks_are_fused_and_train_as_written(kind, names, norms, sparse_of, images):
    sparse = sparse_of(norms(network(kind())))
    assert set(report(sparse).fused) == {*names, "2"}
    assert report(sparse).left_unfused == ()
    assert isinstance(sparse[0].forward, FusedForward)
    assert_runs_as_written(sparse, images)


@every_norm
def test_the_fused_forward_runs(norms, sparse_of, images, fused_relus):
    sparse = sparse_of(norms(network(Block())))
    sparse(images)
    assert fused_relus == [sparse[0].norm1, sparse[0].norm2, sparse[2]]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_models_of_the_package_are_fused(norm, random_mask):
    for name, norms in (("resnet18", 17), ("resnet32", 31), ("vgg11", 8)):
        model = sparsefl.models.build(name, (3, 32, 32), 10, norm=norm, width=0.1)
        masks = {
            f"{n}.weight": random_mask(m.weight.shape)
            for n, m in model.named_modules()
            if isinstance(m, nn.Conv2d)
        }
        sparse = sparsefl.sparsify(model, masks)
        assert len(report(sparse).fused) == norms, name
        assert report(sparse).left_unfused == ()
        assert list(sparsefl.densify(sparse).state_dict()) == list(model.state_dict())
        assert_runs_as_written(sparse, torch.randn(3, 3, 32, 32))


def test_a_forward_that_the_user_replaced_stays(sparse_of, images):
    model = network(Block())
    model[0].forward = lambda x: x * 2
    sparse = sparse_of(model)
    assert torch.equal(sparse[0](images), images * 2)


def hooked(model, name):
    seen = []
    model.get_submodule(name).register_forward_hook(lambda *_: seen.append(name))
    return seen


@pytest.mark.parametrize("name", ["0.norm1", "0.norm2", "0.relu", "2", "3"])
def test_hooks_on_what_is_fused_are_called(name, sparse_of, images):
    sparse = sparse_of(network(Block()))
    seen = hooked(sparse, name)
    sparse(images)
    assert len(seen) == (2 if name == "0.relu" else 1)
    assert_runs_as_written(sparse, images)


def test_hooks_on_the_block_are_called_around_the_fused_forward(sparse_of, images, fused_relus):
    sparse = sparse_of(network(Block()))
    seen = hooked(sparse, "0") + hooked(sparse, "0.conv1")
    sparse[0].register_forward_pre_hook(lambda *_: seen.append("pre"))
    sparse(images)
    assert "pre" in seen
    assert sparse[0].norm1 in fused_relus


def test_a_global_hook_sees_every_layer(sparse_of, images):
    sparse = sparse_of(network(Block()))
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        sparse(images)
    finally:
        handle.remove()
    assert {sparse[0].relu, sparse[3]} <= set(seen)


CHANGES = {
    "another activation": lambda block: setattr(block, "relu", nn.Tanh()),
    "another norm": lambda block: setattr(block, "norm1", nn.GroupNorm(2, 4)),
    "a shortcut": lambda block: setattr(block, "shortcut", nn.Conv2d(4, 4, 1)),
    "an attribute": lambda block: setattr(block, "scale", 2.0),
    "a child": lambda block: block.add_module("extra", nn.ReLU()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_block_runs_as_it_is_written(change, sparse_of, images, fused_relus):
    sparse = sparse_of(network(Block()))
    change(sparse[0])
    sparse(images)
    assert fused_relus == [sparse[2]]
    assert_runs_as_written(sparse, images)


class ClassAttribute(Block):
    scale = 2

    def forward(self, x):
        return self.relu(self.norm1(self.conv1(x))) * self.scale


def test_an_attribute_of_the_class_is_followed(sparse_of, images, fused_relus, monkeypatch):
    sparse = sparse_of(network(ClassAttribute())).eval()
    once = sparse[0](images)
    assert fused_relus == [sparse[0].norm1]
    monkeypatch.setattr(ClassAttribute, "scale", 4)
    torch.testing.assert_close(sparse[0](images), once * 2)


def test_a_frozen_norm_is_followed(sparse_of, images):
    sparse = sparse_of(network(Block()))
    sparse[0].norm2.eval()
    plain = copy.deepcopy(sparse)
    unfuse(plain)
    before = sparse[0].norm2.running_mean.clone()
    torch.testing.assert_close(sparse(images), plain(images))
    assert torch.equal(sparse[0].norm2.running_mean, before)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "pickled layer"])
def test_copies_are_fused_on_their_own(way, sparse_of, images, fused_relus):
    sparse = sparse_of(network(Block())).eval()
    expected = sparse(images)
    if way == "deepcopy":
        twin = copy.deepcopy(sparse)
    else:
        file = io.BytesIO()
        torch.save(sparse if way == "pickle" else sparse[0], file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
        twin = twin if way == "pickle" else nn.Sequential(twin, *copy.deepcopy(sparse)[1:])
    fused_relus.clear()
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(images), expected)
    assert twin[0].norm1 in fused_relus
    assert not {*sparse.modules()} & {*fused_relus}


def test_a_discarded_model_is_freed_at_once(sparse_of):
    sparse = sparse_of(network(Block()))
    gone = weakref.ref(sparse[0].norm1)
    gc.disable()
    try:
        del sparse
        assert gone() is None
    finally:
        gc.enable()


def test_sparsify_of_a_sparse_model_fuses_it_anew(sparse_of, images, random_mask):
    sparse = sparse_of(network(Block()))
    again = sparsefl.sparsify(sparse, {})
    assert report(again).fused == report(sparse).fused
    assert_runs_as_written(again, images)


def test_densify_leaves_nothing_fused(sparse_of, images):
    sparse = sparse_of(network(Projected())).eval()
    plain = sparsefl.densify(sparse)
    for module in plain.modules():
        assert not {"forward", "to_batch_last"} & set(vars(module))
        assert not type(module).__module__.startswith("sparsefl")
    torch.testing.assert_close(plain(images), sparse(images))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_fused_blocks_compile_whole(sparse_of, images):
    sparse = sparse_of(network(Projected()))
    twin = copy.deepcopy(sparse)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    mine, expected = trained(compiled, images), trained(twin, images)
    for (name, value), ours in zip(expected.items(), mine.values(), strict=True):
        torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4, msg=name)


def test_fusing_can_be_left_out(random_mask, caplog):
    model = network(Block())
    masks = {"1.weight": random_mask(model[1].weight.shape)}
    with caplog.at_level(logging.INFO, "sparsefl"):
        sparse = sparsefl.sparsify(model, masks, fuse=False)
    assert report(sparse).fused == ()
    assert not [m for m in sparse.modules() if "forward" in vars(m)]
