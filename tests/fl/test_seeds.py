import json

import numpy as np
import pytest

from sparsefl.fl import Schedule, Spread, run_seeds


@pytest.fixture
def seeds(toy, clients, test_data):
    def play(seeds, **arguments):
        defaults = {"rounds": 2, "timed_steps": 0, "schedule": Schedule(batch_size=16)}
        given = {"model": toy.cnn, "clients": clients, "test": test_data, **defaults, **arguments}
        return run_seeds("fedavg", seeds=seeds, **given)

    return play


def test_each_seed_is_the_run_of_that_seed(seeds, small):
    found = seeds([4, 2])
    assert found.seeds == [4, 2]
    single = small("fedavg", rounds=2, seed=2)
    assert found.results[1].model_sha256 == single.model_sha256
    assert found.results[0].model_sha256 != single.model_sha256


def test_spread_of_known_numbers():
    assert Spread.of([1.0, 3.0, 2.0]) == Spread(2.0, 1.0, 1.0, 3.0)
    assert Spread.of([5.0]) == Spread(5.0, None, 5.0, 5.0)
    assert str(Spread.of([0.8, 0.9])) == "0.85 +- 0.071"


def test_seeds_of_numpy_are_those_of_python(seeds, tmp_path):
    found = seeds(np.arange(2))
    assert [type(seed) for seed in found.seeds] == [int, int]
    found.save(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["seeds"] == [0, 1]


def test_mean_and_spread_of_what_was_measured(seeds, tmp_path):
    calls = []
    found = seeds([0, 1, 2], on_round=lambda seed, entry: calls.append((seed, entry.round)))
    accuracies = [result.accuracy for result in found.results]
    assert found.accuracy.mean == pytest.approx(sum(accuracies) / 3)
    assert (found.accuracy.least, found.accuracy.most) == (min(accuracies), max(accuracies))
    assert calls == [(s, r) for s in (0, 1, 2) for r in (1, 2)]
    summary = found.summary()
    assert summary["uplink_bytes"].std < 0.01 * summary["uplink_bytes"].mean
    assert "accuracy_per_client.worst_decile" in summary
    assert not {"client_step_s", "seed", "method"} & set(summary)
    assert "fedavg" in found.table()
    found.save(tmp_path)
    report = json.loads((tmp_path / "summary.json").read_text())
    assert report["spread"]["accuracy"]["mean"] == found.accuracy.mean
    assert (tmp_path / "seed-2" / "result.json").exists()


def test_clients_may_depend_on_the_seed(seeds, toy):
    drawn = []

    def clients(seed):
        drawn.append(seed)
        return [(toy.clusters(20, seed), toy.clusters(5, 50 + seed))]

    found = seeds([3, 8], clients=clients)
    assert drawn == [3, 8]
    assert [result.config["clients"] for result in found.results] == [1, 1]


def test_every_seed_has_its_checkpoint(seeds, tmp_path):
    first = seeds([0, 1], checkpoint=tmp_path)
    again = seeds([0, 1, 2], checkpoint=tmp_path, resume=True)
    hashes = [result.model_sha256 for result in again.results]
    assert hashes[:2] == [result.model_sha256 for result in first.results]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("wrong", [[], [1, 2, 1]])
def test_seeds_must_differ(wrong, seeds):
    with pytest.raises(ValueError, match="different integers"):
        seeds(wrong)
