"""A run of seconds, and a network and clients that the package has never seen."""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sparsefl import cli

OWN = """
import torch
from torch.utils.data import TensorDataset


def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def data(n):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))
    return TensorDataset(x, (x[:, 0] > 0).long())


def clients():
    return [(data(40), data(10)), (data(30), data(11))], data(100)


def one_client():
    return data(40), data(10)


def nothing():
    return None


def fails():
    return {}["absent"]


number = 3
"""


@pytest.fixture
def tiny() -> list[str]:
    setting = ["--dataset", "digits", "--model", "mlp", "--clients", "3"]
    return [*setting, "--rounds", "2", "--local-steps", "2"]


@pytest.fixture
def own(tmp_path, monkeypatch) -> pathlib.Path:
    """A folder to work in, with a module of a user's own in it."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def run(tmp_path) -> Callable[..., dict[str, Any]]:
    """Returns a caller of ``sparsefl run`` that gives what it wrote into result.json."""

    def call(*arguments: str, out: str = "out") -> dict[str, Any]:
        folder = tmp_path / out
        assert cli.main(["run", *arguments, "--out", str(folder)]) == 0
        return json.loads((folder / "result.json").read_text())

    return call


@pytest.fixture
def refused(capsys, tmp_path) -> Callable[..., str]:
    """Returns a caller of a command that must end with status 2 and one line, which it gives."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert cli.main([*arguments]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1, error
        assert error.startswith("sparsefl: error: ")
        return error

    return call
