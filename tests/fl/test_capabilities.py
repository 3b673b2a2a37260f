"""Clients that can train different shares of the model: who trains what, its means, its bytes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl import Federation, Schedule, Task, load_method
from sparsefl.fl.capabilities import spread
from sparsefl.fl.pool import Pool, merge
from sparsefl.support import Support

FEDPT = load_method("fedpt")
# Of the 1,003 parameters of the tiny CNN the linear layer 4 holds 864, the output layer 72.
FROZEN = {0.1: {"4.weight", "6.weight"}, 0.5: {"4.weight"}, 1.0: set()}


@pytest.fixture
def mixed(toy, clients):
    """Returns a builder of federations of FedPT, one capability a client."""

    def build(*capabilities, method=FEDPT, **options):
        data = [train for train, _ in clients][: len(capabilities)]
        task = Task(toy.cnn, torch.zeros(1, *toy.pixels), 0, 1.0, method.with_defaults(options))
        schedule = Schedule(batch_size=16)
        return Federation(method, task, data, schedule, capabilities=capabilities)

    return build


def replies(run, monkeypatch):
    """Collects what the clients of a federation report."""
    seen = []
    report = run.method.report

    def recorded(client, received, round):
        seen.append(report(client, received, round))
        return seen[-1]

    run.method = replace(run.method, report=recorded)
    return seen


def test_each_position_is_averaged_over_the_clients_that_own_it(mixed, monkeypatch):
    run = mixed(0.1, 1.0, 0.5)
    before = dict(run.state.trainable)
    seen = replies(run, monkeypatch)
    entry = run.play(1)
    assert (entry.clients, entry.lost) == (3, 0)
    examples = [len(data) for data in run.datasets]
    for name, old in before.items():
        owners = [k for k, update in enumerate(seen) if name in update]
        assert owners == [k for k, c in enumerate((0.1, 1.0, 0.5)) if name not in FROZEN[c]]
        total = sum(examples[k] for k in owners)
        mean = sum(examples[k] / total * seen[k][name].values.astype("f8") for k in owners)
        expected = old.double() + torch.from_numpy(np.asarray(mean))
        torch.testing.assert_close(run.state.trainable[name].double(), expected)


def test_what_nobody_of_a_round_owns_stays(mixed):
    run = mixed(0.1, 1.0, 0.5)
    run.datasets = [run.datasets[0], [], run.datasets[2]]
    run._examples = [40, 0, 33]
    before = dict(run.state.trainable)
    run.play(1)
    moved = {n for n, old in before.items() if not torch.equal(old, run.state.trainable[n])}
    assert moved == set(before) - FROZEN[0.5]


def test_what_all_freeze_is_never_sent(mixed):
    run = mixed(0.1, 0.5)
    assert run.state.frozen == ("4.weight",)
    sent = run.method.broadcast(run.state, 1)
    assert isinstance(sent["4.weight"], codec.Regenerated)
    run.play(1)
    assert "4.weight" not in run.state.trainable


def test_the_ledger_counts_each_group_as_sent(mixed, monkeypatch):
    run = mixed(0.1, 1.0, 0.1)
    seen = replies(run, monkeypatch)
    down = len(run.broadcast(1))
    entry = run.play(1)
    up = [len(codec.encode(update, run.wire.schema)) for update in seen]
    assert entry.uplink_bytes == sum(up)
    weak, strong = run.ledger.groups[0.1], run.ledger.groups[1.0]
    assert (weak.members, weak.clients, strong.members) == (2, 2, 1)
    assert (weak.uplink_bytes, strong.uplink_bytes) == (up[0] + up[2], up[1])
    assert up[0] < up[1] / 5
    assert (weak.downlink_bytes, strong.downlink_bytes) == (2 * down, down)
    assert weak.local_steps + strong.local_steps == entry.local_steps
    run.play(2)
    assert run.ledger.groups[0.1].clients == 4


def test_a_lost_client_is_lost_to_its_group(mixed, monkeypatch):
    run = mixed(0.1, 1.0)

    class Broken:
        def __len__(self):
            return 11

        def __getitem__(self, index):
            raise OSError("disk gone")

    run.datasets = [Broken(), run.datasets[1]]
    run.play(1)
    assert (run.ledger.groups[0.1].lost, run.ledger.groups[1.0].clients) == (1, 1)


def test_equal_capabilities_are_the_plain_method(mixed, federation, clients):
    same = mixed(0.5, 0.5, 0.5)
    plain = federation("fedpt", frozen="4")
    for run in (same, plain):
        run.play(1)
    assert same.ledger.rounds[0].uplink_bytes == plain.ledger.rounds[0].uplink_bytes
    for name, value in plain.state.trainable.items():
        assert torch.equal(value, same.state.trainable[name])


def test_a_run_reports_its_groups_and_resumes(small, tmp_path):
    class KilledError(Exception):
        pass

    def kill(entry):
        if entry.round == 2:
            raise KilledError

    arguments = {"capabilities": [0.1, 1.0, 0.5], "rounds": 4}
    whole = small("fedpt", **arguments)
    with pytest.raises(KilledError):
        small("fedpt", **arguments, checkpoint=tmp_path, on_round=kill)
    resumed = small("fedpt", **arguments, checkpoint=tmp_path, resume=True)
    assert resumed.model_sha256 == whole.model_sha256
    counts = [{k: v for k, v in g.items() if k != "train_s"} for g in whole.row()["groups"]]
    again = [{k: v for k, v in g.items() if k != "train_s"} for g in resumed.row()["groups"]]
    assert counts == again
    assert [group["capability"] for group in counts] == [1.0, 0.5, 0.1]
    assert sum(group["uplink_bytes"] for group in counts) == whole.row()["uplink_bytes"]
    assert "Clients by the share of the weights" in whole.table()
    parameters = {1.0: 1003, 0.5: 1003 - 864, 0.1: 1003 - 864 - 72}
    claimed = sum(4 * 4 * count for count in parameters.values())
    assert whole.row()["uplink_claimed_bytes"] == claimed
    with pytest.raises(ValueError, match="capabilities"):
        small("fedpt", rounds=4, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("method", "arguments", "says"),
    [
        ("fedavg", {"capabilities": [1.0, 0.5, 0.5]}, "fedavg takes no capabilities"),
        ("hidenseek", {"capabilities": [1.0, 0.5, 0.5]}, "hidenseek takes no capabilities"),
        ("fedpt", {"capabilities": [1.0, 0.5]}, "one a client, 3, got 2"),
        ("fedpt", {"capabilities": [1.0, 0.5, 0]}, "above 0 and at most 1, got 0"),
        ("fedpt", {"capabilities": [1.0, 0.5, 1.5]}, "above 0 and at most 1, got 1.5"),
        (
            "fedpt",
            {"capabilities": [1.0, 0.5, 0.5], "options": {"frozen": "4"}},
            "capabilities or one of frozen",
        ),
        ("fedpt", {"capabilities": [1.0, 0.5, 0.01]}, "frozen_fraction"),
        (
            "fedpt",
            {"capabilities": [1.0, 0.5, 0.5], "options": {"dp_clip": 1.0}},
            "dp_clip do not go together",
        ),
    ],
)
def test_odd_capabilities_are_refused(method, arguments, says, small):
    with pytest.raises(ValueError, match=says):
        small(method, **arguments)
    with pytest.raises(TypeError, match="must be numbers"):
        small("fedpt", capabilities=[1.0, "0.5", 0.5])


def test_capabilities_are_given_in_turn():
    assert spread([0.1, 0.2, 0.3], 7) == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1]
    assert spread([], 3) == []


def test_supports_within_each_other_are_merged_by_position():
    shape = (5, 7)
    whole = Support.random(shape, 0.6, seed=1)
    mask = whole.to_mask() & (torch.rand(shape) < 0.5)
    part = Support.from_mask(mask)
    schema = codec.Schema({"w": (shape, "float32")})
    draws = torch.Generator().manual_seed(0)
    total, weight = torch.zeros(shape).double(), torch.zeros(shape).double()
    pools = []
    for support, weights in ((whole, (2.0,)), (part, (3.0, 5.0))):
        pool = Pool(schema, {"w": support}, ["w"])
        for own in weights:
            values = torch.randn(support.nnz, generator=draws)
            update = codec.Update({"w": codec.Sparse(support, values)})
            base = {"w": support}
            pool.add(codec.encode(update, schema, base=base), own, base)
            total[support.to_mask()] += own * values.double()
            weight[support.to_mask()] += own
        pools.append(pool)
    kept = whole.to_mask()
    still = {"w": torch.full((whole.nnz,), 7.0)}
    mean = merge(pools, {"w": whole}, still)
    assert mean.clients == 3
    torch.testing.assert_close(mean.tensors["w"], (total / weight)[kept])
    alone = merge(pools[1:], {"w": whole}, still).tensors["w"]
    assert (alone[~mask[kept]] == 7).all()
    torch.testing.assert_close(mean.tensors["w"][~mask[kept]] * 2, total[kept & ~mask])
    with pytest.raises(ValueError, match="w: the support of weaker clients is no part"):
        merge(pools, {"w": part}, {"w": torch.zeros(part.nnz)})
