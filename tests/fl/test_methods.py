import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import METHODS, Federation, Schedule, Task, load_method
from sparsefl.fl.methods._fedpt_selection import frozen_names
from sparsefl.nn import FrozenLinear
from sparsefl.random import normal


def total(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_listed_method_loads_and_others_are_named():
    assert [load_method(name).name for name in METHODS] == list(METHODS)
    with pytest.raises(ValueError, match="hidenseek"):
        load_method("fedsgd")


def test_unknown_options_are_named(method):
    with pytest.raises(ValueError, match="learning_rate"):
        load_method(method).with_defaults({"learning_rate": 1.0})


COMMON = [
    ("lr", -0.1, ValueError),
    ("lr", "0.1", TypeError),
    ("lr_step", 0, ValueError),
    ("lr_step", 1.5, TypeError),
    ("lr_decay", -1.0, ValueError),
    ("lr_warmup", -1, ValueError),
    ("lr_horizon", -1, ValueError),
    ("lr_schedule", "linear", ValueError),
]
DENSE = [
    ("momentum", -0.5, ValueError),
    ("weight_decay", -1e-4, ValueError),
    ("server_lr", 0.0, ValueError),
    ("server_beta2", 1.0, ValueError),
    ("server_optimizer", "rmsprop", ValueError),
]
OWN = {
    "fedavg": DENSE,
    "fedprox": [*DENSE, ("mu", -0.01, ValueError)],
    "scaffold": [*DENSE, ("momentum", 1.0, ValueError), ("clients", -1, ValueError)],
    "fedpm": [
        ("gain", 0.0, ValueError),
        ("score_std", 0.0, ValueError),
        ("prior", 0.5, ValueError),
        ("reset_every", 0, ValueError),
        ("reset_every", 1.5, TypeError),
        ("clip", 0.0, ValueError),
        ("clip", 0.5, ValueError),
        ("score_format", "int4", ValueError),
        ("evaluated", "median", ValueError),
    ],
    "fedpt": [*DENSE, ("frozen_fraction", 1.0, ValueError)],
    "adp": [
        *DENSE,
        ("mu", -0.01, ValueError),
        ("algorithm", "fednova", ValueError),
        ("stats", "open", ValueError),
        ("gate_sigmoid", "maybe", ValueError),
        ("row_uplink", 1, TypeError),
    ],
    "fedtiny": [
        ("momentum", -0.5, ValueError),
        ("weight_decay", -1e-4, ValueError),
        ("initial", "snip", ValueError),
        ("pool_size", -1, ValueError),
        ("pretrain_epochs", 1.5, TypeError),
        ("pretrain_lr", 0.0, ValueError),
        ("adjust_every", -1, ValueError),
        ("alpha", 1.1, ValueError),
        ("granularity", "stage", ValueError),
        ("drops", "kept", ValueError),
    ],
    "lotteryfl": [
        ("momentum", -0.5, ValueError),
        ("threshold", 1.5, ValueError),
        ("prune_share", 0.0, ValueError),
        ("prune_share", 1.0, ValueError),
    ],
    "hidenseek": [
        ("dense_lr", -0.1, ValueError),
        ("dense_momentum", -0.1, ValueError),
        ("score_std", 0.0, ValueError),
        ("iterations", 0, ValueError),
        ("dense_layers", 3, TypeError),
        ("structure", "blocks", ValueError),
    ],
}


@pytest.mark.parametrize(
    ("name", "key", "value", "error"),
    [(name, *bad) for name in METHODS for bad in (*COMMON, *OWN[name])],
)
def test_options_out_of_range_are_refused_before_anything_is_built(name, key, value, error):
    def factory():
        raise AssertionError("built")

    method = load_method(name)
    with pytest.raises(error, match=key):
        method.with_defaults({key: value})
    task = Task(factory, torch.zeros(1, 4), 0, 0.3, {**method.defaults, key: value})
    with pytest.raises(error, match=key):
        Federation(method, task, [[0]], Schedule())


def test_a_schedule_of_half_batches_is_refused_by_the_federation(method):
    chosen = load_method(method)
    task = Task(nn.Module, torch.zeros(1, 4), 0, 0.3, chosen.defaults)
    with pytest.raises(TypeError, match="batch_size must be a whole number"):
        Federation(chosen, task, [[0]], Schedule(batch_size=2.5))


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
        trained = 4 * (total(toy.cnn()) - 24 * 36)
        assert trained < run.ledger.rounds[0].uplink_bound_bytes <= 3 * trained

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
        assert frozen_names(toy.cnn(), patterns) == names

    def test_a_pattern_without_a_match_and_nothing_to_train_are_refused(self, toy):
        with pytest.raises(ValueError, match="no layer matches 'fc1'"):
            frozen_names(toy.cnn(), "fc1")
        with pytest.raises(ValueError, match="left to train"):
            frozen_names(nn.Sequential(nn.Linear(3, 2)), None)

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


def test_claims_follow_the_documented_formulas(toy):
    example = torch.zeros(1, *toy.pixels)
    forward = {"0.weight": 1000, "4.weight": 200, "6.weight": 30}
    states, methods = {}, {name: load_method(name) for name in ("fedavg", "fedpt")}
    for name, method in methods.items():
        states[name] = method.init(Task(toy.cnn, example, 0, 0.3, method.defaults))
    claims = {n: (m.claimed_uplink_bytes(states[n]), m) for n, m in methods.items()}
    parameters = total(toy.cnn())
    assert claims["fedavg"][0] == 4 * parameters
    assert claims["fedpt"][0] == 4 * (parameters - 24 * 36)
    assert methods["fedavg"].claimed_flops(states["fedavg"], forward) == 3 * 1230
    assert methods["fedpt"].claimed_flops(states["fedpt"], forward) == 3 * 1230 - 200


class Shared(nn.Module):
    """One layer under two names, or two layers with one weight."""

    def __init__(self, tied: bool):
        super().__init__()
        self.a = nn.Linear(64, 64)
        self.b = nn.Linear(64, 64) if tied else self.a
        self.b.weight = self.a.weight
        self.out = nn.Linear(64, 3)

    def forward(self, x):
        return self.out(self.b(self.a(x.flatten(1)).relu()).relu())


@pytest.mark.parametrize("tied", [False, True], ids=["layer", "weight"])
def test_shared_layers_train_or_are_named_before_the_first_round(method, tied, small):
    def play():
        return small(method, model=lambda: Shared(tied), rounds=1)

    if method in ("hidenseek", "fedtiny", "lotteryfl"):
        with pytest.raises(ValueError, match=f"{method} .* one weight as a.weight and b.weight"):
            play()
        return
    model = play().model
    assert torch.equal(model.a.weight, model.b.weight)
