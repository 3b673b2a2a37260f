import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import METHODS, Task, load_method
from sparsefl.fl.methods import fedpt, hidenseek
from sparsefl.nn import FrozenLinear
from sparsefl.random import normal
from sparsefl.support import Support


def total(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_listed_method_loads_and_others_are_named():
    assert [load_method(name).name for name in METHODS] == list(METHODS)
    with pytest.raises(ValueError, match="hidenseek"):
        load_method("fedsgd")


def test_unknown_options_are_named(method):
    with pytest.raises(ValueError, match="learning_rate"):
        load_method(method).with_defaults({"learning_rate": 1.0})


class TestFedPT:
    def test_frozen_entries_are_bit_identical_after_rounds(self, federation):
        run = federation("fedpt", seed=9)
        before = run.method.global_model(run.task, run.state)
        for round in (1, 2, 3):
            run.play(round)
        after = run.method.global_model(run.task, run.state)
        assert run.state.frozen == ("4.weight",)
        assert torch.equal(before[4].weight, after[4].weight)
        assert torch.equal(
            torch.from_numpy(normal(9, "4.weight", (24, 36), fedpt_std(run))), after[4].weight
        )
        assert not torch.equal(before[6].weight, after[6].weight)
        assert not torch.equal(before[4].bias, after[4].bias)

    def test_what_travels_is_y_and_a_seed(self, federation, toy):
        run = federation("fedpt", seed=2**63 + 5)
        down = codec.decode(run.broadcast(1), run.wire.schema)
        assert isinstance(down["4.weight"], codec.Regenerated)
        assert down["4.weight"].seed == 2**63 + 5
        run.play(1)
        sent = run.ledger.rounds[0].uplink_bound_bytes
        assert sent == 3 * 4 * (total(toy.cnn()) - 24 * 36)

    def test_client_regenerates_when_the_seed_changes(self, federation):
        run, other = federation("fedpt", seed=1), federation("fedpt", seed=2)
        client = run.new_client()
        run.receive(client, run.broadcast(1))
        first = client.model[4].weight.clone()
        run.receive(client, other.broadcast(1))
        assert isinstance(client.model[4], FrozenLinear)
        assert client.model[4].seed == 2
        assert not torch.equal(first, client.model[4].weight)

    @pytest.mark.parametrize(
        ("patterns", "names"),
        [
            (None, ("4.weight",)),
            ("0.weight", ("0.weight",)),
            ("0", ("0.weight",)),
            ("0,6", ("0.weight", "6.weight")),
            ("[46].weight", ("4.weight", "6.weight")),
        ],
    )
    def test_frozen_layers_are_chosen_by_name(self, patterns, names, toy):
        assert fedpt.frozen_names(toy.cnn(), patterns) == names

    def test_a_pattern_without_a_match_and_nothing_to_train_are_refused(self, toy):
        with pytest.raises(ValueError, match="no layer matches 'fc1'"):
            fedpt.frozen_names(toy.cnn(), "fc1")
        with pytest.raises(ValueError, match="left to train"):
            fedpt.frozen_names(nn.Sequential(nn.Linear(3, 2)), None)

    def test_frozen_convolution_trains_the_rest(self, federation):
        run = federation("fedpt", frozen="0")
        losses = [run.play(round).loss for round in range(1, 7)]
        assert losses[-1] < losses[0]

    def test_server_learning_rate_scales_the_step(self, federation):
        whole, half = federation("fedpt"), federation("fedpt", server_lr=0.5)
        start = whole.state.trainable["6.weight"].clone()
        whole.play(1)
        half.play(1)
        torch.testing.assert_close(
            half.state.trainable["6.weight"] - start,
            0.5 * (whole.state.trainable["6.weight"] - start),
        )


def fedpt_std(run):
    client = run.new_client()
    run.receive(client, run.broadcast(1))
    return client.model[4].std


class TestHideNseek:
    def test_server_and_client_supports_are_equal_and_stay(self, federation):
        run = federation("hidenseek")
        client = run.new_client()
        for round in (1, 2, 3):
            run.play(round)
        layers = hidenseek.sign_layers(client.model)
        assert {name: layer.support for name, layer in layers.items()} == run.wire.supports
        kept = sum(support.nnz for support in run.wire.supports.values())
        weights = sum(support.numel for support in run.wire.supports.values())
        assert kept == round_half_even(0.3 * weights)

    def test_uplink_is_one_bit_a_kept_weight_and_a_scale_a_layer(self, federation):
        run = federation("hidenseek")
        run.play(1)
        kept = [support.nnz for support in run.wire.supports.values()]
        bits = sum(kept) + 32 * len(kept)
        assert run.ledger.rounds[0].uplink_bound_bytes == 3 * -(-bits // 8)

    def test_masks_travel_once_and_scores_as_bfloat16(self, federation):
        run = federation("hidenseek")
        masks = codec.decode(run.setup_message, run.wire.schema)
        assert all(isinstance(entry, codec.SupportOnly) for entry in masks.values())
        message = run.broadcast(1)
        down = codec.decode(message, run.wire.schema, base=run.wire.supports)
        for name, scores in run.state.scores.items():
            expected = scores.to(torch.bfloat16).float()
            assert torch.equal(torch.from_numpy(down[name].values), expected)
        with pytest.raises(codec.CodecError):
            codec.decode(message, run.wire.schema)

    def test_signs_of_change_are_one_bit_and_the_mean_size(self):
        support = Support.from_mask(np.ones(6, dtype=bool))
        change = np.array([0.5, -1.0, 0.0, 0.0, 2.5, 0.0], dtype=np.float32)
        even, odd = (hidenseek.signs_of_change(support, change, round) for round in (4, 5))
        assert even.signs.tolist() == [1, -1, 1, -1, 1, -1]
        assert odd.signs.tolist() == [1, -1, -1, 1, 1, 1]
        assert even.scale == pytest.approx(4.0 / 6)

    def test_server_adds_the_weighted_signs(self, federation):
        run = federation("hidenseek")
        before = run.state.scores["4.weight"].clone()
        signs = [torch.ones(before.numel()), -torch.ones(before.numel())]
        updates = []
        for weight, scale, sign in zip((0.75, 0.25), (0.2, 0.4), signs, strict=True):
            entries = {
                name: codec.Signs(
                    support,
                    np.full(support.nnz, int(sign[0]), dtype=np.int8),
                    scale if name == "4.weight" else 0.0,
                )
                for name, support in run.wire.supports.items()
            }
            updates.append((weight, codec.Update(entries, round=1)))
        after = run.method.aggregate(run.state, updates).scores
        torch.testing.assert_close(after["4.weight"], before + 0.75 * 0.2 - 0.25 * 0.4)
        assert torch.equal(after["0.weight"], run.state.scores["0.weight"])

    def test_effective_weights_are_one_constant_a_layer_and_zero_elsewhere(self, federation):
        run = federation("hidenseek")
        run.play(1)
        model = run.method.global_model(run.task, run.state)
        for name, support in run.wire.supports.items():
            weight = model.get_parameter(name)
            fan_in = weight[0].numel()
            constant = (2 / fan_in) ** 0.5 / support.density**0.5
            kept = weight.flatten()[torch.tensor(support.indices)]
            torch.testing.assert_close(kept.abs(), torch.full_like(kept, constant))
            assert int(weight.count_nonzero()) == support.nnz
        assert all(module.bias is None for module in model if hasattr(module, "weight"))

    def test_a_broadcast_for_other_supports_is_refused_untouched(self, federation):
        run, other = federation("hidenseek"), federation("hidenseek", seed=4)
        client = run.new_client()
        run.receive(client, run.broadcast(1))
        before = client.model[4].scores.clone()
        with pytest.raises(codec.CodecError):
            run.receive(client, other.broadcast(1))
        foreign = codec.Update({})
        with pytest.raises(ValueError, match="do not cover"):
            run.method.receive(client, foreign)
        assert torch.equal(before, client.model[4].scores)

    def test_norms_stay_dense_and_are_averaged(self, federation, toy):
        run = federation("hidenseek", factory=toy.norm_net)
        assert set(run.state.scores) == {"0.weight", "5.weight"}
        assert run.state.parameters == 12
        run.play(1)
        assert not torch.equal(run.state.dense["1.weight"], torch.ones(6))

    def test_tied_weights_are_refused_by_name(self, toy):
        def tied():
            model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
            model[2].weight = model[0].weight
            return nn.Sequential(nn.Flatten(), model)

        method = load_method("hidenseek")
        task = Task(tied, torch.zeros(1, *toy.pixels), 0, 0.5, method.defaults)
        with pytest.raises(ValueError, match="tied"):
            method.init(task)


def round_half_even(value):
    return round(value)


def test_claims_follow_the_documented_formulas(toy):
    example = torch.zeros(1, *toy.pixels)
    forward = {"0.weight": 1000, "4.weight": 200, "6.weight": 30}
    states, methods = {}, {name: load_method(name) for name in METHODS}
    for name, method in methods.items():
        states[name] = method.init(Task(toy.cnn, example, 0, 0.3, method.defaults))
    claims = {n: (m.claimed_uplink_bytes(states[n]), m) for n, m in methods.items()}
    parameters = total(toy.cnn())
    assert claims["fedavg"][0] == 4 * parameters
    assert claims["fedpt"][0] == 4 * (parameters - 24 * 36)
    kept = round(0.3 * (36 + 24 * 36 + 24 * 3))
    assert claims["hidenseek"][0] == -(-kept // 8)
    assert methods["fedavg"].claimed_flops(states["fedavg"], forward) == 3 * 1230
    assert methods["fedpt"].claimed_flops(states["fedpt"], forward) == 3 * 1230 - 200
    supports = states["hidenseek"].wire.supports
    expected = 3 * round(sum(f * supports[name].density for name, f in forward.items()))
    assert methods["hidenseek"].claimed_flops(states["hidenseek"], forward) == expected
