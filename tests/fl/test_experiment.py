"""Runs by name: how the data of a setting fall to clients, and that such runs resume."""

import dataclasses

import pytest

from sparsefl import data
from sparsefl.fl import Schedule, experiment, load_method
from sparsefl.fl.experiment import Setting, load_problem, play

SETTING = Setting(
    dataset="digits",
    model="linear",
    clients=4,
    rounds=2,
    schedule=Schedule(local_steps=2),
    timed_steps=0,
)


def positions(dataset):
    """Returns where the examples of nested subsets lie in the whole."""
    found = range(len(dataset))
    while hasattr(dataset, "indices"):
        found = [dataset.indices[index] for index in found]
        dataset = dataset.dataset
    return list(found)


def with_test(share):
    return Setting(**{**vars(SETTING), "client_test": share})


def test_a_client_is_divided_into_disjoint_parts():
    whole = load_problem(SETTING, seed=3)
    parted = load_problem(with_test(0.2), seed=3)
    for pair, triple in zip(whole.clients, parted.clients, strict=True):
        assert len(pair) == 2
        train, dev, test = (positions(part) for part in triple)
        assert dev == positions(pair[1])
        assert sorted(train + test) == sorted(positions(pair[0]))
        assert len(test) == int(0.2 * (len(train) + len(dev) + len(test)))
        assert not set(train) & set(test)


@pytest.mark.parametrize("share", [-0.1, 0.9])
def test_an_impossible_share_is_named(share):
    with pytest.raises(ValueError, match="client_test must lie in"):
        load_problem(with_test(share), seed=0)


def test_reports_call_the_data_what_their_copy_calls_itself(monkeypatch):
    train, test, info = data.load("digits")
    copy = dataclasses.replace(info, label="UCI digits (JPEG copy)")
    monkeypatch.setattr("sparsefl.data.load", lambda *_: (train, test, copy))
    problem = load_problem(SETTING, seed=0)
    result = play("fedavg", SETTING, problem, 0)
    assert result.row()["data"] == "UCI digits (JPEG copy), dirichlet:0.5"


def test_a_named_run_resumes(tmp_path):
    problem = load_problem(SETTING, seed=0)
    first = play("fedavg", SETTING, problem, 0, checkpoint=tmp_path)
    longer = Setting(**{**vars(SETTING), "rounds": 3})
    seen = []
    resumed = play(
        "fedavg", longer, problem, 0, on_round=seen.append, checkpoint=tmp_path, resume=True
    )
    assert [entry.round for entry in seen] == [3]
    assert resumed.ledger.rounds[:2] == first.ledger.rounds
    assert resumed.model_sha256 == play("fedavg", longer, problem, 0).model_sha256


def test_public_data_are_held_out_of_the_clients_for_all_methods_alike(monkeypatch):
    plain, none = load_problem(SETTING, 3), load_problem(SETTING, 3, ["fedavg", "linear"])
    assert none.public is None
    assert [len(own) for own, _ in none.clients] == [len(own) for own, _ in plain.clients]
    needy = dataclasses.replace(load_method("fedpt"), trains_on_public=True)
    found = {"fedpt": needy, "fedavg": load_method("fedavg")}
    monkeypatch.setattr(experiment, "load_method", found.__getitem__)
    first, second = (load_problem(SETTING, seed, ["fedavg", "linear", "fedpt"]) for seed in (3, 4))
    held, total = len(first.public), sum(len(part) for client in first.clients for part in client)
    assert held == len(second.public) > 0
    assert total == sum(len(part) for client in plain.clients for part in client) - held
    assert positions(first.public) == positions(second.public)
    own = {*positions(first.public)}
    others = [first.dev, *(part for client in first.clients for part in client)]
    assert not any(own & {*positions(part)} for part in others)
    asked = load_problem(dataclasses.replace(SETTING, public_examples=17), 3)
    assert len(asked.public) == 17
    with pytest.raises(ValueError, match="public_examples must be at least 0, got -1"):
        load_problem(dataclasses.replace(SETTING, public_examples=-1), 3)
