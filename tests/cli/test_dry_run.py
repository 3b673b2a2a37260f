import re

import pytest

from sparsefl import cli
from sparsefl.fl.experiment import Setting, load_problem
from sparsefl.fl.forecast import forecast
from sparsefl.names import COMPARED, METHODS

QUICK = {"hidenseek": {"iterations": 5}}
# Bounds of what broadcasts take, of the first one's bytes: SCAFFOLD's control variates are 0 in it,
# which costs nothing, and scores of FedPM take few values once they have been voted on.
BROADCASTS = {"scaffold": (1.0, 2.1), "fedpm": (0.5, 1.0)}


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_are_those_of_the_run(method, run, tiny):
    # ADP needs a convolution after the first, with batch norm.
    model, norm = ("cnn", "batch") if method == "adp" else ("mlp", None)
    setting = Setting(dataset="digits", model=model, norm=norm, clients=3, rounds=2)
    said = forecast(method, setting, load_problem(setting, 0, [method]), 0, QUICK.get(method, {}))
    options = [f"--set={key}={value}" for key, value in QUICK.get(method, {}).items()]
    options += ["--model", model, *(["--norm", norm] if norm else [])]
    spent = run(method, *tiny, *options)["ledger"]
    # Values are entropy-coded: those of a trained model take some other bytes than the first ones.
    low, high = BROADCASTS.get(method, (0.95, 1.05))
    assert low <= spent["downlink_bytes"] / (2 * 3 * said.downlink_bytes) <= high
    before = spent["setup_bytes"] + spent["setup_uplink_bytes"]
    assert before == 3 * said.setup_bytes + said.prepare_bytes
    least, most = sorted([said.uplink_bytes, said.trained_uplink_bytes])
    assert 0.95 * 2 * 3 * least <= spent["uplink_bytes"] <= 1.05 * 2 * 3 * most


def test_minutes_follow_from_steps_and_rounds():
    setting = Setting(dataset="digits", model="mlp", clients=3, rounds=7, evaluate_every=3)
    said = forecast("fedavg", setting, load_problem(setting, 0), 0, {})
    assert said.evaluations == 3
    step = said.local_steps * said.step_s + said.exchange_s
    expected = said.setup_s + 7 * 3 * step + 3 * said.evaluate_s
    assert said.wall_s == pytest.approx(expected)


def test_nothing_is_trained_and_nothing_written(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    quick = ["--set", "hidenseek.iterations=5", "--out", str(out)]
    assert cli.main(["compare", *tiny, *quick, "--dry-run"]) == 0
    assert not out.exists()
    text = capsys.readouterr().out
    assert all(f"{name}: layers" in text for name in COMPARED)
    assert re.search(r"SignLinear +\w+ +0\.\d+ +[\d,]+ +sparse kernels", text)
    assert re.search(r"FrozenLinear .*no weight gradient", text)
    assert "minutes in all" in text


def test_a_dry_run_of_one_method_names_its_layers(tiny, capsys):
    assert cli.main(["run", "fedavg", *tiny, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "fc1" in text
    assert "dense torch" in text
