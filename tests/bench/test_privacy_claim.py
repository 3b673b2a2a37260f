"""The study of accuracy under privacy, at a size of seconds."""

from dataclasses import replace

import pytest

from sparsefl.bench.claims import privacy
from sparsefl.fl.experiment import load_problem


def test_a_row_is_tuned_on_development_data_and_says_what_it_spent(monkeypatch):
    pytest.importorskip("dp_accounting")
    monkeypatch.setattr(privacy, "TRIALS", (0.1, 0.3))
    schedule = replace(privacy.SETTING.schedule, clients_per_round=5, local_steps=1)
    setting = replace(
        privacy.SETTING,
        dataset="digits",
        clients=20,
        partition="iid",
        rounds=2,
        dev_examples=50,
        schedule=schedule,
    )
    problems = {seed: load_problem(setting, seed) for seed in (9, 0)}
    found = privacy.measure_row("fc1 frozen", setting, problems, 0.0, "python -m x")
    # 64 x 200 weights are frozen; biases, fc2 and fc3 are not.
    assert found.accounting["trained_parameters"] == 200 + 200 * 200 + 200 + 2000 + 10
    assert found.measured["epsilon"] > 0
    assert set(found.settings["trials_dev_accuracy"]) == {"0.1", "0.3"}
    assert found.verdict == "reproduced"
