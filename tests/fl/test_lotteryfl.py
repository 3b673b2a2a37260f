"""LotteryFL: tickets, what they weigh, how weights are averaged over those who keep them."""

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import engine, load_method
from sparsefl.fl.methods import _lotteryfl_client as side
from sparsefl.fl.methods._latents import row_major_latents, support_layers
from sparsefl.fl.pool import Pool
from sparsefl.fl.serving import part
from sparsefl.support import Support

METHOD = load_method("lotteryfl")
LAYERS = ("0.weight", "4.weight", "6.weight")
FIRST, HIDDEN = "0.weight", "4.weight"


@pytest.fixture
def eager(federation):
    """Returns a federation whose clients prune whatever their accuracy, a round or more played."""

    def play(rounds: int, **options):
        run = federation("lotteryfl", **({"threshold": 0.0, "prune_share": 0.5} | options))
        for round in range(1, rounds + 1):
            assert run.play(round).lost == 0
        return run

    return play


class TestTickets:
    def test_pruned_are_the_smallest_of_each_layer_and_the_rest_goes_back_to_the_start(
        self, federation
    ):
        run = federation("lotteryfl", threshold=0.4, prune_share=0.5)
        run.play(1)
        client = run.new_client()
        run.receive(client, run.broadcast(2))
        held, start = row_major_latents(client.model), run.task.new_model()
        side.adapt(client, lambda: 0.5)
        for name, layer in support_layers(client.model).items():
            size = held[name].numel()
            smallest = held[name].abs().argsort()[: size - round(0.5 * size)]
            kept = np.setdiff1d(np.arange(size), smallest.numpy())
            assert np.array_equal(layer.support.indices, kept)
            assert torch.equal(
                row_major_latents(client.model)[name],
                start.get_parameter(name).detach().flatten()[torch.tensor(kept)],
            )
        for name, parameter in client.model.named_parameters():
            if name.endswith("bias"):
                assert torch.equal(parameter, start.get_parameter(name))

    @pytest.mark.parametrize("accuracy", [0.0, 0.4, float("nan")], ids=str)
    def test_nothing_is_pruned_unless_accuracy_is_above_the_threshold(self, accuracy, federation):
        run = federation("lotteryfl", threshold=0.4)
        client = run.new_client()
        run.receive(client, run.broadcast(1))
        before = row_major_latents(client.model)
        side.adapt(client, lambda: accuracy)
        assert all(torch.equal(before[n], v) for n, v in row_major_latents(client.model).items())

    def test_accuracy_is_of_the_clients_own_development_data(self, toy, clients, monkeypatch):
        seen = []

        def record(model, data, device):
            seen.append(data)
            return 0.0

        monkeypatch.setattr(engine, "accuracy", record)
        task = engine.Task(toy.cnn, torch.zeros(1, *toy.pixels), 0, 0.3, METHOD.with_defaults({}))
        trains, devs = zip(*clients, strict=True)
        devs = [devs[0], [], devs[2]]
        run = engine.Federation(METHOD, task, trains, engine.Schedule(batch_size=16), devs=devs)
        run.play(1)
        assert [id(data) for data in seen] == [id(devs[0]), id(trains[1]), id(devs[2])]

    def test_every_layer_ends_at_the_density_and_stays_there(self, eager):
        run = eager(3, prune_share=0.9)
        for masks in run.memories.values():
            assert {n: s.nnz for n, s in masks.items()} == {
                name: round(0.3 * run.state.whole[name].numel) for name in LAYERS
            }
        before = dict(run.memories)
        run.play(4)
        assert before == run.memories

    def test_a_layer_keeps_one_weight_at_least(self):
        support = Support.from_mask(np.ones((1, 3), bool))
        assert side.pruned_count(support, 0.99, 0.01) == 1


class TestServer:
    def test_a_weight_is_the_mean_over_those_who_keep_it(self, federation):
        """Against plain loops in float64, on masks that overlap, and positions nobody keeps."""
        run, draws = federation("lotteryfl"), np.random.default_rng(0)
        state, weights = run.state, (40.0, 24.0, 33.0)
        expected = [name for name in run.wire.schema if not name.startswith("lotteryfl")]
        pool = Pool(run.wire.schema, {}, expected, run.wire.gathered)
        total, kept = (np.zeros(state.tensors[HIDDEN].shape) for _ in range(2))
        for number, weight in enumerate(weights):
            entries = {n: codec.Dense(t) for n, t in state.tensors.items() if n not in LAYERS}
            for name in LAYERS:
                support = Support.random(state.tensors[name].shape, 0.3, seed=number)
                values = draws.normal(size=support.nnz).astype(np.float32)
                entries[name] = codec.Sparse(support, values)
            mask = entries[HIDDEN].support.to_numpy_mask()
            total[mask] += weight * entries[HIDDEN].values.astype(np.float64)
            kept[mask] += weight
            added = METHOD.expand(run.wire.schema, codec.Update(entries))
            pool.add(codec.encode(added, run.wire.schema), weight, {})
        moved = METHOD.aggregate(state, pool.mean()).tensors
        before = state.tensors[HIDDEN].double().numpy()
        assert 0 < (kept == 0).sum() < kept.size
        reference = np.where(kept > 0, total / np.where(kept > 0, kept, 1), before)
        np.testing.assert_allclose(moved[HIDDEN].numpy(), reference, rtol=1e-6)
        assert torch.equal(moved["0.bias"], state.tensors["0.bias"])

    def test_weights_without_a_mask_are_refused(self, federation):
        run = federation("lotteryfl")
        entries = {name: codec.Dense(value) for name, value in run.state.tensors.items()}
        with pytest.raises(ValueError, match=r"lacks kept weights of 0\.weight"):
            METHOD.expand(run.wire.schema, codec.Update(entries))

    def test_an_own_model_is_what_the_mask_keeps_of_the_global_one(self, eager):
        run = eager(2)
        whole = METHOD.global_model(run.task, run.state)
        own = METHOD.personal_model(run.task, run.state, run.memories[1])
        mask = run.memories[1][HIDDEN].to_mask()
        assert torch.equal(own[4].weight, torch.where(mask, whole[4].weight, 0))
        assert torch.equal(own[6].bias, whole[6].bias)
        assert not torch.equal(own[4].weight, whole[4].weight)
        newcomer = METHOD.personal_model(run.task, run.state, None)
        assert torch.equal(newcomer[4].weight, whole[4].weight)


