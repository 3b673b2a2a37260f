import json

import pytest

from sparsefl import cli

NETWORKS = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))

class Pair(nn.Module):
    def __init__(self, size=6):
        super().__init__()
        self.fc = nn.Linear(size, size)
    def forward(self, x, scale):
        return self.fc(x) * scale

def pair():
    return torch.randn(4, 6), torch.ones(4, 1)

def needs(size):
    return nn.Linear(size, size)

def recurrent():
    return nn.LSTM(3, 3)
"""
QUICK = ["--seconds", "0.01", "--batch-size", "4", "--masks", "random"]


@pytest.fixture(autouse=True)
def networks(tmp_path, monkeypatch):
    (tmp_path / "profiled_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def profiled(*arguments):
    return cli.main(["profile", *arguments, *QUICK])


def test_a_table_is_printed_and_json_written(networks, capsys):
    spec = "profiled_networks:net"
    assert profiled(spec, "--input-shape", "12", "--json", "out.json") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{spec}, batch 4")
    assert "these verdicts" in shown.out
    assert "Wrote out.json" in shown.out
    assert "layers" in shown.err
    read = json.loads((networks / "out.json").read_text())
    assert read["settings"]["model"] == spec
    assert [layer["name"] for layer in read["layers"]] == ["0", "2"]


def test_other_inputs_come_from_a_function(capsys):
    spec = ["profiled_networks:Pair", "--example", "profiled_networks:pair"]
    assert profiled(*spec) == 0
    assert "fc" in capsys.readouterr().out


def test_the_packages_models_go_by_name(capsys):
    assert profiled("mlp", "--input-shape", "1,7,7", "--layer", "sign", "--threads", "1") == 0
    assert "sign layers" in capsys.readouterr().out


def test_named_models_have_the_classes_asked_for(networks):
    arguments = ["mlp", "--input-shape", "1,7,7", "--classes", "62", "--json", "out.json"]
    assert profiled(*arguments) == 0
    layers = json.loads((networks / "out.json").read_text())["layers"]
    assert layers[-1]["shape"][0] == 62


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profiled_networks:net"], "--input-shape"),
        (["profiled_networks:gone", "--input-shape", "3"], "cannot load"),
        (["nowhere:net", "--input-shape", "3"], "nowhere"),
        (["nothing", "--input-shape", "3"], "PKG.MOD:NET"),
        (["mlp", "--example", "profiled_networks:pair"], "needs --input-shape"),
        (["profiled_networks:needs", "--input-shape", "3"], "without arguments"),
        (["profiled_networks:net", "--input-shape", "13"], "[4, 13]"),
        (["profiled_networks:recurrent", "--input-shape", "2,3"], "no layer of LSTM"),
        (["profiled_networks:net", "--input-shape", "12", "--density", "2"], "density"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_one_line_with_the_fix(arguments, message, capsys):
    assert profiled(*arguments) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert line.startswith("sparsefl: error: ")
    assert message in line


@pytest.mark.parametrize("shape", ["a", "1,,2", ""])
def test_a_shape_that_is_none_is_refused(shape, capsys):
    assert profiled("mlp", "--input-shape", shape) == 2
    assert "is no list of sizes" in capsys.readouterr().err
