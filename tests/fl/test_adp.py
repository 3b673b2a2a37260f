"""ADP: its rounds are those of the algorithm it runs over, its rows those that training moved."""

import copy

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl import codec
from sparsefl.fl import Schedule, Task, load_method, run
from sparsefl.fl.engine import Federation
from sparsefl.fl.methods import adp
from sparsefl.nn import GatedConvBN2d, gate

ALGORITHMS = ("fedavg", "fedprox", "scaffold")
EVERY = pytest.mark.parametrize("algorithm", ALGORITHMS)


def gateable() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(10, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8, 3)),
    )


@pytest.fixture
def play(small):
    def played(**options):
        arguments = options.pop("arguments", {})
        return small("adp", **{"model": gateable, "density": 0.6, "options": options, **arguments})

    return played


def same(first: nn.Module, second: nn.Module, **tolerance) -> None:
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name, **tolerance)


@EVERY
def test_rounds_are_those_of_the_algorithm_on_the_gated_model(algorithm, small, play):
    """The method adds nothing to the algorithm but the model with gates."""

    def gated() -> nn.Module:
        return gate(gateable(), 0.6)

    ours = play(algorithm=algorithm, lr=0.05, momentum=0.5)
    theirs = small(algorithm, model=gated, options={"lr": 0.05, "momentum": 0.5})
    assert ours.model.state_dict().keys() == theirs.model.state_dict().keys()
    same(sparsefl.densify(theirs.model), ours.model, rtol=0, atol=0)


