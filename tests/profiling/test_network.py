import pytest
import torch
from torch import nn

from sparsefl.profiling.network import LocalStep, loss_of, open_optimizer, record

LINEAR = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5), lambda y: nn.functional.cross_entropy(y, torch.zeros(4, dtype=torch.long)))]
    + [(shape, lambda y: (y**2).mean()) for shape in [(), (7,), (4, 1), (4, 5, 2)]],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_the_loss_follows_the_shape_of_the_output(shape, expected):
    output = torch.randn(shape, requires_grad=True)
    torch.testing.assert_close(loss_of(output), expected(output))


@pytest.mark.parametrize(
    "wrap", [list, tuple, lambda y: dict(enumerate(y))], ids=["list", "tuple", "dict"]
)
def test_the_losses_of_several_outputs_add_up(wrap):
    outputs = [torch.randn(4, 3, requires_grad=True), torch.randn(4, 1, requires_grad=True)]
    whole = loss_of(wrap([*outputs, torch.ones(2), None]))
    torch.testing.assert_close(whole, loss_of(outputs[0]) + loss_of(outputs[1]))


def test_an_output_that_nothing_trains_is_refused():
    with pytest.raises(ValueError, match="depends on a trainable weight"):
        loss_of({"a": torch.ones(3), "b": "text"})


def test_a_step_of_frozen_weights_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        LocalStep.of(nn.Linear(3, 2).requires_grad_(False), "sgd", (torch.ones(1, 3),))


@pytest.mark.parametrize(
    ("name", "states"), [("sgd", {"momentum_buffer"}), ("adam", {"step", "exp_avg", "exp_avg_sq"})]
)
def test_a_step_leaves_gradients_and_the_optimizers_state(name, states):
    step = LocalStep.of(nn.Linear(3, 2), name, (torch.randn(4, 3),))
    step()
    weight = step.model.weight
    assert weight.grad is not None
    assert set(step.optimizer.state[weight]) == states


def test_a_shared_parameter_is_given_to_the_optimizer_once():
    optimizer = open_optimizer([LINEAR.weight, LINEAR.bias, LINEAR.weight], "sgd")
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.rnn = nn.LSTM(6, 6, batch_first=True)
        self.last = nn.Linear(6, 6)

    def forward(self, x):
        x = torch.relu_(self.first(x))
        x, _ = self.rnn(x)
        return self.last(self.first(input=x))


def test_every_call_of_a_layer_is_recorded_with_input_and_gradient():
    model = Shared()
    step = LocalStep.of(model, "sgd", (torch.randn(2, 3, 6),))
    seen = record(step, {name: model.get_submodule(name) for name in ("first", "last")})
    assert {name: len(calls) for name, calls in seen.calls.items()} == {"first": 2, "last": 1}
    assert [call.x.requires_grad for call in seen.calls["first"]] == [False, True]
    assert all(call.grad.shape == (2, 3, 6) for call in seen.calls["first"])
    assert not seen.refused


def test_a_recorded_call_repeats_the_gradients_of_the_step():
    model = Shared()
    step = LocalStep.of(model, "sgd", (torch.randn(2, 3, 6),))
    (call,) = record(step, {"last": model.last}).calls["last"]
    expected = model.last.weight.grad
    model.last.zero_grad()
    call.layer(call.x).backward(call.grad)
    torch.testing.assert_close(model.last.weight.grad, expected)


def test_layers_that_cannot_be_repeated_are_named_with_the_reason():
    model = Shared()
    step = LocalStep.of(model, "sgd", (torch.randn(2, 3, 6),))
    seen = record(step, {"rnn": model.rnn, "unused": model.unused})
    assert seen.calls == {}
    assert seen.refused == {
        "rnn": "gives another output than one tensor",
        "unused": "not called in the forward pass",
    }


def test_recording_leaves_no_hook():
    model = Shared()
    step = LocalStep.of(model, "sgd", (torch.randn(2, 3, 6),))
    record(step, {"first": model.first})
    assert not model.first._forward_hooks
