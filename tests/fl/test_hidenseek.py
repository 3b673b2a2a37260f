import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import Task, load_method
from sparsefl.fl.methods import _hidenseek_model as networks
from sparsefl.fl.methods import hidenseek

HIDDEN = "4.weight"


def total(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("dense_layers", ["first,last", ""], ids=["outer dense", "all signed"])
def test_server_and_client_supports_are_equal_and_stay(federation, dense_layers):
    run = federation("hidenseek", dense_layers=dense_layers)
    client = run.new_client()
    before = dict(run.wire.supports)
    for round in (1, 2, 3):
        run.play(round)
    layers = networks.sign_layers(client.model)
    assert {name: layer.support for name, layer in layers.items()} == before == run.wire.supports
    assert set(layers) == ({HIDDEN} if dense_layers else {"0.weight", HIDDEN, "6.weight"})


def test_density_is_of_all_weights(federation):
    run = federation("hidenseek", dense_layers="")
    kept = sum(support.nnz for support in run.wire.supports.values())
    assert kept == round(0.3 * sum(support.numel for support in run.wire.supports.values()))


def test_uplink_is_one_bit_a_kept_weight_a_scale_a_layer_and_the_dense_parameters(federation):
    run = federation("hidenseek")
    run.play(1)
    kept = [support.nnz for support in run.wire.supports.values()]
    bits = sum(kept) + 32 * len(kept) + 32 * run.state.parameters
    # The bound takes signs for flips of the broadcast's, and dense values by their entropy.
    signs = sum(kept) + 32 * len(kept)
    assert 0.9 * signs <= 8 * run.ledger.rounds[0].uplink_bound_bytes / 3 <= bits + 8


def test_masks_travel_once_and_scores_in_their_format(federation):
    run = federation("hidenseek", score_format="bf16")
    masks = codec.decode(run.setup_message, run.wire.schema)
    assert all(isinstance(entry, codec.SupportOnly) for entry in masks.values())
    message = run.broadcast(1)
    down = codec.decode(message, run.wire.schema, base=run.wire.supports)
    for name, scores in run.state.scores.items():
        expected = scores.to(torch.bfloat16).float()
        assert torch.equal(torch.from_numpy(down[name].values), expected)
    with pytest.raises(codec.CodecError):
        codec.decode(message, run.wire.schema)


def test_signs_are_one_constant_a_layer_and_zero_elsewhere(federation):
    run = federation("hidenseek", dense_layers="")
    run.play(1)
    model = run.method.global_model(run.task, run.state)
    for name, support in run.wire.supports.items():
        weight = model.get_parameter(name)
        constant = (2 / weight[0].numel()) ** 0.5 / support.density**0.5
        kept = weight.flatten()[torch.tensor(support.indices)]
        torch.testing.assert_close(kept.abs(), torch.full_like(kept, constant))
        assert int(weight.count_nonzero()) == support.nnz


def test_dense_layers_biases_and_norms_are_trained_and_averaged(federation, toy):
    run = federation("hidenseek", factory=toy.norm_net)
    assert set(run.state.scores) == {"5.weight"}
    before = {name: value.clone() for name, value in run.state.dense.items()}
    assert run.state.parameters == 54 + 6 + 12 + 3
    run.play(1)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "5.bias"):
        assert not torch.equal(run.state.dense[name], before[name]), name


@pytest.mark.parametrize(
    ("dense_layers", "signed"),
    [
        ("", ["0.weight", "4.weight", "6.weight"]),
        ("first", ["4.weight", "6.weight"]),
        ("last", ["0.weight", "4.weight"]),
        ("first, last", ["4.weight"]),
        ("[46]", ["0.weight"]),
        ("4.weight,last", ["0.weight"]),
    ],
    ids=["none", "first", "last", "both", "pattern", "name"],
)
def test_dense_layers_are_chosen_by_place_and_by_name(dense_layers, signed, toy):
    assert list(networks.signed_weights(toy.cnn(), dense_layers)) == signed


def test_places_spare_the_largest_layer(toy):
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert list(networks.signed_weights(single, "first,last")) == ["1.weight"]
    pair = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    assert list(networks.signed_weights(pair, "first,last")) == ["0.weight"]


def test_depthwise_convolutions_stay_dense():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
    assert list(networks.signed_weights(model, "")) == ["0.weight", "2.weight"]


def test_networks_without_a_layer_for_signs_are_refused(toy):
    with pytest.raises(ValueError, match="no layer matches 'fc1'"):
        networks.signed_weights(toy.cnn(), "fc1")
    with pytest.raises(ValueError, match="a layer for signs"):
        networks.signed_weights(toy.cnn(), "*")
    with pytest.raises(ValueError, match="the model has none"):
        networks.signed_weights(nn.ReLU(), "first")
    with pytest.raises(ValueError, match=r"the model has none; .*'0': .*bfloat16"):
        networks.signed_weights(nn.Sequential(nn.Linear(9, 9)).bfloat16(), "first")


