"""How much is exchanged when, and whose turn it is."""

import math

import pytest
from torch import nn

import sparsefl
from sparsefl import Support, models
from sparsefl.pruning import Cursor, blocks, cursor, growth_counts, growth_rate, magnitude


def test_rate_falls_as_a_cosine_to_zero():
    assert growth_rate(0, 500) == pytest.approx(0.3)
    assert growth_rate(125, 500, alpha=0.4) == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert growth_rate(250, 500) == pytest.approx(0.15)
    assert growth_rate(500, 500) == growth_rate(600, 500) == 0.0


def test_counts_are_rounded_up_and_leave_enough_pruned():
    supports = {
        "thin": Support.random((10, 100), 0.101, seed=1),
        "full": Support.random((10, 10), 0.95, seed=1),
    }
    assert growth_counts(supports, 0.1) == {"thin": 11, "full": 5}
    assert growth_counts(supports, 0.0) == {"thin": 0, "full": 0}


def names_of(model):
    return list(magnitude(model, 0.5))


def test_stages_of_a_resnet_are_blocks():
    model = models.resnet18(width=0.125)
    cut = blocks(model, names_of(model))
    assert [block[0].split(".")[0] for block in cut] == [
        *("conv1", "stage1", "stage2", "stage3", "stage4", "fc")
    ]
    assert [len(block) for block in cut] == [1, 4, 5, 5, 5, 1]


def test_groups_between_the_pools_of_a_vgg_are_blocks():
    model = models.vgg11(width=0.125)
    cut = blocks(model, names_of(model))
    assert [len(block) for block in cut] == [1, 1, 2, 2, 2, 3]
    assert cut[3] == ("conv5.weight", "conv6.weight")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lambda: models.cnn(width=0.25), [2, 2]),
        (lambda: models.mobilenet(width=0.125), [1] * 15),
        (lambda: nn.Sequential(models.resnet18(width=0.125)), [1, 4, 5, 5, 5, 1]),
        (lambda: nn.Linear(3, 4), [1]),
        (Encoder, [1, 2, 2, 2, 1]),
    ],
    ids=["cnn", "mobilenet", "wrapped", "layer", "encoder"],
)
def test_blocks_of_other_models(make, sizes):
    model = make()
    cut = blocks(model, names_of(model))
    assert [len(block) for block in cut] == sizes
    assert [name for block in cut for name in block] == names_of(model)


def test_a_sparsified_model_is_cut_as_the_dense_one():
    dense = models.vgg11(width=0.125)
    masks = magnitude(dense, 0.5)
    assert blocks(sparsefl.sparsify(dense, masks), masks) == blocks(dense, masks)


def test_cursor_visits_every_block_from_output_to_input_and_again():
    model = models.resnet18(width=0.125)
    names = [name for name in names_of(model) if name.startswith("stage")]
    turn = cursor(model, names)
    seen = []
    for _ in range(5):
        seen.append(turn.current[0][:6])
        turn = turn.advanced()
    assert seen == ["stage4", "stage3", "stage2", "stage1", "stage4"]


def test_granularity_decides_what_has_its_turn():
    model = models.cnn(width=0.25)
    names = names_of(model)
    assert cursor(model, names, "layer").blocks == tuple((name,) for name in reversed(names))
    assert cursor(model, names, "entire").blocks == (tuple(names),)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: growth_rate(-1, 5), "epoch"),
        (lambda: growth_rate(1, 0), "stop"),
        (lambda: growth_rate(1, 5, alpha=1.5), "alpha"),
        (lambda: growth_counts({}, 2.0), "rate"),
        (lambda: cursor(nn.Linear(2, 2), ["weight"], "stage"), "granularity"),
        (lambda: cursor(nn.Linear(2, 2), []), "at least one weight"),
        (lambda: blocks(nn.Linear(2, 2), ["fc.weight"]), "no module 'fc'"),
        (lambda: Cursor((("a",),), 1), "at must be"),
    ],
)
def test_bad_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
