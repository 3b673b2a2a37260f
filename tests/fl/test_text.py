"""Federations over texts: many labels an example, one decoder, feed-forward layers frozen."""

import pathlib

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from sparsefl import fl, models
from sparsefl.fl import experiment
from sparsefl.fl.checks import try_model
from sparsefl.fl.training import accuracy
from sparsefl.models.transformer import transformer

WORDS = "so shaken as we are, so wan with care, find we a time for frighted peace to pant. "
SETTING = experiment.Setting(
    dataset="shakespeare",
    model="transformer",
    model_options={"width": 0.25, "layers": 2},
    partition="natural",
    clients=2,
    rounds=3,
    schedule=fl.Schedule(batch_size=8, local_epochs=2),
    timed_steps=0,
    threads=1,
)


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> experiment.Setting:
    speeches = [f"{name}:\n{WORDS * times}" for name, times in (("I", 16), ("II", 20), ("III", 12))]
    path = tmp_path / "input.txt"
    path.write_text("\n\n".join(speeches))
    return experiment.Setting(**{**vars(SETTING), "data_dir": str(path)})


def test_full_width_has_the_parameters_that_are_promised() -> None:
    model = transformer((1, 1, 80), 65)
    assert sum(p.numel() for p in model.parameters()) == 430_049


def test_a_position_knows_nothing_of_those_behind_it() -> None:
    torch.manual_seed(0)
    model = transformer((1, 1, 9), 7, width=0.25).eval()
    x = torch.randint(7, (3, 9))
    changed = torch.cat([x[:, :5], (x[:, 5:] + 1) % 7], dim=1)
    out, other = model(x), model(changed)
    assert out.shape == (3, 7, 9)
    assert torch.allclose(out[..., :5], other[..., :5], atol=1e-6)
    assert not torch.allclose(out[..., 5:], other[..., 5:])
    # Shorter texts are prefixes.
    assert torch.allclose(model(x[:, :4]), out[..., :4], atol=1e-6)


def test_accuracy_counts_every_position() -> None:
    class Copies(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(x, 4).transpose(1, 2).float()

    inputs = torch.tensor([[0, 1, 2], [3, 3, 3]])
    labels = torch.tensor([[0, 1, 1], [3, 0, 0]])
    assert accuracy(Copies(), TensorDataset(inputs, labels)) == 3 / 6


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_roles_train_a_decoder(method: str, setting: experiment.Setting) -> None:
    problem = experiment.load_problem(setting, seed=0)
    assert [len(train) for train, _ in problem.clients] == sorted(
        len(train) for train, _ in problem.clients
    )
    options = {"frozen": "blocks.*.ffn*", "lr": 0.1} if method == "fedpt" else {"lr": 0.1}
    result = experiment.play(method, setting, problem, seed=0, options=options)
    losses = [entry.loss for entry in result.ledger.rounds]
    assert losses[-1] < 0.9 * losses[0]
    assert 0.05 < result.accuracy <= 1
    fresh = fl.Task(
        lambda: models.build(
            "transformer", problem.in_shape, problem.classes, **setting.model_options
        ),
        torch.zeros(1, 80, dtype=torch.int64),
        0,
        1.0,
        {},
    ).new_model()
    before, after = fresh.state_dict(), result.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    ffn = {f"blocks.{b}.ffn{f}.weight" for b in (0, 1) for f in (1, 2)}
    if method == "fedpt":
        sent = sum(p.numel() for name, p in fresh.named_parameters() if name not in ffn)
        assert result.row()["uplink_claimed_bytes"] == 4 * sent * 6
        assert result.costs.claimed_flops < result.costs.dense_flops
    else:
        assert moved == set(before)


@pytest.mark.parametrize(("fraction", "kinds"), [(0.5, ("ffn",)), (0.7, ("ffn", "qkv"))])
def test_a_share_of_the_decoder_is_frozen(
    fraction: float, kinds: tuple[str, ...], setting: experiment.Setting
) -> None:
    problem = experiment.load_problem(setting, seed=0)
    options = {"frozen_fraction": fraction, "lr": 0.1}
    result = experiment.play("fedpt", setting, problem, seed=0, options=options)
    fresh = models.build("transformer", problem.in_shape, problem.classes, **setting.model_options)
    sizes = {name: p.numel() for name, p in fresh.named_parameters()}
    sent = result.row()["uplink_claimed_bytes"] // (4 * 6)
    frozen = sum(sizes.values()) - sent
    assert frozen >= fraction * sum(sizes.values())
    # The largest layers, as few as hold the share: without the smallest of them it is not held.
    chosen = [
        n
        for name, n in sizes.items()
        if any(kind in name for kind in kinds) and name.endswith("weight")
    ]
    assert frozen <= sum(chosen)
    assert frozen - min(chosen) < fraction * sum(sizes.values())
    losses = [entry.loss for entry in result.ledger.rounds]
    assert losses[-1] < losses[0]


def test_other_partitions_and_other_data_are_refused(setting: experiment.Setting) -> None:
    dealt = experiment.Setting(**{**vars(setting), "partition": "iid"})
    with pytest.raises(ValueError, match="partition must be natural"):
        experiment.load_problem(dealt, seed=0)
    with pytest.raises(ValueError, match="digits does not say whose"):
        experiment.load_problem(
            experiment.Setting(dataset="digits", model="mlp", partition="natural"), seed=0
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"in_shape": (1, 28, 28)}, "reads texts"),
        ({"norm": "group"}, "norm must be None"),
        ({"layers": 0}, "layers"),
        ({"width": 0.0}, "width"),
    ],
)
def test_impossible_decoders_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        models.build("transformer", **({"in_shape": (1, 1, 8), "num_classes": 5} | arguments))


def test_scores_must_fit_the_labels() -> None:
    texts = TensorDataset(torch.zeros(4, 6, dtype=torch.int64), torch.zeros(4, 6).long())
    with pytest.raises(ValueError, match=r"\[batch, classes, 6\]"):
        try_model(lambda: nn.Sequential(nn.Embedding(3, 3), nn.Flatten()), 0, texts)