class TestMessages:
    def test_ledger_counts_the_messages_and_the_server_reads_the_masks_from_them(
        self, eager, monkeypatch
    ):
        run, down, up = eager(1), [], []
        monkeypatch.setattr(engine, "read", spy(engine.read, down))
        monkeypatch.setattr(engine, "answer", spy(engine.answer, up))
        entry = run.play(2)
        assert entry.downlink_bytes == sum(len(arguments[2]) for arguments, _ in down)
        assert entry.uplink_bytes == sum(len(reply) for _, reply in up)
        cohort = list(run.cohort(2))
        for client, (arguments, reply), (_, received) in zip(cohort, up, down, strict=True):
            base = {**arguments[1].wire.supports, **received}
            decoded = codec.decode(reply, run.wire.schema, base=base)
            assert {name: decoded[name].support for name in LAYERS} == run.memories[client]

    def test_a_client_gets_what_it_keeps_and_a_mask_that_stays_is_free(self, eager):
        run = eager(3)
        settled = run.play(4)
        kept = sum(run.memories[0][name].nnz for name in LAYERS)
        floats = 4 * (kept + run.state.unmasked)
        for measured in (settled.uplink_bytes, settled.downlink_bytes):
            # A few bytes a tensor, and nothing for the masks: 864 / 8 bytes for the largest alone.
            assert floats < measured / 3 < floats + 100

    def test_claims_are_of_the_weights_that_were_kept(self, eager):
        run = eager(0)
        count = sum(t.numel() for t in run.state.tensors.values())
        assert METHOD.claimed_uplink_bytes(run.state) == 4 * count
        run.play(1)
        kept = sum(round(0.5 * run.state.whole[name].numel) for name in LAYERS)
        assert METHOD.claimed_uplink_bytes(run.state) == 4 * (kept + run.state.unmasked)

    def test_a_broadcast_that_lacks_weights_is_refused_untouched(self, federation):
        run = federation("lotteryfl")
        client = run.new_client()
        entries = dict(run.receive(client, run.broadcast(1)))
        before = row_major_latents(client.model)
        for lacking, message in ((HIDDEN, "sparse layers"), ("6.bias", r"no tensor for 6\.bias")):
            sent = {n: e for n, e in entries.items() if n != lacking}
            sent[FIRST] = codec.Sparse(entries[FIRST].support, 0 * entries[FIRST].values)
            with pytest.raises(ValueError, match=message):
                METHOD.receive(client, codec.Update(sent))
            assert all(
                torch.equal(before[n], v) for n, v in row_major_latents(client.model).items()
            )

    def test_part_of_a_broadcast_is_its_values_at_the_kept_positions(self):
        whole, own = Support.random((9, 7), 0.6, seed=1), None
        own = Support.from_indices((9, 7), whole.indices[::3])
        sent = codec.Update({"w": codec.Sparse(whole, np.arange(whole.nnz, dtype=np.float32))}, 5)
        cut = part(sent, {"w": own})
        assert (cut.round, cut["w"].support) == (5, own)
        assert cut["w"].values.tolist() == list(range(0, whole.nnz, 3))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
    def test_weights_that_are_not_finite_are_refused(self, value, federation):
        run = federation("lotteryfl")
        client = run.new_client()
        received = run.receive(client, run.broadcast(1))
        with torch.no_grad():
            client.model[4].values[0] = value
        with pytest.raises(ValueError, match=r"4\.weight is not finite"):
            METHOD.report(client, received, 1)


def spy(function, calls):
    def called(*arguments):
        result = function(*arguments)
        calls.append((arguments, result))
        return result

    return called


def test_clients_step_on_what_they_keep(eager):
    probe = eager(3).probe()
    densities = [layer.support.density for layer in support_layers(probe.model).values()]
    assert all(density < 0.32 for density in densities)


def test_tied_layers_are_refused(federation):
    class Tied(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64))
            self[2].weight = self[1].weight

    with pytest.raises(ValueError, match=r"1\.weight and 2\.weight"):
        federation("lotteryfl", factory=Tied).new_client()
