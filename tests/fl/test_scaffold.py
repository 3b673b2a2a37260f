"""SCAFFOLD's equations against a hand-written loop, its bytes and its clients' memory."""

import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import Schedule, Task, engine, load_method
from sparsefl.fl.methods import scaffold
from sparsefl.fl.pool import Pool
from sparsefl.fl.training import local_step

METHOD = load_method("scaffold")
STEPS, RATE, CLIENTS = 3, 0.2, 4


def linear() -> nn.Module:
    return nn.Linear(5, 1, bias=False).double()


def squares(outputs, labels):
    return (outputs[:, 0] - labels).square().mean() / 2


def data(client, round, step):
    draws = torch.Generator().manual_seed(100 * round + 10 * client + step)
    x = torch.randn(6, 5, generator=draws, dtype=torch.float64)
    return x, x @ torch.arange(5.0).double() + client


def by_hand(x, cohorts, weights, momentum=0.0, rate=1.0):
    """Plays algorithm 1 with option II in plain loops over a linear model."""
    c, own = torch.zeros(5).double(), torch.zeros(CLIENTS, 5).double()
    for round, cohort in enumerate(cohorts, start=1):
        drift, change = torch.zeros(5).double(), torch.zeros(5).double()
        for k in cohort:
            y, speed, length = x.clone(), torch.zeros(5).double(), 0.0
            for step in range(STEPS):
                inputs, labels = data(k, round, step)
                gradient = inputs.T @ (inputs @ y - labels) / len(labels)
                speed = momentum * speed + gradient - own[k] + c
                y = y - RATE * speed
            for step in range(STEPS):
                length += sum(momentum**j for j in range(STEPS - step))
            new = own[k] - c + (x - y) / (length * RATE)
            drift += weights[k] * (y - x)
            change += weights[k] * (new - own[k])
            own[k] = new
        total = sum(weights[k] for k in cohort)
        x = x + rate * drift / total
        c = c + len(cohort) / CLIENTS * change / total
    return x, c, own


def played(cohorts, weights, **options):
    """Plays the same by the method's functions, over messages that keep float64."""
    options = METHOD.with_defaults({"lr": RATE, "clients": CLIENTS, **options})
    task = Task(linear, torch.zeros(1, 5), 0, 1.0, options)
    state, client, memories = METHOD.init(task), METHOD.new_client(task, None), {}
    for round, cohort in enumerate(cohorts, start=1):
        pool = Pool(client.wire.schema, {}, ())
        for k in cohort:
            sent = METHOD.broadcast(state, round)
            METHOD.receive(client, sent)
            METHOD.recall(client, memories.get(k))
            optimizer = METHOD.optimizer(client, round)
            for step in range(STEPS):
                local_step(client.model, optimizer, *data(k, round, step), squares)
            reply = METHOD.report(client, sent, round)
            message = codec.encode(reply, client.wire.schema, "raw")
            pool.add(message, weights[k], {})
            memories[k] = METHOD.remember(client)
        state = METHOD.aggregate(state, pool.mean())
    return state, memories


START = METHOD.init(Task(linear, torch.zeros(1, 5), 0, 1.0, METHOD.defaults)).tensors["weight"][0]
ALL = [tuple(range(CLIENTS))] * 4
SOME = [(0, 2), (1, 2, 3), (3,), (0, 1), (2, 0)]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.6}, {"server_lr": 0.5}], ids=str)
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 3, 4)], ids=["equal", "uneven"])
@pytest.mark.parametrize("cohorts", [ALL, SOME], ids=["all", "some"])
def test_rounds_are_those_of_the_algorithm(cohorts, weights, options):
    state, memories = played(cohorts, weights, **options)
    rate = options.get("server_lr", 1.0)
    x, c, own = by_hand(START, cohorts, weights, options.get("momentum", 0.0), rate)
    torch.testing.assert_close(state.tensors["weight"][0], x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.mean_controls["weight"][0], c, rtol=1e-9, atol=1e-9)
    for k, memory in memories.items():
        torch.testing.assert_close(memory["weight"][0], own[k], rtol=1e-9, atol=1e-9)


def test_server_control_is_the_mean_of_the_clients():
    state, memories = played(SOME, (1, 1, 1, 1))
    mean = sum(memory["weight"] for memory in memories.values()) / CLIENTS
    torch.testing.assert_close(state.mean_controls["weight"], mean)


