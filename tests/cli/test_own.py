"""A user's own model and data by name: what works, and what is wrong with what does not."""

import dataclasses
import json
import sys

import pytest

from sparsefl import cli
from sparsefl.fl.experiment import Setting, load_problem, play

DATA, MODEL = ["--data", "mine:clients"], ["--model", "mine:net"]
KINDS = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


def data(n):
    return TensorDataset(INPUTS, torch.arange(n) % 2)


def clients():
    return [(data(20), data(4))], data(10)


def tokens():
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))


def images():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2, dtype=torch.float64))
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*DATA, "--model", "nowhere:net"], "no module nowhere"),
        ([*DATA, "--model", "mine.inner:net"], "mine"),
        ([*DATA, "--model", "broken:net"], "broken imports a_package_that_nobody_has"),
        ([*DATA, "--model", "faulty:net"], "importing faulty raised ZeroDivisionError"),
        ([*DATA, "--model", "mine:nets"], "mine has no nets"),
        ([*DATA, "--model", "mine:"], "PACKAGE.MODULE:NAME"),
        ([*DATA, "--model", "mine:number"], "is a int, it must be callable"),
        ([*DATA, "--model", "mine:nothing"], "NoneType"),
        (
            [*DATA, "--model", "mine:fails"],
            "mine:fails failed, called without arguments: KeyError",
        ),
        ([*DATA, "--model", "mlp"], "own data needs an own model"),
        (["--data", "mine:nothing", *MODEL], "it gave NoneType"),
        (["--data", "mine:net", *MODEL], "it gave Sequential"),
        (["--data", "mine:one_client", *MODEL], "its first part is TensorDataset"),
        (["--data", "mine:fails", *MODEL], "mine:fails failed"),
        ([*DATA, *MODEL, "--clients", "3"], "clients has no meaning"),
        ([*DATA, *MODEL, "--norm", "batch"], "norm has no meaning"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, says, own, refused):
    (own / "faulty.py").write_text("1 / 0\n")
    assert says in refused("run", "fedavg", *arguments)


def test_all_methods_compare_on_own_data_with_a_linear_row(own):
    quick = ["--rounds", "2", "--timed-steps", "2", "--set", "hidenseek.iterations=2"]
    quick += ["--density", "0.5", "--no-memory"]
    assert cli.main(["compare", *DATA, *MODEL, *quick, "--out", "c"]) == 0
    rows = json.loads((own / "c/compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["linear", "fedavg", "fedpt", "hidenseek"]
    # Six inputs, two classes, two clients, two rounds.
    assert rows[0]["uplink_claimed_bytes"] == 4 * (6 * 2 + 2) * 2 * 2


def test_memory_is_measured_on_own_data_too(own, run):
    result = run("fedavg", *DATA, *MODEL, "--rounds", "1", "--memory")
    parts = result["costs"]["client_memory"]
    # Six inputs, eight hidden units, two classes, in float32.
    assert parts["parameters_bytes"] == 4 * (6 * 8 + 8 + 8 * 2 + 2)
    assert result["row"]["client_peak_bytes"] == parts["peak_bytes"]


@pytest.mark.parametrize(
    ("model", "inputs", "method", "parameters"),
    [
        ("tokens", "torch.randint(9, (n, 3))", "fedavg", 9 * 4 + 3 * 4 * 2 + 2),
        ("images", "torch.randn(n, 1, 2, 2).double()", "fedavg", 2 * (4 * 2 + 2)),
        ("images", "torch.randn(n, 1, 2, 2).double()", "linear", 4 * 2 + 2),
    ],
    ids=["tokens", "float64", "linear"],
)
def test_the_process_that_measures_memory_gets_inputs_of_their_kind(
    model, inputs, method, parameters, own, monkeypatch
):
    (own / "kinds.py").write_text(KINDS.replace("INPUTS", inputs))
    monkeypatch.delitem(sys.modules, "kinds", raising=False)
    setting = Setting(dataset="kinds:clients", model=f"kinds:{model}", rounds=1, memory=True)
    setting = dataclasses.replace(setting, timed_steps=0)
    monkeypatch.syspath_prepend(str(own))
    memory = play(method, setting, load_problem(setting, 0), 0).costs.client_memory
    assert memory.parameters_bytes == 4 * parameters
