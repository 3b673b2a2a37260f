import copy
import itertools

import pytest
import torch
from torch import nn

from sparsefl.pruning import synflow
from sparsefl.pruning._prunable import keep_largest


def linear_stack(*weights: list[list[float]]) -> nn.Sequential:
    layers = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        layers.append(layer)
    return nn.Sequential(*layers)


def small_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 33),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(33, 7),
    )


def test_scores_follow_the_paths_of_a_tiny_net():
    # R = |v| |W| 1: path sums through hidden units 0 and 1 are 10 * (1 + 2) and 1 * (3 + 4), so
    # the scores of W are 10, 20, 3, 4 and those of v 30, 7. The sign of a weight plays no part.
    model = linear_stack([[1.0, -2.0], [3.0, 4.0]], [[-10.0, 1.0]])
    masks = synflow(model, 0.5, torch.zeros(1, 2), iterations=1)
    assert masks["0.weight"].tolist() == [[True, True], [False, False]]
    assert masks["1.weight"].tolist() == [[True, False]]


def test_scores_are_recomputed_after_each_step():
    # One shot sees scores 6, 6, 5, 4.9 and 12, 9.9 and keeps a weight of v whose unit is cut off;
    # step by step, that unit's flow falls with each input it loses.
    model = linear_stack([[6.0, 6.0], [5.0, 4.9]], [[1.0, 1.0]])
    once = synflow(model, 3 / 6, torch.zeros(1, 2), iterations=1)
    often = synflow(model, 3 / 6, torch.zeros(1, 2), iterations=20)
    assert once["0.weight"].tolist() == [[True, False], [False, False]]
    assert once["1.weight"].tolist() == [[True, True]]
    assert often["0.weight"].tolist() == [[True, True], [False, False]]
    assert often["1.weight"].tolist() == [[True, False]]


@pytest.mark.parametrize("density", [0.011, 0.1, 0.333, 0.9, 1.0])
def test_keeps_exactly_the_asked_number(density):
    masks = synflow(small_net(), density, torch.zeros(5, 2, 8, 8))
    assert list(masks) == ["0.weight", "5.weight", "8.weight"]
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(density * total)


def test_no_layer_collapses_in_a_deep_net_at_low_density():
    torch.manual_seed(0)
    widths = [16, 64, 64, 64, 64, 64, 64, 4]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*layers)
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    masks = synflow(model, 0.01, torch.zeros(1, 16))
    assert all(int(mask.sum()) > 0 for mask in masks.values())


def test_model_is_left_untouched():
    model = small_net().train()
    before = copy.deepcopy(model.state_dict())
    synflow(model, 0.2, torch.zeros(1, 2, 8, 8), iterations=5)
    assert model.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_equal_scores_go_to_the_lowest_index():
    model = linear_stack([[1.0] * 4] * 3)
    masks = synflow(model, 5 / 12, torch.zeros(1, 4))
    assert masks["0.weight"].flatten().tolist() == [True] * 5 + [False] * 7


def test_pruned_weight_never_returns_when_the_rest_is_dead():
    # Unit 0 has no outgoing weight, so its row scores 0 like everything already pruned.
    model = linear_stack([[1.0] * 5, [2.0] * 5], [[0.0, 1.0]])
    masks = synflow(model, 9 / 12, torch.zeros(1, 5), iterations=30)
    assert sum(int(mask.sum()) for mask in masks.values()) == 9
    assert masks["0.weight"][1].all()


def test_deep_net_overflows_float32_but_not_the_scores():
    model = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(30)])
    for layer in model:
        nn.init.normal_(layer.weight)
    masks = synflow(model, 0.5, torch.zeros(1, 64), iterations=3)
    assert sum(int(mask.sum()) for mask in masks.values()) == 30 * 64 * 64 // 2


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, 6),
        nn.InstanceNorm2d(6),
        nn.LayerNorm([6, 6, 6]),
        nn.RMSNorm([6, 6, 6]),
        nn.BatchNorm2d(6, track_running_stats=False),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_of_the_input_do_not_block_the_flow(norm):
    torch.manual_seed(5)
    before, after = nn.Conv2d(2, 6, 3, bias=False), nn.Conv2d(6, 3, 3, bias=False)
    masks = synflow(nn.Sequential(before, norm, after), 0.2, torch.zeros(1, 2, 8, 8))
    plain = synflow(nn.Sequential(before, nn.Identity(), after), 0.2, torch.zeros(1, 2, 8, 8))
    assert all(torch.equal(masks[name], plain[name]) for name in plain)


def test_scale_and_shift_of_a_norm_carry_flow():
    norm = nn.GroupNorm(1, 2)
    norm.weight.data = torch.tensor([-10.0, 1.0])
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    first.weight.data = torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    last.weight.data = torch.tensor([[1.0, 1.0]])
    masks = synflow(nn.Sequential(first, norm, last), 0.5, torch.zeros(1, 2), iterations=1)
    assert masks["0.weight"].tolist() == [[True, True], [False, False]]
    assert masks["2.weight"].tolist() == [[True, False]]


def test_same_masks_every_time():
    first, second = (synflow(small_net(), 0.1, torch.zeros(1, 2, 8, 8)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"density": 0.0}, ValueError, "density"),
        ({"density": 1.5}, ValueError, "density"),
        ({"density": "0.1"}, TypeError, "density"),
        ({"example_input": [1.0]}, TypeError, "example_input"),
        ({"example_input": torch.zeros(0, 2)}, ValueError, "example_input"),
        ({"iterations": 0}, ValueError, "iterations"),
        ({"model": nn.ReLU()}, ValueError, "no linear or convolution"),
        ({"model": "cnn"}, TypeError, "model"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_input_is_named(change, error, says):
    arguments = {"model": nn.Linear(2, 2), "density": 0.5, "example_input": torch.zeros(1, 2)}
    with pytest.raises(error, match=says):
        synflow(**(arguments | change))


def test_a_model_of_tokens_is_refused():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    with pytest.raises(ValueError, match=r"example_input: SynFlow .* torch\.int64 .* embedding"):
        synflow(model, 0.5, torch.zeros(1, 3, dtype=torch.int64))


def test_weights_that_are_not_finite_are_refused():
    model = linear_stack([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="not finite"):
        synflow(model, 0.5, torch.zeros(1, 2))


@pytest.mark.parametrize("count", [0, 1, 4, 6, 7])
def test_keep_largest_matches_a_stable_sort(count):
    scores = torch.tensor([2.0, 5.0, 2.0, 2.0, -1.0, 5.0, 2.0])
    order = scores.sort(descending=True, stable=True).indices[:count]
    assert sorted(order.tolist()) == keep_largest(scores, count).nonzero().flatten().tolist()
