import math

import pytest
import torch

from sparsefl.fl import METHODS, Federation, Schedule, Task, load_method
from sparsefl.fl.learning_rate import DEFAULTS, learning_rate, with_horizon


def rates(rounds, **options):
    return [learning_rate(0.5, {**DEFAULTS, **options}, t) for t in range(1, rounds + 1)]


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, [1, 1, 1, 1]),
        ({"lr_decay": 0.5}, [1, 0.5, 0.25, 0.125]),
        ({"lr_schedule": "constant", "lr_decay": 0.5}, [1, 1, 1, 1]),
        ({"lr_schedule": "step", "lr_decay": 0.1, "lr_step": 2}, [1, 1, 0.1, 0.1]),
        ({"lr_schedule": "cosine", "lr_horizon": 4}, [1, 0.5 + math.sqrt(0.125), 0.5, 0.1464466]),
        ({"lr_schedule": "cosine", "lr_horizon": 2}, [1, 0.5, 0, 0]),
        ({"lr_warmup": 3}, [0.25, 0.5, 0.75, 1]),
        ({"lr_warmup": 1, "lr_decay": 0.5}, [0.5, 0.5, 0.25, 0.125]),
    ],
    ids=str,
)
def test_factors_follow_the_table(options, factors):
    assert rates(4, **options) == pytest.approx([0.5 * factor for factor in factors])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lr_schedule": "linear"}, "constant, exponential, cosine, step"),
        ({"lr_decay": -0.1}, "lr_decay"),
        ({"lr_step": 0, "lr_schedule": "step"}, "lr_step"),
        ({"lr_warmup": -1}, "lr_warmup"),
        ({"lr_schedule": "cosine"}, "lr_horizon"),
    ],
    ids=str,
)
def test_impossible_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        rates(1, **options)


def test_the_cosine_ends_with_the_run():
    assert with_horizon({**DEFAULTS, "lr_schedule": "cosine"}, 7)["lr_horizon"] == 7
    kept = {**DEFAULTS, "lr_schedule": "cosine", "lr_horizon": 9}
    assert with_horizon(kept, 7) == kept
    assert with_horizon(DEFAULTS, 7) == DEFAULTS


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_clients_train_at_the_rate_of_the_round(method, federation):
    run = federation(method, lr=0.4, lr_schedule="step", lr_step=1, lr_decay=0.5)
    client = run.new_client()
    found = [run.method.optimizer(client, t).param_groups[0]["lr"] for t in (1, 2, 3)]
    assert found == [0.4, 0.2, 0.1]


def test_a_run_fills_in_its_horizon(small):
    result = small("fedavg", options={"lr_schedule": "cosine"}, rounds=2)
    assert result.config["options"]["lr_horizon"] == 2


@pytest.mark.parametrize("planned", [{}, {"rounds": 1}], ids=["not said", "one"])
def test_a_federation_of_defaults_trains(method, planned, toy):
    chosen = load_method(method)
    task = Task(toy.cnn, torch.zeros(1, *toy.pixels), 0, 0.3, chosen.with_defaults({}), **planned)
    run = Federation(chosen, task, [toy.clusters(20, 1)], Schedule())
    assert [run.play(round).lost for round in (1, 2)] == [0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_options_of_the_wrong_kind_are_refused_before_the_run(method):
    chosen = load_method(method)
    with pytest.raises(TypeError, match="lr must be a number"):
        chosen.with_defaults({"lr": "0.1"})
    with pytest.raises(ValueError, match="finite"):
        chosen.with_defaults({"lr": math.inf})
