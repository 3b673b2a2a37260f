"""What a forecast counts, and that it leaves everything as it was."""

import functools

import pytest
import torch
from torch import nn

from sparsefl.fl import Schedule, run
from sparsefl.fl.experiment import Problem, Setting, load_problem
from sparsefl.fl.forecast import forecast

SETTING = Setting(dataset="digits", model="mlp", clients=3, rounds=2, threads=1)
OWN = """
import torch


class Noise(torch.nn.Dropout):
    seed = 3


def net():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), Noise(), torch.nn.Linear(8, 10)
    )
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "forecast_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "forecast_networks:net"


def test_threads_and_generator_are_left_as_they_were(own):
    setting = Setting(**{**vars(SETTING), "model": own, "threads": 1 + torch.get_num_threads()})
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    forecast("fedavg", setting, load_problem(setting, 0), 0, {})
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_restored_after_a_failure(own):
    setting = Setting(**{**vars(SETTING), "threads": 1 + torch.get_num_threads()})
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="momentun"):
        forecast("fedavg", setting, load_problem(setting, 0), 0, {"momentun": 1})
    assert torch.get_num_threads() == threads


def test_modules_of_the_users_may_have_a_seed(own):
    setting = Setting(**{**vars(SETTING), "model": own})
    said = forecast("fedavg", setting, load_problem(setting, 0), 0, {})
    assert [(layer.name, layer.kind) for layer in said.layers] == [("1", "Linear"), ("3", "Linear")]
    said = forecast("fedpt", setting, load_problem(setting, 0), 0, {"frozen": "1"})
    assert [layer.computes for layer in said.layers] == [
        "dense torch, no weight gradient",
        "dense torch",
    ]


@pytest.mark.parametrize("examples", [1, 8, 9, 17, 18])
@pytest.mark.parametrize("local_steps", [None, 3])
def test_steps_are_those_of_the_run(examples, local_steps, own):
    schedule = Schedule(batch_size=8, local_epochs=2, local_steps=local_steps)
    data = torch.utils.data.TensorDataset(
        torch.ones(examples, 64), torch.zeros(examples, dtype=torch.long)
    )
    setting = Setting(**{**vars(SETTING), "model": own, "rounds": 1, "schedule": schedule})
    said = forecast("fedavg", setting, Problem([(data, data)], None, data), 0, {})
    linear = functools.partial(nn.Linear, 64, 10)
    played = run("fedavg", linear, [(data, data)], data, rounds=1, schedule=schedule, timed_steps=0)
    assert said.local_steps == played.ledger.rounds[0].local_steps