@EVERY
def test_gates_that_stay_open_are_the_algorithm_on_the_dense_model(algorithm, clients, monkeypatch):
    """At density 1, with statistics of all pairs, gates of 1 that no gradient moves."""

    def constant(*arguments, **options) -> nn.Module:
        model = gate(*arguments, **options)
        for module in model.modules():
            if isinstance(module, GatedConvBN2d):
                nn.init.zeros_(module.gate.weight)
                module.gate.requires_grad_(False)
        return model

    monkeypatch.setattr(adp, "gate", constant)
    options = {"lr": 0.05, "momentum": 0.5}
    models = []
    for name, more in (("adp", {"algorithm": algorithm, "stats": "all"}), (algorithm, {})):
        method = load_method(name)
        task = Task(
            *(lambda: gateable().double(), torch.zeros(1, 1, 8, 8).double(), 0, 1.0),
            method.with_defaults(options | more),
        )
        datasets = [[(x.double(), y) for x, y in train] for train, _ in clients]
        federation = Federation(method, task, datasets, Schedule(batch_size=16))
        for round in (1, 2):
            federation.play(round)
        models.append(method.global_model(task, federation.state).eval())
    x = torch.randn(9, 1, 8, 8).double()
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(models[0][3].conv.weight, models[1][3].weight, rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.parametrize("stats", ["active", "all"])
def test_it_learns_and_its_global_model_is_the_clients_in_plain_torch(
    algorithm, stats, federation, toy
):
    run = federation("adp", factory=gateable, algorithm=algorithm, stats=stats)
    losses = [run.play(round).loss for round in range(1, 9)]
    assert losses[-1] < 0.8 * losses[0]
    client = run.new_client()
    run.receive(client, run.broadcast(9))
    model = run.method.global_model(run.task, run.state)
    assert not any(isinstance(module, GatedConvBN2d) for module in model.modules())
    x = torch.randn(5, *toy.pixels)
    torch.testing.assert_close(model.eval()(x), client.model.eval()(x))


def test_gates_travel_and_count(federation):
    run = federation("adp", factory=gateable)
    sent = codec.decode(run.broadcast(1), run.wire.schema)
    gates = {name for name in sent if ".gate." in name}
    assert gates == {f"{i}.gate.{kind}" for i in (3, 7) for kind in ("weight", "bias")}
    dense = sum(p.numel() for p in gateable().parameters())
    added = 10 * (6 + 1) + 8 * (10 + 1)
    assert run.method.claimed_uplink_bytes(run.state) == 4 * (dense + added)
    entry = run.play(1)
    assert entry.uplink_bytes > 0.9 * 3 * 4 * (dense + added)


@pytest.mark.parametrize(("stats", "share"), [("active", 0.25), ("all", 0.5)])
def test_claimed_flops_follow_the_documented_formula(stats, share):
    method = load_method("adp")
    task = Task(
        *(gateable, torch.zeros(1, 1, 8, 8), 0, 0.5), method.with_defaults({"stats": stats})
    )
    forward = {"0.weight": 100, "3.weight": 2000, "7.weight": 600, "11.weight": 10}
    claimed = method.claimed_flops(method.init(task), forward)
    assert claimed == 3 * (110 + share * 2600)
    scaffold = {**task.options, "algorithm": "scaffold"}
    twice = method.init(Task(gateable, task.example_input, 0, 0.5, scaffold))
    assert method.claimed_uplink_bytes(twice) == 2 * method.claimed_uplink_bytes(method.init(task))


def always_closed(task: Task) -> nn.Module:
    """Returns a gated model some of whose channels are open in no sample."""
    model = gate(gateable(), task.density)
    for module in model.modules():
        if isinstance(module, GatedConvBN2d):
            module.gate.bias.data[::3] = -1e3
    return model


@EVERY
def test_the_mean_of_rows_is_the_mean_of_whole_weights(algorithm, federation, monkeypatch):
    monkeypatch.setattr(adp, "_gated_model", always_closed)
    options = {"factory": gateable, "algorithm": algorithm, "mu": 0.1}
    whole = federation("adp", **options)
    rows = federation("adp", row_uplink="on", **options)
    for round in (1, 2, 3):
        before, after = whole.play(round), rows.play(round)
        if algorithm != "scaffold":
            assert after.uplink_bytes < 0.85 * before.uplink_bytes
    models = [run.method.global_model(run.task, run.state) for run in (whole, rows)]
    same(*models, rtol=1e-5, atol=1e-6)


def test_rows_that_were_never_open_do_not_travel(federation, monkeypatch):
    monkeypatch.setattr(adp, "_gated_model", always_closed)
    run = federation("adp", factory=gateable, row_uplink="on")
    before = copy.deepcopy(run.state.inner.tensors)
    client = run.new_client()
    received = run.receive(client, run.broadcast(1))
    optimizer = run.method.optimizer(client, 1)
    opened = {"3": 0, "7": 0}
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        client.model.train()(torch.randn(16, 1, 8, 8, generator=generator)).logsumexp(
            1
        ).sum().backward()
        optimizer.step()
        for name in opened:
            opened[name] |= client.model.get_submodule(name).open_gates.any(0)
    sent = run.method.report(client, received, 1)
    for name, ever in opened.items():
        assert not ever.all()
        for part in ("conv", "gate"):
            entry = sent[f"{name}.{part}.weight"]
            shape = before[f"{name}.{part}.weight"].shape
            rows = ever.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
            assert torch.equal(entry.support.to_mask(), rows)
    assert isinstance(sent["0.weight"], codec.Dense)


def test_a_client_that_did_not_train_sends_no_row():
    entry = adp.moved_rows(torch.zeros(4, 3, 2, 2))
    assert (entry.support.nnz, entry.values.shape) == (0, (0,))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold"])
def test_a_killed_run_ends_in_the_same_model(algorithm, play, tmp_path):
    arguments = {"rounds": 3, "schedule": Schedule(batch_size=16, clients_per_round=2)}
    options = {"algorithm": algorithm, "row_uplink": "on"}
    whole = play(**options, arguments=arguments)

    def kill(entry):
        if entry.round == 2:
            raise KilledError

    kept = {**arguments, "checkpoint": tmp_path}
    with pytest.raises(KilledError):
        play(**options, arguments={**kept, "on_round": kill})
    resumed = play(**options, arguments={**kept, "resume": True})
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.ledger.total("uplink_bytes") == whole.ledger.total("uplink_bytes")


def test_a_refused_message_leaves_the_client_untouched(federation):
    run = federation("adp", factory=gateable, algorithm="scaffold")
    client = run.new_client()
    run.receive(client, run.broadcast(1))
    before = copy.deepcopy(client.model.state_dict())
    message = codec.decode(run.broadcast(1), client.wire.schema)
    cut = codec.Update({n: e for n, e in message.items() if n != "7.gate.bias"}, round=1)
    with pytest.raises(ValueError, match=r"7\.gate\.bias"):
        run.method.receive(client, cut)
    assert all(torch.equal(value, before[n]) for n, value in client.model.state_dict().items())


def test_a_model_without_anything_to_gate_is_refused(toy, clients, test_data):
    with pytest.raises(ValueError, match=r"nothing to gate.*the first convolution"):
        run("adp", toy.norm_net, clients, test_data, rounds=1, timed_steps=0)
    with pytest.raises(ValueError, match="density"):
        run("adp", gateable, clients, test_data, rounds=1, density=1.5, timed_steps=0)


def test_rounds_to_an_accuracy(play):
    result = play(arguments={"rounds": 4})
    reached = [entry.accuracy for entry in result.ledger.rounds]
    assert result.rounds_to(max(reached)) == reached.index(max(reached)) + 1
    assert result.rounds_to(0.01) == 1
    assert max(reached) == 1 or result.rounds_to(1.0) is None
    with pytest.raises(ValueError, match="target"):
        result.rounds_to(80)