def test_counted_clients_are_those_of_the_algorithm_where_all_take_part():
    given, _ = played(ALL, (1, 2, 3, 4))
    counted, _ = played(ALL, (1, 2, 3, 4), clients=0)
    assert counted.met == CLIENTS
    torch.testing.assert_close(counted.tensors["weight"], given.tensors["weight"])


def test_newcomers_of_an_uncounted_federation_make_plain_steps():
    state, memories = played([(0,)], (1,) * 4, clients=0)
    assert state.met == 1
    torch.testing.assert_close(state.mean_controls["weight"], memories[0]["weight"])
    second, both = played([(0,), (1,)], (1,) * 4, clients=0)
    x = state.tensors["weight"][0]
    for step in range(STEPS):
        inputs, labels = data(1, 2, step)
        x = x - RATE * inputs.T @ (inputs @ x - labels) / len(labels)
    torch.testing.assert_close(second.tensors["weight"][0], x)
    mean = (both[0]["weight"] + both[1]["weight"]) / 2
    torch.testing.assert_close(second.mean_controls["weight"], mean)


def test_messages_are_twice_fedavgs_both_ways(small):
    ours, plain = (small(name).row() for name in ("scaffold", "fedavg"))
    assert ours["uplink_claimed_bytes"] == 2 * plain["uplink_claimed_bytes"]
    for way in ("uplink_bytes", "downlink_bytes"):
        assert 1.7 * plain[way] < ours[way] < 2.3 * plain[way]


def test_memories_are_of_trained_parameters_and_buffers_are_averaged(federation, toy):
    run = federation("scaffold", factory=toy.norm_net)
    run.play(1)
    trained = {name for name, _ in toy.norm_net().named_parameters()}
    assert set(run.memories) == {0, 1, 2}
    assert all(set(memory) == trained for memory in run.memories.values())
    assert not torch.equal(run.memories[0]["5.weight"], run.memories[1]["5.weight"])
    kept = {client: memory["5.weight"].clone() for client, memory in run.memories.items()}
    run.schedule = Schedule(batch_size=16, clients_per_round=1)
    (chosen,) = run.cohort(2)
    run.play(2)
    same = {c: torch.equal(kept[c], memory["5.weight"]) for c, memory in run.memories.items()}
    assert same == {client: client != chosen for client in kept}


def test_a_lost_client_keeps_its_control_and_is_not_counted(federation, monkeypatch):
    run = federation("scaffold")
    train = engine.train

    def poisoned(model, optimizer, dataset, **named):
        work = train(model, optimizer, dataset, **named)
        if dataset is run.datasets[1]:
            model[6].bias.data[0] = float("nan")
        return work

    monkeypatch.setattr(engine, "train", poisoned)
    entry = run.play(1)
    assert (entry.clients, entry.lost) == (2, 1)
    assert run.state.met == 2
    assert set(run.memories) == {0, 2}
    assert all(c.isfinite().all() for c in run.state.controls.values())


@pytest.mark.parametrize(
    "change",
    [lambda c: None, lambda c: codec.Dense(torch.zeros(2))],
    ids=["missing", "other shape"],
)
def test_a_broadcast_without_fitting_controls_is_refused_untouched(change, federation):
    run = federation("scaffold")
    client = run.new_client()
    entries = dict(run.receive(client, run.broadcast(1)))
    before = {name: value.clone() for name, value in client.model.state_dict().items()}
    entries["6.bias"] = codec.Dense(torch.ones(3))
    changed = change(entries.pop("scaffold:control/6.weight"))
    if changed is not None:
        entries["scaffold:control/6.weight"] = changed
    with pytest.raises(ValueError, match=r"control variate that fits 6\.weight"):
        run.method.receive(client, codec.Update(entries))
    assert all(torch.equal(before[n], v) for n, v in client.model.state_dict().items())


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_a_client_that_has_not_moved_keeps_its_control(lr, federation):
    run = federation("scaffold", lr=lr)
    run.play(1)
    client = run.new_client()
    received = run.receive(client, run.broadcast(2))
    run.method.recall(client, run.memories[0])
    run.method.optimizer(client, 2)
    update = run.method.report(client, received, 2)
    assert not update["scaffold:control/6.weight"].values.any()
    kept = run.method.remember(client)
    assert all(torch.equal(kept[name], value) for name, value in run.memories[0].items())


def test_effective_steps_are_the_steps_without_momentum():
    assert scaffold.effective_steps(7, 0.0) == 7
    assert scaffold.effective_steps(2, 0.5) == pytest.approx(1 + 1.5)
