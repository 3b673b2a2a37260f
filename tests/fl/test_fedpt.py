"""What FedPT freezes, and what it then costs."""

import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl.methods._fedpt_selection import frozen_names


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.bn1(self.conv1(x))))


def residual_net():
    net = nn.Sequential()
    net.stem = nn.Conv2d(1, 4, 3, padding=1)  # 36 weights
    net.layer1 = Block(4)  # 144 each
    net.layer4 = nn.Sequential(Block(4), Block(4))
    net.flat = nn.Flatten()
    net.head = nn.Linear(256, 3)  # 768
    return net


CONVS = tuple(f"layer4.{block}.conv{conv}.weight" for block in (0, 1) for conv in (1, 2))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, ("head.weight",)),
        ({"frozen": "layer4.*"}, CONVS),
        ({"frozen": "layer4.?.conv1, stem"}, ("stem.weight", CONVS[0], CONVS[2])),
        ({"frozen": ["layer4.0.*", "head.weight"]}, (*CONVS[:2], "head.weight")),
        (
            {"trained": "stem,head"},
            ("layer1.conv1.weight", "layer1.conv2.weight", *CONVS),
        ),
        ({"trained": "layer*"}, ("stem.weight", "head.weight")),
        # 768 of 1735 parameters are the head; a convolution more makes 0.5257, two 0.6087.
        ({"fraction": 0.3}, ("head.weight",)),
        ({"fraction": 0.5}, ("layer1.conv1.weight", "head.weight")),
        ({"fraction": 0.6}, ("layer1.conv1.weight", "layer1.conv2.weight", "head.weight")),
    ],
    ids=str,
)
def test_layers_are_chosen(choice, names):
    assert frozen_names(residual_net(), **choice) == names


@pytest.mark.parametrize(
    ("choice", "error", "says"),
    [
        ({"frozen": "fc*"}, ValueError, r"no layer matches 'fc\*'; there are: \['stem.weight'"),
        ({"frozen": "stem,fc"}, ValueError, "matches 'fc'"),
        ({"frozen": "*.bn1*"}, ValueError, r"'layer1.bn1.weight'.* cannot be frozen"),
        ({"trained": "nothing"}, ValueError, "trained: no layer matches"),
        ({"frozen": "*"}, ValueError, "left to train"),
        ({"fraction": 0.999}, ValueError, "more than the layers hold"),
        ({"fraction": 1.0}, ValueError, "below 1"),
        ({"frozen": "stem", "fraction": 0.5}, ValueError, "frozen and frozen_fraction"),
        ({"frozen": "stem", "trained": "head"}, ValueError, "frozen and trained"),
        ({"frozen": [3]}, TypeError, "patterns of names"),
        ({"frozen": 3}, TypeError, "frozen must be patterns of names, got 3"),
    ],
    ids=str,
)
def test_impossible_choices_are_named(choice, error, says):
    with pytest.raises(error, match=says):
        frozen_names(residual_net(), **choice)


def test_all_layers_may_be_frozen_where_another_weight_trains():
    net = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    assert frozen_names(net, "*") == ("2.weight",)
    with pytest.raises(ValueError, match="left to train"):
        frozen_names(net.requires_grad_(False), "*")


def test_shared_and_special_layers_are_left_alone():
    class Own(nn.Linear):
        pass

    net = nn.Sequential(
        nn.Linear(9, 9),
        nn.Linear(9, 9),
        nn.Conv1d(1, 1, 1),
        Own(99, 9),
        nn.Conv2d(1, 9, 9, padding=1, padding_mode="circular"),
        nn.Linear(3, 3),
        nn.Linear(3, 1),
    )
    net[1].weight = net[0].weight
    assert frozen_names(net) == ("5.weight",)
    for tied_or_special in ("0", "2", "3", "4"):
        with pytest.raises(ValueError, match="cannot be frozen"):
            frozen_names(net, tied_or_special)


@pytest.mark.parametrize(
    "options",
    [{"frozen": "layer4.*"}, {"trained": "head,stem"}, {"frozen_fraction": 0.6}],
    ids=str,
)
def test_frozen_convolutions_stay_and_the_rest_trains(options, federation):
    run = federation("fedpt", factory=residual_net, **options)
    before = run.method.global_model(run.task, run.state).state_dict()
    losses = [run.play(round).loss for round in range(1, 5)]
    after = run.method.global_model(run.task, run.state).state_dict()
    frozen = set(run.state.frozen)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == frozen
    assert losses[-1] < losses[0]


def test_norms_biases_and_buffers_of_frozen_blocks_travel(federation):
    run = federation("fedpt", factory=residual_net, frozen="layer4.*")
    down = codec.decode(run.broadcast(1), run.wire.schema)
    kinds = {name: type(entry).__name__ for name, entry in down.items()}
    assert {kinds.pop(name) for name in CONVS} == {"Regenerated"}
    assert set(kinds.values()) == {"Dense"}
    assert {
        "layer4.0.bn1.weight",
        "layer4.0.bn1.running_var",
        "layer4.0.bn1.num_batches_tracked",
        "layer4.1.conv2.bias",
    } <= set(kinds)
    run.play(1)
    sent = sum(run.wire.schema[name].numel * width(run.wire.schema[name].dtype) for name in kinds)
    assert 1.5 * sent < run.ledger.rounds[0].uplink_bound_bytes <= 3 * sent


def width(dtype):
    return {"float32": 4, "int64": 8}[dtype]
