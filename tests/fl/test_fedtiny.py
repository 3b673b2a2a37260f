"""FedTiny from end to end: its selection by messages, its adjustments, and what they weigh."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from sparsefl import codec
from sparsefl.fl import Schedule
from sparsefl.fl.aggregation import as_tensor
from sparsefl.fl.methods import _fedtiny_pruning as pruning
from sparsefl.fl.methods import _fedtiny_selection as selection
from sparsefl.fl.methods import fedtiny
from sparsefl.fl.methods._fedtiny_masks import masked_layers, spread
from sparsefl.fl.methods._latents import support_layers
from sparsefl.support import Support

HIDDEN = "4.weight"


class NormNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 10, 3, padding=1),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(40, 30),
            nn.ReLU(),
            nn.Linear(30, 3),
        )


def dense_weight(state, name):
    return spread(state.values[name], state.supports[name])


@pytest.mark.parametrize("drops", ["sent", "recomputed"])
@pytest.mark.parametrize("factory", ["cnn", "norm_net"])
def test_an_adjustment_equals_that_of_a_masked_dense_model(drops, factory, toy, fedtiny_run):
    """One step a client, so that its last mini-batch is all of its data."""
    run = fedtiny_run(
        toy.cnn if factory == "cnn" else NormNet,
        adjust_every=1,
        granularity="entire",
        drops=drops,
        schedule=Schedule(batch_size=64),
        lr=0.02,
    )
    before, counts = run.state, dict(run.state.counts)
    assert counts
    run.play(1)
    masks = {name: support.to_mask() for name, support in before.supports.items()}
    examples = [len(data) for data in run.datasets]
    growth = dict.fromkeys(masks, 0.0)
    means = dict.fromkeys(masks, 0.0)
    for data in run.datasets:
        model = run.method.global_model(run.task, before).train()
        cross_entropy(model(data.tensors[0]), data.tensors[1]).backward()
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            inactive = weight.grad.masked_fill(mask, 0).flatten()
            top = inactive.abs().argsort(descending=True, stable=True)[: counts[name]]
            growth[name] += torch.zeros_like(inactive).index_copy(0, top, inactive[top]) / 3
            stepped = (weight - 0.02 * weight.grad).detach() * mask
            means[name] += len(data) / sum(examples) * stepped
    for name, mask in masks.items():
        judged = dense_weight(before, name) if drops == "recomputed" else means[name]
        size = judged.abs().masked_fill(~mask, torch.inf).flatten()
        dropped = size.argsort(stable=True)[: counts[name]]
        grown = growth[name].abs().argsort(descending=True, stable=True)[: counts[name]]
        expected = mask.flatten().clone()
        expected[dropped], expected[grown] = False, True
        support = run.state.supports[name]
        assert torch.equal(support.to_mask().flatten(), expected), name
        weight = torch.where(expected & mask.flatten(), means[name].flatten(), 0.0)
        torch.testing.assert_close(dense_weight(run.state, name).flatten(), weight)


def test_gradients_count_each_client_once_and_absent_ones_are_zero():
    support = Support.from_indices((2, 4), [0, 1])

    def sent(indices, values):
        return codec.Sparse(Support.from_indices((2, 4), indices), np.float32(values))

    growth = pruning.growth_of([sent([3, 5], [1, -4]), sent([5, 7], [1, 9])], support, 3)
    assert growth.indices.tolist() == [3, 5, 7]
    torch.testing.assert_close(growth.values, torch.tensor([1 / 3, -1.0, 3.0]))
    # A kept position, what is not finite, what is no gradient: as if not sent.
    bad = [sent([0, 3], [5, 1]), sent([4], [np.nan]), codec.Dense(np.zeros((2, 4)))]
    assert pruning.growth_of(bad, support, 2).indices.tolist() == [3]
    assert pruning.growth_of([], support, 2).indices.numel() == 0


class TestSelection:
    def test_the_candidate_of_least_loss_wins(self, fedtiny_run, monkeypatch):
        """Data that tell a weight apart: candidates that lack it lose more."""
        x = torch.eye(8).repeat(4, 1)[torch.randperm(32)]
        y = (x[:, 5] > 0).long()

        def factory():
            model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
            with torch.no_grad():
                model[0].weight.copy_(torch.eye(8) * 4)
                model[2].weight.zero_()
                model[2].weight[1, 5] = 4.0
            return model

        rigged = [[0, 9, 18], [9, 18, 45], [0, 54, 63]]
        monkeypatch.setattr(
            selection,
            "pool",
            lambda *_: iter([{"0.weight": Support.from_indices((8, 8), at)} for at in rigged]),
        )
        run = fedtiny_run(
            factory,
            public=False,
            pool_size=3,
            datasets=[(TensorDataset(x[i::3], y[i::3]),) * 2 for i in range(3)],
        )
        assert run.state.supports["0.weight"].indices.tolist() == rigged[1]

    @pytest.mark.parametrize("pool", ["seed", "masks"])
    def test_clients_recompute_the_servers_pool(self, pool, fedtiny_run):
        run = fedtiny_run(NormNet, pool=pool, adjust_every=0)
        model = run.method.global_model(run.task, fedtiny.init(run.task))
        candidates = list(selection.pool(model, run.task, run.task.seed))
        schema = selection.schema_of(model, run.task)
        message = selection.pool_message(model, candidates, run.task, schema)
        client = selection.new_judge(run.task)
        assert selection._pool_in(client, message) == candidates
        assert len({tuple(masks.values()) for masks in candidates}) == 5
        seeds = [e for e in codec.decode(message, schema).values() if hasattr(e, "seed")]
        assert len(seeds) == (pool == "seed")

    def test_a_seed_is_shorter_and_both_choose_alike(self, fedtiny_run):
        seed, masks = (fedtiny_run(NormNet, pool=pool) for pool in ("seed", "masks"))
        assert seed.exchanged_bytes[0] < masks.exchanged_bytes[0]
        assert seed.state.supports == masks.state.supports
        dense = 4 * sum(p.numel() for p in NormNet().parameters())
        assert seed.exchanged_bytes[0] < 3 * dense

    def test_constant_weights_travel_with_masks(self, fedtiny_run):
        def zeros():
            model = NormNet()
            nn.init.zeros_(model[8].weight)
            return model

        run = fedtiny_run(zeros, public=False)
        assert run.play(1).lost == 0

    def test_statistics_are_those_of_the_masked_model_in_training_mode(self, toy):
        model, data = NormNet(), toy.clusters(65, 3)  # the last batch has a single example
        masks = {"3.weight": Support.random((10, 6, 3, 3), 0.3)}
        before = copy.deepcopy(model.state_dict())
        found = selection.adapted_statistics(model, masks, data)
        assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
        with torch.no_grad():
            model[3].weight *= masks["3.weight"].to_mask()
        model.train()(data.tensors[0][:64])
        assert set(found) == {f"{i}.running_{what}" for i in (1, 4) for what in ("mean", "var")}
        for name, value in found.items():
            torch.testing.assert_close(value, model.get_buffer(name))

    def test_means_go_by_the_sizes_of_the_data(self):
        sent = {4: [{"m": torch.tensor([1.0, 0.0])}], 7: [{"m": torch.tensor([4.0, 3.0])}]}
        (mean,) = selection.mean_statistics(sent, {4: 2, 7: 1})
        torch.testing.assert_close(mean["m"], torch.tensor([2.0, 1.0]))

    def test_losses_that_are_no_numbers_never_win(self):
        assert selection.least(np.array([np.nan, 3.0, 2.0, 2.0])) == 2

    def test_the_winners_statistics_start_training(self, fedtiny_run):
        run, first = fedtiny_run(NormNet), fedtiny_run(NormNet, initial="magnitude")
        names = selection.statistics_of(NormNet())
        assert not any(torch.equal(run.state.dense[n], first.state.dense[n]) for n in names)

    def test_every_byte_is_counted_as_set_up(self, fedtiny_run):
        run = fedtiny_run(NormNet)
        down, up = run.exchanged_bytes
        entry = run.play(1)
        assert up > 0
        assert entry.setup_uplink_bytes == up
        assert entry.setup_bytes == down + 3 * len(run.setup_message)
        assert fedtiny_run(NormNet, initial="erk").exchanged_bytes == (0, 0)

    def test_a_client_that_cannot_answer_costs_its_answer(self, fedtiny_run, toy):
        good, bad = toy.clusters(30, 1), TensorDataset(torch.zeros(8, 1, 8, 9), torch.zeros(8))
        run = fedtiny_run(NormNet, datasets=[(good, good), (bad, bad)])
        assert run.state.supports


class TestAdjustments:
    def test_only_recomputed_drops_spare_bytes(self, fedtiny_run):
        sent, spared = (
            fedtiny_run(drops=drops, adjust_every=2, lr=0.0) for drops in ("sent", "recomputed")
        )
        for round in range(1, 4):
            for run in (sent, spared):
                run.play(round)
        # Nothing was trained: both have dropped and grown the same.
        assert sent.state.supports == spared.state.supports != sent.state.history[0]
        down = [run.ledger.rounds[2].downlink_bytes for run in (sent, spared)]
        assert down[1] < down[0]

    def test_clients_recompute_what_is_dropped_from_the_broadcast(self, fedtiny_run):
        run = fedtiny_run(adjust_every=1, drops="recomputed")
        message = run.broadcast(1)
        held = codec.decode(message, run.wire.schema, base=run.method.supports_of(run.state, 0))
        sparse = {name: e for name, e in held.items() if isinstance(e, codec.Sparse)}
        names = sorted(sparse)
        counts = dict(zip(names, held[pruning.COUNTS].values.tolist(), strict=True))
        recomputed = pruning.dropped(
            {n: e.support for n, e in sparse.items()},
            {n: as_tensor(e.values) for n, e in sparse.items()},
            {n: c for n, c in counts.items() if c},
        )
        run.play(1)
        assert set(run.versions.values()) == {1}
        version = run.method.supports_of(run.state, 1)
        assert {n: version[n] for n in recomputed} == recomputed
        for name, left in recomputed.items():
            before, after = run.method.supports_of(run.state, 0)[name], run.state.supports[name]
            assert left.nnz == before.nnz - counts[name]
            assert after.nnz == before.nnz
            assert set(left.indices.tolist()) <= set(after.indices.tolist())

    @pytest.mark.parametrize("drops", ["sent", "recomputed"])
    def test_who_missed_adjustments_is_brought_up_to_date(self, drops, fedtiny_run):
        schedule = Schedule(clients_per_round=1, batch_size=16)
        run = fedtiny_run(adjust_every=1, drops=drops, schedule=schedule)
        for round in range(1, 10):
            assert run.play(round).lost == 0
            resident = support_layers(run._residents[None].model)
            (client,) = run.cohort(round)
            held = run.method.supports_of(run.state, run.versions[client])
            assert held.keys() == resident.keys()
        assert len(set(run.versions.values())) > 1

    def test_an_adjustment_that_lost_every_client_is_made_in_the_next_round(
        self, fedtiny_run, monkeypatch
    ):
        run = fedtiny_run(adjust_every=2)
        run.play(1)
        before = run.state.supports
        with monkeypatch.context() as broken:
            broken.setattr(type(run), "_client_round", lambda *_: 1 / 0)
            assert run.play(2).clients == 0
        assert run.state.supports == before
        run.play(3)
        assert run.state.supports != before

    def test_the_cursor_goes_through_all_layers_from_the_output(self, fedtiny_run):
        run = fedtiny_run(NormNet, adjust_every=1, granularity="layer", pool_size=1)
        seen = []
        for round in range(1, 5):
            seen.append(run.state.cursor.current)
            run.play(round)
        assert seen == [("8.weight",), ("3.weight",)] * 2

    def test_masks_stay_after_the_last_adjustment_and_where_there_is_none(self, fedtiny_run):
        run, static = fedtiny_run(adjust_every=2, adjust_until=4), fedtiny_run(adjust_every=0)
        for round in range(1, 7):
            run.play(round)
            static.play(round)
        assert len(run.state.history) == 2  # of round 2: at the end the rate is 0
        assert static.state.supports == static.state.history[0]
        assert len(static.state.history) == 1
        for one in (run, static):
            changed = dict(one.state.history[0])
            assert {n: s.nnz for n, s in changed.items()} == {
                n: s.nnz for n, s in one.state.supports.items()
            }

    def test_gradients_travel_in_rounds_of_adjustment_alone(self, fedtiny_run):
        run = fedtiny_run(adjust_every=2)
        up = [run.play(round).uplink_bytes for round in (1, 2, 3)]
        counts = sum(fedtiny_run(adjust_every=1).state.counts.values())
        assert up[1] - max(up[0], up[2]) < 3 * (2 * 4 * counts + 64)
        assert up[1] > max(up[0], up[2])


@pytest.mark.parametrize("initial", ["random", "erk", "magnitude", "synflow"])
@pytest.mark.parametrize("density", [0.3, 0.001])
def test_static_masks_keep_the_density_and_no_layer_is_empty(initial, density, fedtiny_run):
    run = fedtiny_run(NormNet, density, initial=initial, iterations=5, adjust_every=0)
    model = NormNet()
    masked = masked_layers(model, density)
    total = sum(model.get_parameter(name).numel() for name in masked.names)
    dense = masked.names[: masked.first_dense]
    kept = sum(s.nnz for s in run.state.supports.values())
    kept += sum(model.get_parameter(name).numel() for name in dense)
    assert all(support.nnz >= 1 for support in run.state.supports.values())
    if initial != "synflow":
        assert abs(kept - density * total) <= len(masked.names)
    client = run.new_client()
    supports = {name: layer.support for name, layer in support_layers(client.model).items()}
    assert supports == run.state.supports
    assert run.play(1).lost == 0


@pytest.mark.parametrize("initial", ["candidates", "erk"])
def test_density_of_a_thousandth_trains(initial, toy, fedtiny_run):
    def wide():
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Linear(288, 600),
            nn.ReLU(),
            nn.Linear(600, 3),
        )

    run = fedtiny_run(wide, 0.001, initial=initial, adjust_every=1, granularity="layer")
    for round in range(1, 6):
        assert run.play(round).lost == 0
        assert all(support.nnz >= 1 for support in run.state.supports.values())
    assert len(run.state.history) > 3
    sizes = sum(s.numel for s in run.state.supports.values())
    kept = sum(s.nnz for s in run.state.supports.values())
    assert kept <= 0.0012 * sizes


@pytest.mark.parametrize("initial", ["random", "erk"])
def test_masks_of_a_seed_are_set_up_by_it(initial, fedtiny_run):
    run = fedtiny_run(NormNet, initial=initial)
    entries = codec.decode(run.setup_message, codec.Schema.of(NormNet()))
    assert all(isinstance(entry, codec.Regenerated) for entry in entries.values())


def test_broadcasts_of_other_layers_are_refused_untouched(fedtiny_run):
    run = fedtiny_run()
    client = run.new_client()
    run.receive(client, run.broadcast(1))
    before = copy.deepcopy(client.model.state_dict())
    with pytest.raises(ValueError, match="sparse layers"):
        run.method.receive(client, codec.Update({}))
    sparse = run.method.broadcast(run.state, 1)
    partial = codec.Update({n: e for n, e in sparse.items() if isinstance(e, codec.Sparse)})
    with pytest.raises(ValueError, match="received no tensor"):
        run.method.receive(client, partial)
    assert all(torch.equal(before[n], v) for n, v in client.model.state_dict().items())


def test_without_public_data_it_says_so_and_begins_from_the_initialisation(fedtiny_run, caplog):
    run = fedtiny_run(public=False, adjust_every=0)
    assert "no public data" in caplog.text
    model, start = run.task.new_model(), run.method.global_model(run.task, run.state)
    mask = run.state.supports[HIDDEN].to_mask()
    assert torch.equal(start[4].weight, model[4].weight * mask)


def test_pre_training_follows_from_the_seed_and_the_public_data(fedtiny_run):
    first, again, none = fedtiny_run(), fedtiny_run(), fedtiny_run(pretrain_epochs=0)
    assert torch.equal(first.state.values[HIDDEN], again.state.values[HIDDEN])
    assert not torch.equal(first.state.dense["0.weight"], none.state.dense["0.weight"])


@pytest.mark.parametrize("initial", ["candidates", "random"])
def test_density_one_is_fedavg(initial, fedtiny_run, federation):
    run = fedtiny_run(density=1.0, initial=initial, pretrain_epochs=0, adjust_every=1)
    dense = federation("fedavg")
    for one in (run, dense):
        one.play(1)
    models = [one.method.global_model(one.task, one.state) for one in (run, dense)]
    assert not run.state.supports
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])
