"""``gate``: what it finds in a model, that it computes the formula, and what it refuses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefl
from sparsefl import models
from sparsefl.nn import GatedConvBN2d, PlainGatedConvBN2d, gate, gate_report
from sparsefl.nn.gating import GateReport


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(1)
    return models.build(name, (3, 8, 8), 5, "batch", **({"width": 0.125} | options))


class Written(nn.Module):
    """A forward in which things are shared, functional, and added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.a, self.a_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.b_norm = nn.Conv2d(8, 6, 3, padding="same"), nn.BatchNorm2d(6)
        self.twice, self.twice_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.bare = nn.Conv2d(6, 7, 3)
        self.fc = nn.Linear(7, 5)

    def forward(self, x):
        x = self.relu(self.stem_norm(self.stem(x)))
        y = F.max_pool2d(F.relu(self.a_norm(self.a(x))), 1)
        y = self.b_norm(self.b(y))
        y += x
        y = self.relu(y)
        y = self.twice_norm(self.twice(self.twice_norm(self.twice(y))))
        return self.fc(self.bare(y).mean((2, 3)))


MODELS = {
    "cnn": (lambda: build("cnn"), 1, 0),
    "vgg11": (lambda: build("vgg11", width=0.0625), 7, 6),
    "resnet32": (lambda: build("resnet32"), 30, 15),
    "resnet18": (lambda: build("resnet18", width=0.0625), 16, 8),
    "written": (Written, 2, 0),
}


def step(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns outputs, and the gradients of all parameters."""
    outputs = model(x)
    loss = F.cross_entropy(outputs, torch.arange(len(x)) % 5)
    return outputs, list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("stats", ["active", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_and_inference_are_those_of_the_plain_formula(name, stats):
    make, gated, handed = MODELS[name]
    model = gate(make().double(), 0.6, stats)
    report = gate_report(model)
    assert (len(report.gated), len(report.handed)) == (gated, handed)
    plain = sparsefl.densify(model)
    assert not any(isinstance(module, GatedConvBN2d) for module in plain.modules())
    x = torch.randn(5, 3, 8, 8).double()
    for _ in range(2):
        (ours, gradients), (theirs, expected) = step(model, x), step(plain, x)
        torch.testing.assert_close(ours, theirs)
        for found, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(model.get_buffer(key), buffer)
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))


def test_open_gates_of_the_density_1_are_the_dense_model():
    dense = build("resnet32").double()
    model = gate(dense, 1.0, "all")
    for module in model.modules():
        if isinstance(module, GatedConvBN2d):
            nn.init.zeros_(module.gate.weight)
    x = torch.randn(4, 3, 8, 8).double()
    torch.testing.assert_close(step(model, x)[0], step(dense, x)[0])


def test_the_layers_left_are_named_with_their_reasons():
    left = dict(gate_report(gate(Written())).left)
    assert left == {
        "stem": "the first convolution",
        "twice": "it is used more than once",
        "bare": "no batch norm follows it alone",
    }
    left = dict(gate_report(gate(build("resnet18"))).left)
    assert {left.pop("conv1"), *left.values()} == {"the first convolution", "it is a shortcut"}
    assert sorted(left) == [f"stage{i}.0.shortcut.conv" for i in (2, 3, 4)]
    report = gate_report(gate(build("mobilenet")))
    assert "gated 13 of 27 convolutions" in str(report)
    assert "block1.depthwise (conv: expected groups=1, got 4)" in str(report)


def test_a_layer_with_hooks_is_left():
    model = build("vgg11")
    model.conv2.register_forward_hook(lambda *_: None)
    assert "hooks" in dict(gate_report(gate(model)).left)["conv2"]


@pytest.mark.parametrize(("name", "sigmoid"), [("vgg11", True), ("resnet32", False)])
def test_gates_see_the_sigmoid_in_plain_chains(name, sigmoid):
    assert gate_report(gate(build(name))).gate_sigmoid is sigmoid
    assert gate_report(gate(build(name), gate_sigmoid=not sigmoid)).gate_sigmoid is not sigmoid


def test_the_model_is_copied_and_the_gates_are_of_the_seed():
    model = build("cnn")
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(4)
    first = gate(model)
    torch.manual_seed(4)
    second = gate(model)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert first.conv2.gate.weight.std() > 0
    assert torch.equal(first.conv2.gate.bias, torch.ones_like(first.conv2.gate.bias))
    assert list(model.state_dict()) == list(before)
    assert type(model.norm2) is nn.BatchNorm2d
    assert torch.equal(first.conv2.conv.weight, before["conv2.weight"])
    assert not torch.equal(first.conv2.gate.weight, gate(model).conv2.gate.weight)
    assert gate(model.eval()).conv2.training is False


def test_the_plain_model_exports_and_its_state_goes_both_ways():
    model = gate(build("cnn")).eval()
    plain = sparsefl.densify(model)
    assert type(plain.conv2) is PlainGatedConvBN2d
    x = torch.randn(3, 3, 8, 8)
    exported = torch.export.export(plain, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))
    other = gate(build("cnn")).eval()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), model(x))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build("mlp"), "nothing to gate.*gated 0 of 0"),
        (lambda: models.build("cnn", (3, 8, 8), 5), "norm='batch'.*conv2 .no batch norm"),
        (lambda: models.build("resnet18", (3, 8, 8), 5, "group"), "nothing to gate"),
        (Branches, "cannot trace the forward of Branches"),
    ],
    ids=["mlp", "without norm", "group norm", "untraceable"],
)
def test_models_without_anything_to_gate_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        gate(make())


def test_odd_arguments_are_refused():
    with pytest.raises(TypeError, match="must be an nn"):
        gate("cnn")
    for density in (0, 1.5):
        with pytest.raises(ValueError, match="density"):
            gate(build("cnn"), density)
    with pytest.raises(ValueError, match="stats"):
        gate(build("cnn"), 0.5, "some")
    with pytest.raises(ValueError, match="not made by gate"):
        gate_report(build("cnn"))
    assert isinstance(gate_report(gate(build("cnn"))), GateReport)