def test_a_broadcast_for_other_supports_is_refused_untouched(federation):
    run, other = federation("hidenseek"), federation("hidenseek", seed=4)
    client = run.new_client()
    run.receive(client, run.broadcast(1))
    before = client.model[4].scores.clone()
    with pytest.raises(codec.CodecError):
        run.receive(client, other.broadcast(1))
    with pytest.raises(ValueError, match="do not cover"):
        run.method.receive(client, codec.Update({}))
    assert torch.equal(before, client.model[4].scores)


def test_a_client_without_masks_is_refused(federation):
    run = federation("hidenseek")
    with pytest.raises(ValueError, match="masks"):
        run.method.new_client(run.task, None)


def test_tied_weights_are_refused_by_name(toy):
    def tied():
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        model[2].weight = model[0].weight
        return nn.Sequential(nn.Flatten(), model)

    method = load_method("hidenseek")
    options = method.with_defaults({"dense_layers": ""})
    task = Task(tied, torch.zeros(1, *toy.pixels), 0, 0.5, options)
    with pytest.raises(ValueError, match="tied"):
        method.init(task)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rule", "median"),
        ("score_format", "int7"),
        ("tau", 0.0),
        ("server_lr", -1.0),
        ("own_share", 1.5),
        ("beta_decay", -0.1),
        ("beta_prior", 0.0),
    ],
)
def test_options_out_of_range_are_named(federation, key, value):
    with pytest.raises(ValueError, match=key):
        federation("hidenseek", **{key: value})


def test_claims_follow_the_documented_formulas(toy):
    method = load_method("hidenseek")
    example = torch.zeros(1, *toy.pixels)
    claims = {}
    for rule in ("sign_update", "score"):
        options = method.with_defaults({"rule": rule, "iterations": 10})
        state = method.init(Task(toy.cnn, example, 0, 0.3, options))
        claims[rule] = method.claimed_uplink_bytes(state)
    kept = state.wire.supports[HIDDEN].nnz
    dense = total(toy.cnn()) - 24 * 36
    assert claims == {"sign_update": -(-kept // 8) + 4 * dense, "score": 4 * kept + 4 * dense}
    forward = {"0.weight": 1000, HIDDEN: 200, "6.weight": 30}
    expected = 3 * round(1030 + 200 * kept / (24 * 36))
    assert method.claimed_flops(state, forward) == expected


def test_first_scores_have_the_sign_of_the_weight_and_one_size(federation):
    run = federation("hidenseek", dense_layers="", score_std=0.25)
    for scores in run.state.scores.values():
        assert float(scores.square().mean().sqrt()) == pytest.approx(0.25, rel=1e-5)
    model = run.task.new_model()
    networks.draw_kaiming(model, run.task.seed)
    weight = model[4].weight.detach().flatten()[torch.tensor(run.wire.supports[HIDDEN].indices)]
    assert torch.equal(weight.sign(), run.state.scores[HIDDEN].sign())


def test_documented_defaults_are_options_of_the_method():
    assert hidenseek.METHOD.defaults is hidenseek.DEFAULTS


def test_scores_step_by_adam_and_weights_by_momentum(federation):
    run = federation("hidenseek", lr=0.5, dense_lr=0.25, dense_momentum=0.5)
    client = run.new_client()
    run.receive(client, run.broadcast(1))
    optimizer = run.method.optimizer(client, 1)
    scores, bias = client.model[4].scores, client.model[6].bias
    before = [tensor.detach().clone() for tensor in (scores, bias)]
    for _ in range(2):
        for parameter in client.model.parameters():
            parameter.grad = torch.full_like(parameter, 2.0)
        optimizer.step()
    torch.testing.assert_close(before[0] - scores, torch.full_like(scores, 2 * 0.5))
    torch.testing.assert_close(before[1] - bias, torch.full_like(bias, 0.25 * (2.0 + 3.0)))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in client.model.parameters())
    assert {"exp_avg", "momentum_buffer"} <= {k for s in optimizer.state.values() for k in s}
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_masks_of_a_structure_are_whole_and_smaller_on_the_wire(federation):
    run = federation("hidenseek", dense_layers="", structure="block:4x4")
    for support in run.wire.supports.values():
        assert support.has("block:4x4")
    whole = federation("hidenseek", dense_layers="")
    assert len(run.setup_message) < len(whole.setup_message)
    assert codec.decode(run.setup_message, run.wire.schema)[HIDDEN].support.has("block:4x4")
    run.play(1)
