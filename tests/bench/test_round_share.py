"""What the claims of rounds and of aggregation make of seconds that are given."""

import pytest
import torch

from sparsefl.bench.claims import round_share
from sparsefl.bench.claims.claim import HERE, read
from sparsefl.bench.claims.trial import federate, network
from sparsefl.fl.experiment import Setting, load_problem
from sparsefl.fl.ledger import Round
from sparsefl.measuring import torch_threads

SMALL = Setting(dataset="digits", model="mlp", clients=3, partition="iid")


@pytest.fixture(autouse=True)
def one_thread():
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def problem():
    return load_problem(SMALL, 0)


def test_share_is_training_over_the_wall_clock_of_each_round(problem, monkeypatch):
    entries = [
        Round(2, clients=3, train_s=0.9, aggregate_s=0.3, encode_s=0.06, uplink_bytes=100),
        Round(3, clients=3, train_s=1.6, aggregate_s=0.9, decode_s=0.12, uplink_bytes=300),
        Round(4, clients=2, train_s=0.2, aggregate_s=0.4, uplink_bytes=200),
    ]
    monkeypatch.setattr(round_share, "timed", lambda federation, rounds: (entries, [1, 2, 1]))
    found = round_share.share_claim("fedavg", SMALL, problem, 4, 8, 3, "here")
    assert found.row == "9 Round, fedavg, 4 steps of 8"
    assert found.measured == {
        "training_share": pytest.approx(0.8),
        "round_s": 1,
        "aggregation_a_reply_s": pytest.approx(1.6 / 8),
        "encoding_a_client_s": pytest.approx(0.06 / 8),
        "receiving_a_client_s": pytest.approx(0.12 / 8),
        "received_bytes": 200,
    }
    assert found.goals == {"training_share": (0.9, None)}
    assert found.verdict.startswith("**not reproduced**")


def test_rounds_that_are_timed_come_after_one_of_a_single_step(problem):
    federation = round_share.begun("fedavg", SMALL, problem, 3)
    assert federation.play(1).local_steps == len(problem.clients)
    federation.schedule = round_share.Schedule(batch_size=8, local_steps=2)
    entries, walls = round_share.timed(federation, 2)
    assert [entry.round for entry in entries] == [2, 3]
    assert [entry.local_steps for entry in entries] == [2 * len(problem.clients)] * 2
    assert all(entry.train_s < wall for entry, wall in zip(entries, walls, strict=True))


def test_pruning_methods_say_their_density(problem, monkeypatch):
    monkeypatch.setattr(round_share, "timed", lambda *_: ([Round(2, clients=1)], [1]))
    densities = {
        method: round_share.share_claim(method, SMALL, problem, 1, 8, 1, "here").settings["density"]
        for method in ("fedavg", "hidenseek")
    }
    assert densities == {"fedavg": 1.0, "hidenseek": round_share.DENSITY}


@pytest.mark.parametrize(
    ("power", "verdict"),
    [(1.0, "reproduced"), (0.0, "**not reproduced**")],
    ids=["grows", "constant"],
)
def test_slope_is_of_logarithms_of_seconds_over_bytes(power, verdict, monkeypatch):
    options = ("fp32", "int8", "int4")
    sizes = [(uplink, {"uplink": uplink}, 1.0) for uplink in options]
    monkeypatch.setattr(round_share, "SIZES", {"fedavg": sizes})
    monkeypatch.setattr(round_share, "SETTING", SMALL)
    monkeypatch.setattr(round_share, "IMAGE", (1, 8, 8))
    lengths = {}
    aggregate = round_share.aggregate

    def counting(federation, reply, base):
        lengths[federation.task.options["uplink"]] = len(reply)
        return aggregate(federation, reply, base)

    def given(runs, effort):
        for run in runs.values():
            run()
        return {name: [2e-9 * lengths[name] ** power] * 3 for name in runs}

    monkeypatch.setattr(round_share, "aggregate", counting)
    monkeypatch.setattr(round_share, "seconds_of", given)
    found = round_share.growth_claim("fedavg", "here")
    assert found.measured["slope"] == pytest.approx(power, abs=1e-6)
    assert found.verdict.split(":")[0] == verdict
    received = {name: found.measured[name]["received_bytes"] for name in options}
    assert received == {name: 10 * length for name, length in lengths.items()}
    assert received["fp32"] > received["int8"] > received["int4"]


def test_ten_equal_replies_are_aggregated_to_what_one_says():
    factory = network("mlp", (1, 8, 8), 10)
    federation = federate("fedavg", factory, (1, 8, 8), 10, batch=4, options={"uplink": "int8"})
    before = {name: value.clone() for name, value in federation.state.tensors.items()}
    reply, base = round_share.reply_of(federation), round_share.base_of(federation)
    moved = round_share.aggregate(federation, reply, base).tensors
    change = round_share.codec.decode(reply, federation.wire.schema, base)
    for name, old in before.items():
        assert torch.equal(federation.state.tensors[name], old)
        expected = old.double() + torch.as_tensor(change[name].values).double()
        torch.testing.assert_close(moved[name], expected.float())
    assert any(not torch.equal(moved[name], old) for name, old in before.items())


def test_committed_rows_are_rows_of_the_script():
    rows = {round_share.growth_row(method) for method in round_share.SIZES} | {
        round_share.share_row(method, steps, batch)
        for method in round_share.METHODS
        for steps, batch, _ in round_share.WORK
    }
    committed = read(HERE / "round_share.json")
    assert {own.row for own in committed} <= rows
    assert all(own.goals for own in committed)
