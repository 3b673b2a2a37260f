"""Runs that were interrupted, and logs."""

import csv
import json

import pytest

from sparsefl import cli
from sparsefl.cli.logs import Logs


@pytest.fixture
def interrupted(monkeypatch):
    """Returns a caller of a command that is interrupted after its second round."""

    def call(arguments):
        rounds = []

        def write(self, folder, entry):
            rounds.append(entry)
            if len(rounds) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Logs, "write", write)
            assert cli.main(arguments) == 130

    return call


@pytest.fixture
def three(tiny):
    return [*tiny[:6], "--rounds", "3", "--local-steps", "2"]


def test_an_interrupted_run_goes_on_to_the_same_model(interrupted, run, three, tmp_path, capsys):
    whole = run("fedpt", *three, "--seed", "5", out="whole")
    interrupted(["run", "fedpt", *three, "--seed", "5", "--out", str(tmp_path / "cut")])
    assert not (tmp_path / "cut/result.json").exists()
    capsys.readouterr()
    # Its settings are read from the folder.
    resumed = run("--resume", out="cut")
    assert "round 1/3" not in capsys.readouterr().err
    assert resumed["model_sha256"] == whole["model_sha256"]
    assert len((tmp_path / "cut/log.jsonl").read_text().splitlines()) == 3


def test_a_finished_run_goes_on_to_more_rounds(run, three):
    longer = run("fedavg", *three, "--set", "lr_decay=1.0", out="longer")
    run("fedavg", *three[:6], "--rounds", "1", "--local-steps", "2", out="short")
    assert run("--resume", "--rounds", "3", out="short")["model_sha256"] == longer["model_sha256"]


def test_an_interrupted_run_is_not_lost_by_mistake(interrupted, refused, run, three, tmp_path):
    arguments = ["run", "fedavg", *three, "--out", str(tmp_path / "out")]
    interrupted(arguments)
    assert "--resume" in refused(*arguments)
    assert run("--resume")["config"]["rounds"] == 3


def test_a_finished_run_is_written_over(run, tiny):
    assert run("fedavg", *tiny, "--seed", "1") != run("fedavg", *tiny, "--seed", "2")


def test_another_run_is_not_resumed(run, refused, tiny, tmp_path):
    run("fedavg", *tiny)
    out = ["--out", str(tmp_path / "out")]
    assert "lr" in refused("run", "--resume", "--lr", "0.5", *out)


def test_an_interrupted_comparison_goes_on(interrupted, tiny, tmp_path):
    compared = ["--methods", "linear,fedavg", "--timed-steps", "0", "--no-memory", "--no-plots"]
    arguments = ["compare", *tiny, *compared]
    assert cli.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    interrupted([*arguments, "--out", str(tmp_path / "cut")])
    assert cli.main(["compare", "--resume", "--out", str(tmp_path / "cut")]) == 0
    for name in ("linear-0", "fedavg-0"):
        digests = [
            json.loads((tmp_path / folder / name / "result.json").read_text())["model_sha256"]
            for folder in ("whole", "cut")
        ]
        assert digests[0] == digests[1]


def test_several_seeds_are_one_command(run, tiny, tmp_path, capsys):
    out = tmp_path / "s"
    assert cli.main(["run", "fedavg", *tiny, "--seeds", "3,4", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "2 seeds" in text
    assert "±" in text
    assert json.loads((out / "summary.json").read_text())["seeds"] == [3, 4]
    alone = run("fedavg", *tiny, "--seed", "4")
    kept = json.loads((out / "seed-4/result.json").read_text())
    assert kept["model_sha256"] == alone["model_sha256"]
    again = tmp_path / "again"
    assert cli.main(["run", "--config", str(out / "config.toml"), "--out", str(again)]) == 0
    repeated = json.loads((again / "seed-4/result.json").read_text())
    assert repeated["model_sha256"] == alone["model_sha256"]


@pytest.mark.parametrize("seeds", ["", "1,1", "one"])
def test_seeds_that_are_none_are_refused(seeds, refused, tiny):
    assert "seeds must be" in refused("run", "fedavg", *tiny, "--seeds", seeds)


def test_csv_has_a_line_a_round(run, tiny, tmp_path):
    run("fedavg", *tiny, "--csv")
    with (tmp_path / "out/log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["round"] for line in lines] == ["1", "2"]
    assert int(lines[0]["uplink_bytes"]) > 0


def test_tensorboard_is_written_or_named(run, tiny, tmp_path, refused):
    pytest.importorskip("tensorboard")
    run("fedavg", *tiny, "--tensorboard")
    assert list((tmp_path / "out/tensorboard").glob("events*"))


def test_missing_tensorboard_says_what_to_install(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    out = ["--out", str(tmp_path / "t")]
    assert cli.main(["run", "fedavg", *tiny, "--tensorboard", *out]) == 2
    assert "sparsefl[tensorboard]" in capsys.readouterr().err
