"""Methods that prepare and whose supports change, by one that rotates a layer's every other round.

Its clients say before the first round how many labels of each class they own; the first support
depends on their answers.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsefl import codec
from sparsefl.fl import Federation, Schedule, Task, engine, load_method
from sparsefl.fl.aggregation import cast_like, dense_entries, dense_tensors, load_tensors
from sparsefl.fl.method import Client, Wire
from sparsefl.support import Support

FEDAVG = load_method("fedavg")
LAYER, SHAPE, ROTATED = "4.weight", (24, 36), 40
COUNTS = codec.Schema({"counts": ((3,), "float32")})
STEPS = []


def count_labels(client, dataset, message):
    assert message == b"count"
    counts = np.bincount([int(label) for _, label in dataset], minlength=3).astype(np.float32)
    return codec.encode(codec.Update({"counts": codec.Dense(counts)}), COUNTS)


def prepare(task, state, exchange):
    cohort = exchange.cohort()
    answers = exchange.ask(cohort, b"count", count_labels, check_counts)
    counts = sum(codec.decode(answer, COUNTS)["counts"].values for answer in answers.values())
    assert counts.sum() == sum(exchange.examples(client) for client in answers)
    first = Support.random(SHAPE, task.density, seed=int(counts[0]))
    return state | {"history": [first], "values": state["dense"].pop(LAYER)[first.to_mask()]}


def check_counts(answer):
    codec.decode(answer, COUNTS)


def init(task):
    model = task.new_model()
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    return {"dense": dense, "schema": codec.Schema.of(model), "round": 0}


def setup(state):
    return codec.encode(
        codec.Update({LAYER: codec.SupportOnly(state["history"][0])}), state["schema"]
    )


def new_client(task, message):
    model = task.new_model()
    schema, supports = codec.Schema.of(model), {}
    if message is not None:
        supports = {LAYER: codec.decode(message, schema)[LAYER].support}
    return Client(model, Wire(schema, supports), task.options)


def broadcast(state, round):
    sparse = codec.Sparse(state["history"][-1], state["values"])
    return codec.Update({LAYER: sparse, **dense_entries(state["dense"])}, round=round)


def receive(client, update):
    entry = update[LAYER]
    weight = torch.zeros(SHAPE)
    weight[entry.support.to_mask()] = torch.from_numpy(entry.values)
    load_tensors(client.model, {**dense_tensors(update), LAYER: weight}, client.wire.schema)


def report(client, received, round):
    held, support = client.model.state_dict(), received[LAYER].support
    kept = support.to_mask()
    dense = {name: value for name, value in held.items() if name != LAYER}
    sparse = codec.Sparse(support, held[LAYER][kept])
    return codec.Update({LAYER: sparse, **dense_entries(dense)}, round=round)


def rotated(support, values, round):
    """Drops the smallest weights of a support and adds as many others."""
    mask = support.to_mask().numpy().copy()
    weights = np.zeros(SHAPE, np.float32)
    weights[mask] = values
    free = np.flatnonzero(~mask)
    dropped = np.flatnonzero(mask)[np.argsort(np.abs(values), kind="stable")[:ROTATED]]
    mask.flat[np.random.default_rng(round).choice(free, ROTATED, replace=False)] = True
    mask.flat[dropped] = False
    return Support.from_mask(mask), torch.from_numpy(weights[mask])


def aggregate(state, mean):
    round = state["round"] + 1
    support, values = state["history"][-1], mean.tensors[LAYER].float()
    changed = state | {"round": round, "dense": cast_like(state["dense"], mean.tensors)}
    if round % 2:
        return changed | {"values": values}
    support, values = rotated(support, values.numpy(), round)
    return changed | {"values": values, "history": [*state["history"], support]}


def global_model(task, state):
    model = task.new_model()
    receive(Client(model, Wire(state["schema"], {}), {}), broadcast(state, 1))
    return model


@contextlib.contextmanager
def last_step(client):
    before = client.model[4].weight.detach().clone()
    yield
    assert torch.equal(client.model[4].weight, before)
    assert client.model[4].weight.grad.any()
    STEPS.append(client)


METHOD = replace(
    FEDAVG,
    name="rotating",
    prunes=True,
    init=init,
    prepare=prepare,
    setup=setup,
    server_wire=lambda state: Wire(state["schema"], {LAYER: state["history"][-1]}),
    new_client=new_client,
    broadcast=broadcast,
    receive=receive,
    report=report,
    aggregate=aggregate,
    global_model=global_model,
    claimed_uplink_bytes=lambda state: 0,
    last_step=last_step,
    version=lambda state: len(state["history"]) - 1,
    supports_of=lambda state, version: {LAYER: state["history"][version]},
)


@pytest.fixture
def rotating(toy):
    """Returns a builder of federations of seven clients, two of which play a round."""

    def build(datasets=None, method=METHOD, **named):
        data = [toy.clusters(20 + n, n) for n in range(7)] if datasets is None else datasets
        task = Task(toy.cnn, torch.zeros(1, *toy.pixels), 3, 0.3, method.with_defaults({}))
        return Federation(method, task, data, Schedule(clients_per_round=2), **named)

    return build


def test_every_client_decodes_whatever_it_has_missed(rotating):
    run = rotating()
    held, missed = {}, set()
    for round in range(1, 13):
        state, wire = run.state, run.wire
        sent = METHOD.broadcast(state, round)
        expected, bound, new = 0, 0, 0
        for client in run.cohort(round):
            version = held.get(client, 0)
            missed.add((client in held, METHOD.version(state) - version))
            base = {LAYER: state["history"][version]}
            expected += len(codec.encode(sent, wire.schema, base=base))
            bound += codec.bound_bytes(sent, wire.schema, base=base)
            new += client not in held
            held[client] = METHOD.version(state)
        entry = run.play(round)
        assert (entry.clients, entry.lost) == (2, 0)
        assert entry.downlink_bytes == expected
        assert entry.downlink_bound_bytes == bound
        exchanged = run.exchanged_bytes[0] if round == 1 else 0
        assert entry.setup_bytes == exchanged + new * len(run.setup_message)
        assert run.versions == held
    # Of those who had been there: up to date, one behind, more behind; and late newcomers.
    assert {(True, 0), (True, 1), (False, 0)} <= missed
    assert any(known and behind > 1 for known, behind in missed)
    assert any(not known and behind > 1 for known, behind in missed)


def test_supports_travel_as_changes(rotating):
    run = rotating()
    run.play(1)
    run.play(2)
    sent = METHOD.broadcast(run.state, 3)
    old, new = run.state["history"]
    assert old != new
    schema = run.wire.schema
    changes, whole = (len(codec.encode(sent, schema, base=b)) for b in ({LAYER: old}, None))
    assert changes < whole
    outdated = codec.encode(sent, schema, base={LAYER: new})
    with pytest.raises(codec.CodecError) as refused:
        run.receive(run.new_client(), outdated)
    assert refused.value.reason is codec.CodecReason.BASE_MISMATCH


def test_the_last_step_is_watched_once_a_client(rotating):
    run = rotating()
    STEPS.clear()
    run.schedule = Schedule(clients_per_round=3, batch_size=8, local_epochs=2)
    entry = run.play(1)
    assert len(STEPS) == 3
    assert entry.local_steps > 6


def test_what_preparing_exchanges_is_counted_in_the_first_round(rotating):
    run = rotating()
    data = [run.datasets[client] for client in run._draw("cohort 1 of the set-up")]
    answered = sum(len(count_labels(None, own, b"count")) for own in data)
    assert run.exchanged_bytes == (2 * len(b"count"), answered)
    first, second = run.play(1), run.play(2)
    assert first.setup_bytes == 2 * len(b"count") + 2 * len(run.setup_message)
    assert (first.setup_uplink_bytes, second.setup_uplink_bytes) == (answered, 0)
    assert first.total_bytes == sum(
        (first.setup_bytes, answered, first.downlink_bytes, first.uplink_bytes)
    )
    assert run.ledger.sums()["setup_uplink_bytes"] == answered


def test_clients_prepare_on_development_data_where_they_own_any(rotating, toy):
    seen = []

    def asks(task, state, exchange):
        def work(client, dataset, message):
            seen.append(len(dataset))
            return b"."

        exchange.ask(range(3), b"", work)
        return prepare(task, state, exchange)

    data = [toy.clusters(10 + n, n) for n in range(3)]
    devs = [toy.clusters(4, 1), toy.clusters(0, 2), toy.clusters(5, 3)]
    rotating(data, replace(METHOD, prepare=asks), devs=devs)
    assert seen == [4, 11, 5]


class Broken:
    def __len__(self):
        return 11

    def __getitem__(self, index):
        raise OSError("disk gone")


def asking_all(task, state, exchange):
    exchange.cohort = lambda: [0, 1, 2]
    return prepare(task, state, exchange)


def test_a_client_that_raises_in_the_exchange_is_lost_alone(rotating, toy, caplog):
    method = replace(METHOD, prepare=asking_all)
    data = [toy.clusters(20, 0), Broken(), toy.clusters(22, 2)]
    run = rotating(data, method)
    assert "lost client 1: disk gone" in caplog.text
    without = rotating(data, replace(METHOD, prepare=lambda t, s, e: asking_two(t, s, e)))
    assert run.state["history"] == without.state["history"]
    assert run.exchanged_bytes[0] == 3 * len(b"count")
    assert run.exchanged_bytes[1] == without.exchanged_bytes[1]


def asking_two(task, state, exchange):
    exchange.cohort = lambda: [0, 2]
    return prepare(task, state, exchange)


@pytest.mark.parametrize("answer", [b"garbage", None], ids=["garbage", "no bytes"])
def test_a_refused_answer_loses_its_client(answer, rotating, toy, monkeypatch):
    count = count_labels

    def odd(client, dataset, message):
        return answer if len(dataset) == 21 else count(client, dataset, message)

    monkeypatch.setitem(globals(), "count_labels", odd)
    data = [toy.clusters(20 + n, n) for n in range(3)]
    run = rotating(data, replace(METHOD, prepare=asking_all))
    monkeypatch.undo()
    without = rotating(data, replace(METHOD, prepare=asking_two))
    assert run.state["history"] == without.state["history"]


def test_an_exchange_that_loses_all_clients_is_an_error(rotating):
    with pytest.raises(RuntimeError, match="in the set-up: disk gone") as caught:
        rotating([Broken(), Broken()])
    assert isinstance(caught.value.__cause__, OSError)


def test_a_killed_run_holds_what_its_clients_held(small, toy, tmp_path):
    class KilledError(Exception):
        pass

    def kill(entry):
        if entry.round == 5:
            raise KilledError

    arguments = {
        "clients": [(toy.clusters(20 + n, n), toy.clusters(5, 50 + n)) for n in range(7)],
        "rounds": 9,
        "schedule": Schedule(batch_size=16, clients_per_round=2),
    }
    whole = small(METHOD, **arguments)
    with pytest.raises(KilledError):
        small(METHOD, **arguments, checkpoint=tmp_path, on_round=kill)
    resumed = small(METHOD, **arguments, checkpoint=tmp_path, resume=True)
    assert resumed.model_sha256 == whole.model_sha256
    for before, after in zip(whole.ledger.rounds, resumed.ledger.rounds, strict=True):
        for name, value in vars(before).items():
            assert name.endswith("_s") or getattr(after, name) == value


def test_a_lost_client_holds_what_it_received(rotating, monkeypatch):
    run = rotating()
    run.play(1)
    run.play(2)
    monkeypatch.setattr(engine, "train", lambda *_, **__: 1 / 0)
    assert run.play(3).lost == 2
    assert all(run.versions[client] == 1 for client in run.cohort(3))


def test_public_data_reach_the_methods_that_train_on_them(rotating, small, toy):
    seen = []

    def looks(task):
        seen.append((task.public and len(task.public), task.clients))
        return init(task)

    method = replace(METHOD, trains_on_public=True, init=looks)
    rotating(method=method)
    small(method, rounds=1, public=toy.clusters(13, 4))
    assert seen == [(None, 7), (13, 3)]


def test_versions_and_supports_go_together():
    with pytest.raises(ValueError, match="a version with supports_of or changes"):
        replace(METHOD, version=None)
    with pytest.raises(ValueError, match="all of changes, held, whole, or none"):
        replace(METHOD, changes=lambda state, broadcast, version: broadcast)
