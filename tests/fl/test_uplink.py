"""The controls of every saving: rounded and one-bit uplinks, bfloat16, plain frozen layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import engine, load_method
from sparsefl.fl.methods._uplink import change_update, expand, rotate, wire_of
from sparsefl.fl.serving import answer, rounding_seed
from sparsefl.fl.training import autocast_forward


def state_of(run):
    model = run.method.global_model(run.task, run.state)
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def moved_by(run, rounds=1):
    before = state_of(run)
    for round in range(1, rounds + 1):
        run.play(round)
    return state_of(run) - before


def test_drawn_signs_have_the_change_as_their_mean():
    change = torch.linspace(-0.7, 1.3, 60).reshape(6, 10)
    change[0, 0] = 0.0
    draws = 2000
    total = torch.zeros(6, 10, dtype=torch.float64)
    for round in range(draws):
        entry = change_update({"w": change}, {"uplink": "sign"}, round)["w"]
        assert entry.scale == pytest.approx(1.3)
        total += entry.scale * torch.from_numpy(entry.signs).reshape(6, 10)
    deviation = ((1.3**2 - change.double() ** 2).clamp(min=0) / draws).sqrt()
    assert ((total / draws - change).abs() <= 5 * deviation + 1e-6).all()


@pytest.mark.parametrize(("uplink", "levels"), [("int8_unbiased", 127), ("int4_unbiased", 7)])
def test_changes_rounded_at_random_have_the_change_as_their_mean(uplink, levels, federation):
    run, draws = federation("fedavg", uplink=uplink), 800
    client = run.new_client()
    received = run.receive(client, run.broadcast(1))
    with torch.no_grad():
        for parameter in client.model.parameters():
            parameter.add_(torch.linspace(-1, 0.7, parameter.numel()).view_as(parameter) ** 3)
    exact, name = run.method.report(client, received, 1), "4.weight"
    change = torch.from_numpy(exact[name].values).double()
    total, off = torch.zeros_like(change), 0.0
    for round in range(draws):
        message = answer(run.method, client, received, rounding_seed(0, round, 3))
        read = torch.from_numpy(codec.decode(message, run.wire.schema)[name].values).double()
        off = max(off, float((read - change).abs().max()))
        total += read
    # Scales are rounded up by 2**-8 at most; a coin between two neighbours deviates by half.
    step = float(change.abs().max()) / levels * (1 + 2**-8)
    assert 0.5 * step < off < step
    assert float((total / draws - change).abs().max()) < 5 * 0.5 * step / draws**0.5


def test_every_client_and_round_rounds_by_a_seed_of_its_own(federation, monkeypatch):
    def replies(uplink, rounds=2):
        sent = []
        monkeypatch.setattr(
            engine, "answer", lambda *all_of: sent.append(answer(*all_of)) or sent[-1]
        )
        monkeypatch.setattr(engine, "stream", lambda *_: np.random.default_rng(0))
        run = federation("fedavg", uplink=uplink, datasets=[data] * 2)
        for round in range(1, rounds + 1):
            run.state = replace(run.state, tensors=first or run.state.tensors)
            first.update(run.state.tensors)
            run.play(round)
        return [reply[64:] for reply in sent]

    data, first = torch.utils.data.TensorDataset(torch.randn(12, 1, 8, 8), torch.arange(12) % 3), {}
    nearest, at_random = replies("int8"), replies("int8_unbiased")
    assert len(set(nearest)) == 1
    assert len(set(at_random)) == 4
    assert replies("int8_unbiased") == at_random


def test_draws_differ_by_client_and_round_and_repeat():
    change, other = torch.randn(20, 20), torch.randn(20, 20)
    one, again, later, of_another = (
        change_update({"w": value}, {"uplink": "sign"}, round)["w"].signs.tolist()
        for value, round in ((change, 1), (change, 1), (change, 2), (change + 1e-6 * other, 1))
    )
    assert one == again
    assert one not in (later, of_another)


@pytest.mark.parametrize("count", [1, 2, 1024, 3 * 4096])
def test_rotations_keep_lengths_and_can_be_undone(count):
    x = torch.randn(count)
    turned = rotate(x, 7, "w")
    assert float(turned.norm()) == pytest.approx(float(x.norm()), rel=1e-5)
    torch.testing.assert_close(rotate(turned, 7, "w", back=True), x, rtol=1e-4, atol=1e-5)
    if count > 2:
        assert not torch.allclose(turned, rotate(x, 8, "w"))
        assert not torch.allclose(turned, rotate(x, 7, "v"))


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (5, 8, 3, 3), (97, 101)], ids=str)
def test_rotated_signs_have_the_change_along_it_in_every_draw(shape):
    torch.manual_seed(1)
    change = torch.randn(shape) ** 3
    schema = wire_of(codec.Schema({"w": (shape, "float32")}), {"uplink": "eden"}).schema
    total, draws, errors = torch.zeros(shape), 60, []
    for round in range(draws):
        message = codec.encode(change_update({"w": change}, {"uplink": "eden"}, round), schema)
        read = expand(schema, codec.decode(message, schema))["w"].values
        read = torch.as_tensor(read)
        # What was padded is cut off, beside rounding all that differs.
        along = float((read * change).sum() / change.square().sum())
        assert along == pytest.approx(1, abs=1e-4)
        errors.append(float((read - change).square().sum() / change.square().sum()))
        total += read
    if change.numel() > 1000:
        # pi / 2 - 1 of a uniform rotation; what is cut off was error, too.
        assert 0.25 < sum(errors) / draws < 0.65
    off = (total / draws - change).square().sum() / change.square().sum()
    assert float(off) < 3 * max(errors) / draws + 1e-6


def test_broken_rotations_are_refused():
    schema = wire_of(codec.Schema({"w": ((8, 8), "float32")}), {"uplink": "eden"}).schema
    update = change_update({"w": torch.randn(8, 8)}, {"uplink": "eden"}, 1)
    without = {name: entry for name, entry in update.items() if name != "uplink:rotation"}
    with pytest.raises(ValueError, match="no seed"):
        expand(schema, codec.Update(without))
    dense = codec.Dense(torch.ones(64))
    with pytest.raises(ValueError, match="signs of all positions"):
        expand(schema, codec.Update({**update, "uplink:rotated/w": dense}))
    with pytest.raises(ValueError, match="must be a seed"):
        expand(schema, codec.Update({**update, "uplink:rotation": codec.Dense(torch.ones(1))}))


@pytest.mark.parametrize("value", [torch.zeros(3, 4), torch.zeros(0, 4)])
def test_nothing_and_no_change_have_signs_too(value):
    entry = change_update({"w": value}, {"uplink": "sign"}, 1)["w"]
    assert (entry.scale, len(entry.signs)) == (0.0, value.numel())


def test_biases_and_buffers_stay_as_they_are(federation, toy):
    run = federation("fedavg", factory=toy.norm_net, uplink="sign")
    client = run.new_client()
    received = run.receive(client, run.broadcast(1))
    kinds = {n: type(e).__name__ for n, e in run.method.report(client, received, 1).items()}
    signs = {name for name, kind in kinds.items() if kind == "Signs"}
    assert signs == {"0.weight", "5.weight"}
    assert len(kinds) == len(received)
    run.play(1)
    assert run.method.global_model(run.task, run.state)[1].num_batches_tracked > 0


class Counting(nn.Module):
    """Takes back what it counts, and turns a flag: changes that its dtypes have no room for."""

    def __init__(self):
        super().__init__()
        self.register_buffer("left", torch.tensor(200, dtype=torch.uint8))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.left -= 1
            self.seen.fill_(True)
            self.steps += 1
        return x


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedpt"])
@pytest.mark.parametrize("uplink", ["fp32", "int8", "sign", "eden"])
def test_integers_and_bools_are_the_nearest_to_the_clients_mean(method, uplink, toy, federation):
    run = federation(method, factory=lambda: nn.Sequential(Counting(), *toy.cnn()), uplink=uplink)
    entry = run.play(1)
    counted = run.method.global_model(run.task, run.state)[0]
    steps = np.average([3, 2, 2], weights=[40, 24, 33])
    assert entry.lost == 0
    assert int(counted.steps) == round(steps)
    assert int(counted.left) == 200 - round(steps)
    assert bool(counted.seen)


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedpt"])
@pytest.mark.parametrize(
    ("uplink", "bits", "off"), [("bf16", 16, 0.005), ("int8", 8, 0.02), ("int8_unbiased", 8, 0.04)]
)
def test_rounded_changes_move_the_model_alike_at_fewer_bytes(method, uplink, bits, off, federation):
    exact, rounded = federation(method), federation(method, uplink=uplink)
    wanted, got = moved_by(exact), moved_by(rounded)
    assert 0 < float((got - wanted).norm()) < off * float(wanted.norm())
    spent, dense = (run.ledger.rounds[0].uplink_bound_bytes for run in (rounded, exact))
    assert spent < dense * (bits / 32 + 0.2)


def test_signs_take_a_bit_a_weight(federation):
    run = federation("fedavg", uplink="sign")
    run.play(1)
    shapes = [spec.shape for spec in run.wire.schema.values()]
    weights = sum(torch.Size(shape).numel() for shape in shapes if len(shape) > 1)
    biases = sum(torch.Size(shape).numel() for shape in shapes if len(shape) == 1)
    bound = run.ledger.rounds[0].uplink_bound_bytes
    # Three clients, three scales; biases that few move are fewer bytes.
    assert 3 * weights / 9 < bound <= 3 * (weights / 8 + 4 * biases + 16)


@pytest.mark.parametrize(("method", "uplink"), [("fedavg", "sign"), ("fedavg", "eden")])
def test_signs_train(method, uplink, small):
    result = small(method, rounds=8, options={"uplink": uplink, "lr": 0.02})
    losses = [entry.loss for entry in result.ledger.rounds]
    assert losses[-1] < 0.9 * losses[0]
    assert result.accuracy > 0.5


@pytest.mark.parametrize("method", ["fedprox", "fedpt"])
def test_rotated_changes_are_a_bit_a_weight_and_move_along(method, federation):
    exact, run = federation(method), federation(method, uplink="eden")
    wanted, got = moved_by(exact), moved_by(run)
    assert float(got @ wanted) == pytest.approx(float(wanted @ wanted), rel=0.25)
    bound, dense = (r.ledger.rounds[0].uplink_bound_bytes for r in (run, exact))
    assert bound < (0.25 if method == "fedprox" else 0.35) * dense


@pytest.mark.parametrize("uplink", ["sign", "eden"])
def test_privacy_bounds_what_is_decoded(uplink, federation):
    run = federation("fedavg", uplink=uplink, dp_clip=0.05)
    # Signs are longer than what they stand for: the server scales them down.
    assert 0 < float(moved_by(run).norm()) <= 0.05 * (1 + 1e-6)


def test_exact_weights_are_sent_as_before(federation):
    run = federation("fedavg")
    client = run.new_client()
    received = run.receive(client, run.broadcast(1))
    assert run.method.report(client, received, 1) == codec.Update(dict(received), round=1)


def test_autocast_computes_in_bfloat16_and_keeps_float32():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
    x = torch.randn(7, 40)
    exact = net(x)
    names = list(net.state_dict())
    autocast_forward(net)
    out = net(x)
    assert out.dtype == torch.float32
    assert torch.equal(out, out.bfloat16().float())
    assert not torch.equal(out, exact)
    torch.testing.assert_close(out, exact, rtol=0.05, atol=0.02)
    out.square().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in net.parameters())
    assert list(net.state_dict()) == names


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "scaffold", "fedpt"])
def test_clients_train_in_bfloat16(method, federation):
    exact, narrow = federation(method), federation(method, autocast="bf16")
    wanted, got = moved_by(exact), moved_by(narrow)
    assert 0 < float((got - wanted).norm()) < 0.2 * float(wanted.norm())


def test_plain_layers_are_the_same_federation(federation):
    ours, plain = federation("fedpt"), federation("fedpt", layers="plain")
    for round in (1, 2):
        entries = ours.play(round), plain.play(round)
        assert entries[0].downlink_bytes == entries[1].downlink_bytes
        assert entries[0].uplink_bound_bytes == pytest.approx(
            entries[1].uplink_bound_bytes, rel=0.02
        )
    assert torch.allclose(state_of(ours), state_of(plain), atol=1e-6)
    client = plain.probe()
    assert type(client.model.get_submodule("4")) is nn.Linear
    assert not client.model.get_submodule("4").weight.requires_grad
    assert client.model.get_submodule("4").bias.requires_grad


@pytest.mark.parametrize("option", ["uplink", "autocast"])
def test_unknown_choices_are_named(option):
    with pytest.raises(ValueError, match=option):
        load_method("fedpt").with_defaults({option: "fp8"})


@pytest.mark.parametrize("method", ["scaffold", "fedpm", "hidenseek", "adp"])
def test_methods_with_messages_of_their_own_have_no_such_option(method):
    with pytest.raises(ValueError, match="no option uplink"):
        load_method(method).with_defaults({"uplink": "int8"})


@pytest.mark.parametrize(
    ("uplink", "bits"), [("fp32", 32), ("int8", 8), ("int4_unbiased", 4), ("sign", 1), ("eden", 1)]
)
@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_what_is_claimed_is_the_formats_bits(method, uplink, bits, federation):
    run = federation(method, uplink=uplink)
    assert run.method.claimed_uplink_bytes(run.state) == run.state.parameters * bits // 8
