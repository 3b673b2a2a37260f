"""Small networks as users write them: sparse is masked dense, in outputs and in training."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefl

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel lengths:UserWarning"
)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, a strided 1x1 shortcut, an in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.first(x)))
        out = self.norm2(self.second(out))
        out += self.shortcut(x)
        return self.head(self.relu(out).mean((2, 3)))


class DepthwiseSeparable(nn.Module):
    """Depthwise and pointwise convolutions, group norm, global average pooling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding="same")
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.norm = nn.GroupNorm(3, 12)
        self.pointwise = nn.Conv2d(12, 7, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.norm(self.depthwise(self.stem(x))))
        return self.head(torch.flatten(self.pool(F.hardswish(self.pointwise(x))), 1))


class Attention(nn.Module):
    """A pre-norm transformer block of plain linear layers on patches, with a class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48, bias=False)
        self.out = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # [N, patches, 16]
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        q, k, v = (
            part.unflatten(-1, (4, 4)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return self.head((x + self.mlp(x))[:, 0])


class UNet(nn.Module):
    """Down and up with a skip connection; the transposed convolution stays dense."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.deep = nn.Conv2d(6, 10, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
        self.merge = nn.Conv2d(12, 5, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x).relu()
        up = self.up(self.deep(self.pool(skip)).relu())
        return self.merge(torch.cat([skip, up], 1)).amax((2, 3))


class SharedWeights(nn.Module):
    """An autoencoder whose two linear layers have one weight, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(192, 20)
        self.left = nn.Linear(20, 20)
        self.right = nn.Linear(20, 20)
        self.right.weight = self.left.weight
        self.leave = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1))
        x = self.left(x).tanh() + self.right(x)
        return self.leave(self.left(x).relu())


class ReadsWeights(nn.Module):
    """A forward that reads ``.weight``: a penalty, a transposed use, a normalised classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.encode = nn.Linear(4, 9)
        self.classify = nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride=2).mean((2, 3))
        x = x + F.linear(self.encode(x).relu(), self.encode.weight.t())
        scores = F.linear(F.normalize(x), F.normalize(self.classify.weight))
        return scores + 0.1 * self.classify.weight.abs().sum(1)


class Recurrent(nn.Module):
    """A recurrent cell of linear layers unrolled over rows, and an LSTM that stays dense."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(24, 12)
        self.cell = nn.ModuleDict({"input": nn.Linear(12, 10), "hidden": nn.Linear(10, 10)})
        self.lstm = nn.LSTM(10, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x.transpose(1, 2).flatten(2))  # [N, H, 12]
        hidden = x.new_zeros(len(x), 10)
        states = []
        for row in rows.unbind(1):
            hidden = torch.tanh(self.cell["input"](row) + self.cell["hidden"](hidden))
            states.append(hidden)
        return self.head(self.lstm(torch.stack(states, 1))[0][:, -1])


class Experts(nn.Module):
    """Layers in a list and a dict, chosen at run time; some get no sample and so no gradient."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(192, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(192, 7), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        weight, chosen = self.gate(x).softmax(1).max(1)
        out = x.new_zeros(len(x), 7)
        for index, expert in enumerate(self.experts):
            out[chosen == index] = expert(x[chosen == index])
        return self.head(out * weight[:, None])


class DenseBlock(nn.Module):
    """Convolutions on a growing concatenation, average pooling, dropout, a 1x1 classifier."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 4, 3, padding=1, bias=False))
            for c in (3, 7, 11)
        )
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Conv2d(15, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.dropout(self.pool(x))).mean((2, 3))


class SqueezeExcite(nn.Module):
    """A channel gate computed by linear layers, grouped convolutions, frozen and trained parts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.squeeze = nn.Linear(8, 3)
        self.excite = nn.Linear(3, 8)
        self.head = nn.Linear(8, 5)
        self.squeeze.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.conv(x).relu_())
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        return self.head(x.permute(0, 2, 3, 1).reshape(len(x), -1, 8).mean(1))


ZOO = [
    *(Residual, DepthwiseSeparable, Attention, UNet, SharedWeights),
    *(ReadsWeights, Recurrent, Experts, DenseBlock, SqueezeExcite),
]
every_network = pytest.mark.parametrize("network", ZOO, ids=lambda kind: kind.__name__)


def layer_masks(model: nn.Module, density: float, random_mask) -> dict[str, Tensor]:
    """Returns a mask for each weight that can become sparse; a tied one by its first name."""
    weights = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d)
        and getattr(module, "padding_mode", "zeros") == "zeros"
    }
    return {
        name: random_mask(parameter.shape, density, seed)
        for seed, (name, parameter) in enumerate(model.named_parameters())
        if name in weights
    }


def masked(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


@every_network
@pytest.mark.parametrize("density", [0.3, 1.0], ids="density={}".format)
def test_outputs_are_those_of_the_masked_network_and_come_back(network, density, random_mask):
    model = network()
    masks = layer_masks(model, density, random_mask)
    sparse = sparsefl.sparsify(model, masks)
    assert len(sparsefl.nn.report(sparse).sparsified) >= len(masks)
    twin = masked(model, masks)
    x = torch.randn(6, 3, 8, 8)
    for training in (True, False):
        torch.testing.assert_close(sparse.train(training)(x), twin.train(training)(x))
    plain = sparsefl.densify(sparse)
    assert not [m for m in plain.modules() if type(m).__module__.startswith("sparsefl")]
    torch.testing.assert_close(plain.eval()(x), twin.eval()(x))
    copied = network()
    copied.load_state_dict(plain.state_dict())
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(copied.state_dict()[name], value, msg=name)


@every_network
def test_three_steps_are_those_of_masked_dense_training(network, random_mask):
    model = network()
    masks = layer_masks(model, 0.3, random_mask)
    sparse, dense = sparsefl.sparsify(model, masks), masked(model, masks)
    x, target = torch.randn(6, 3, 8, 8), torch.arange(6) % 5
    for trained in (sparse, dense):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(trained(x), target).backward()
            for name, mask in masks.items():
                if trained is dense and dense.get_parameter(name).grad is not None:
                    dense.get_parameter(name).grad.mul_(mask)
            optimizer.step()
    result = sparsefl.densify(sparse).state_dict()
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5, msg=name)
