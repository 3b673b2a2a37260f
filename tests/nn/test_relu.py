"""``BitReLU`` and where ``use_bit_relu`` puts it."""

import pytest
import torch
from torch import nn

from sparsefl import models
from sparsefl.measuring import saved_bytes
from sparsefl.nn import BitReLU, FrozenConv2d, FrozenLinear, densify, use_bit_relu


def frozen_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(inplace=True),
        FrozenConv2d(4, 8, 3, name="a"),
        nn.ReLU(),
        nn.Flatten(),
        FrozenLinear(8 * 4 * 4, 16, name="b"),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


def replaced(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, BitReLU)]


def test_what_feeds_frozen_layers_alone_is_replaced():
    model = frozen_network()
    assert use_bit_relu(model) == ("1", "3")
    assert replaced(model) == ["1", "3"]


def gradients(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return [x.grad, *(p.grad for p in model.parameters())]


def test_numbers_stay_and_activations_shrink():
    model, x = frozen_network(), torch.randn(16, 2, 8, 8)
    state, expected = model.state_dict(), gradients(model, x)
    before = saved_bytes(lambda: model(x).sum(), [*model.parameters(), x])
    use_bit_relu(model)
    assert model.state_dict().keys() == state.keys()
    for ours, torchs in zip(gradients(model, x), expected, strict=True):
        assert torch.equal(ours, torchs)
    after = saved_bytes(lambda: model(x).sum(), [*model.parameters(), x])
    spared = 4 * 16 * (4 * 6 * 6 + 8 * 4 * 4)
    assert before - after >= spared * 0.9


class Shared(nn.Module):
    """One ReLU, whose output a frozen layer takes in one place only."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(6, 6), nn.ReLU()
        self.second = nn.Linear(6, 6) if trained else FrozenLinear(6, 6, name="second")
        self.last = FrozenLinear(6, 6, name="last")

    def forward(self, x):
        return self.last(self.relu(self.second(self.relu(self.first(x)))))


class Residual(Shared):
    """The ReLU's output is added up, too: a sum keeps nothing, but another layer might."""

    def forward(self, x):
        y = self.relu(self.first(x))
        return self.last(y) + y


def test_every_use_counts():
    assert use_bit_relu(Shared(trained=False)) == ("relu",)
    assert use_bit_relu(Shared(trained=True)) == ()
    assert use_bit_relu(Residual(trained=False)) == ()


class Branching(nn.Module):
    """What torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.layer = nn.ReLU(), FrozenLinear(4, 4)

    def forward(self, x):
        return self.layer(self.relu(x)) if x.sum() > 0 else x


def test_a_model_that_is_not_traced_stays():
    model = Branching()
    assert use_bit_relu(model) == ()
    assert replaced(model) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_are_torchs(dtype):
    x = torch.randn(5, 7, dtype=dtype, requires_grad=True)
    BitReLU()(x).sum().backward()
    assert torch.equal(x.grad, (x > 0).to(dtype))


def test_under_autocast():
    model, x = frozen_network(), torch.randn(4, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        use_bit_relu(model)
        assert torch.equal(model(x), expected)


def test_transforms_go_through():
    model, x = BitReLU(), torch.randn(5, 7)
    per_row = torch.func.vmap(torch.func.grad(lambda row: model(row).sum()))(x)
    assert torch.equal(per_row, (x > 0).float())
    loss = torch.func.grad(lambda x: model(x).sum())(x)
    assert torch.equal(loss, (x > 0).float())


def test_copies_and_traces():
    model = frozen_network()
    use_bit_relu(model)
    assert replaced(torch.fx.symbolic_trace(model)) == ["1", "3"]


def test_densify_gives_torchs_own():
    model, x = frozen_network(), torch.randn(4, 2, 8, 8)
    use_bit_relu(model)
    dense = densify(model)
    assert replaced(dense) == []
    assert [type(dense[i]) for i in (1, 3)] == [nn.ReLU, nn.ReLU]
    assert torch.equal(dense(x), model(x))


def test_models_of_the_zoo_are_traced():
    model = models.build("vgg11", (3, 32, 32), 10)
    for name in ("conv4", "conv6"):
        model.set_submodule(name, FrozenConv2d.replacing(model.get_submodule(name), name=name))
    assert len(use_bit_relu(model)) >= 1


def test_tracing_leaves_buffers_and_random_numbers_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.tensor(0, dtype=torch.uint8))

        def forward(self, x):
            self.calls += 1
            return x * torch.rand(())

    model = nn.Sequential(Counting(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    state = torch.get_rng_state()
    use_bit_relu(model)
    assert int(model[0].calls) == 0
    assert torch.equal(torch.get_rng_state(), state)
