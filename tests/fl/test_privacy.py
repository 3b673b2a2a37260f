"""Clipping, noise and accounting of private federations."""

import numpy as np
import pytest
import torch
from torch import nn

from sparsefl import codec
from sparsefl.fl import Federation, Schedule, load_method
from sparsefl.fl.privacy import Privacy, clipped, epsilon, norm_of

PRIVATE = ("fedavg", "fedprox", "fedpt")
POISSON = Schedule(batch_size=16, clients_per_round=2, sampling="poisson")


def mechanism(**changes):
    given = {"clip": 2.0, "noise": 0.5, "delta": 1e-5, "entropy": "seed"}
    return Privacy(**(given | {"sampling": "uniform", "clients": 9, "cohort": 4} | changes))


def state_of(run: Federation) -> torch.Tensor:
    model = run.method.global_model(run.task, run.state)
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("length", [0.0, 1.9, 2.0, 7.0])
def test_a_change_is_scaled_to_the_bound_and_not_beyond(length):
    change = {"a": torch.ones(3, 5), "b": -torch.ones(1)}
    change = {name: value * length / 4 for name, value in change.items()}
    bounded = clipped(change, 2.0)
    whole = torch.cat([value.flatten() for value in bounded.values()])
    assert float(whole.norm()) == pytest.approx(min(length, 2.0), abs=1e-6)
    if length <= 2:
        assert all(torch.equal(bounded[name], change[name]) for name in change)
    else:
        assert torch.allclose(bounded["a"], change["a"] * 2 / length)


def test_the_norm_of_a_message_counts_what_it_adds(toy):
    support = codec.Sparse(*codec.top_k(np.array([3.0, 0.0, -4.0], np.float32), 2))
    signs = codec.Signs(support.support, np.array([1, -1], np.int8), scale=2.0)
    assert norm_of(codec.Update({"x": support})) == 5
    assert norm_of(codec.Update({"x": signs, "y": codec.Dense(torch.ones(1))})) == 3


def test_what_has_no_norm_is_refused_instead_of_counted_as_none():
    masked = codec.Modular(np.ones(3, np.uint32), 0.5)
    with pytest.raises(ValueError, match="privacy has no norm of Modular"):
        norm_of(codec.Update({"x": codec.Dense(torch.ones(1)), "y": masked}))


@pytest.mark.parametrize("method", PRIVATE)
def test_without_noise_the_step_is_the_mean_of_clipped_changes(method, federation):
    clip, plain = 0.05, []
    for client in range(3):
        one = federation(method)
        before = state_of(one)
        one._examples = [n if k == client else 0 for k, n in enumerate(one._examples)]
        one.play(1)
        plain.append(state_of(one) - before)
    assert all(float(change.norm()) > clip for change in plain)
    run = federation(method, dp_clip=clip)
    before = state_of(run)
    entry = run.play(1)
    wanted = sum(change * clip / change.norm() for change in plain) / 3
    assert torch.allclose(state_of(run) - before, wanted, atol=2e-7)
    assert entry.epsilon is None


def test_a_client_that_does_not_clip_is_clipped_by_the_server(federation, monkeypatch):
    honest, cheated = federation("fedpt", dp_clip=0.05), federation("fedpt", dp_clip=0.05)
    before = state_of(honest)
    honest.play(1)
    monkeypatch.setattr("sparsefl.fl.privacy.clipped", lambda change, clip: change)
    cheated.play(1)
    assert torch.allclose(state_of(honest), state_of(cheated), atol=1e-7)
    assert 0 < float((state_of(cheated) - before).norm()) <= 0.05 * (1 + 1e-6)


def test_what_is_not_finite_costs_its_update():
    with pytest.raises(ValueError, match="norm inf"):
        mechanism().weight(codec.Update({"x": codec.Dense(torch.tensor([1e300, 1e300]).double())}))


def test_a_lost_client_counts_as_nothing(federation, toy):
    run = federation("fedavg", dp_clip=0.05)
    run.play(1)
    before = state_of(run)
    run.datasets = [run.datasets[0], [("x", 0)] * 24, [("x", 0)] * 33]
    entry = run.play(2)
    assert (entry.clients, entry.lost) == (1, 2)
    assert float((state_of(run) - before).norm()) == pytest.approx(0.05 / 3, rel=1e-4)


def test_noise_has_its_deviation_on_the_sum_and_differs_by_round_and_tensor():
    sums = {"a": torch.zeros(300, 200).double(), "b": torch.zeros(60_000).double()}
    first, again, second = (
        mechanism().noisy_mean(sums, 3, seed=5, round=round).tensors for round in (1, 1, 2)
    )
    for name, value in first.items():
        assert torch.equal(value, again[name])
        # sigma C / m = .25; of 60,000 draws the deviation is known to .3 % (one sigma).
        assert float(value.std()) == pytest.approx(0.25, rel=0.015)
        assert abs(float(value.mean())) < 4 * 0.25 / 60_000**0.5
    for other in (first["b"], second["a"].flatten()):
        assert abs(float(torch.corrcoef(torch.stack([first["a"].flatten(), other]))[0, 1])) < 0.02


def test_fresh_noise_and_cohorts_do_not_come_from_the_seed(federation):
    sums = {"a": torch.zeros(9).double()}
    fresh = mechanism(entropy="fresh")
    draws = [fresh.noisy_mean(sums, 3, seed=5, round=1).tensors["a"] for _ in range(2)]
    assert not torch.equal(*draws)
    run = federation("fedavg", dp_clip=1.0, dp_entropy="fresh")
    run.schedule = POISSON
    assert len({tuple(run.cohort(1)) for _ in range(64)}) > 1


def test_only_what_trains_gets_noise(federation):
    pytest.importorskip("dp_accounting")
    run = federation("fedpt", dp_clip=0.01, dp_noise=1.0)
    before = run.method.global_model(run.task, run.state).state_dict()
    run.play(1)
    after = run.method.global_model(run.task, run.state).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == set(run.state.frozen)


def test_a_round_without_anyone_is_a_step_of_noise(federation, monkeypatch):
    pytest.importorskip("dp_accounting")
    run = federation("fedavg", dp_clip=0.01, dp_noise=1.0)
    run.schedule = POISSON
    monkeypatch.setattr("sparsefl.fl.engine.draw_cohort", lambda *_: {})
    before = state_of(run)
    entry = run.play(1)
    moved = state_of(run) - before
    assert (entry.clients, entry.loss) == (0, None)
    assert float(moved.std()) == pytest.approx(0.01 / 2, rel=0.1)
    assert entry.epsilon > 0


def test_a_round_without_anyone_is_nothing_where_nothing_is_private(federation, monkeypatch):
    run = federation("fedavg")
    monkeypatch.setattr("sparsefl.fl.engine.draw_cohort", lambda *_: {})
    before = state_of(run)
    run.play(1)
    assert torch.equal(state_of(run), before)


def test_epsilon_is_the_accountants():
    pytest.importorskip("dp_accounting")
    known = {"delta": 1e-5, "clients": 1000, "cohort": 10, "rounds": 1000}
    assert epsilon(1.0, sampling="poisson", **known) == pytest.approx(2.1014, abs=1e-4)
    # Without replacement a neighbour may move the sum by 2 C: as much noise is worth half.
    replaced = epsilon(2.0, sampling="uniform", **known)
    assert replaced == pytest.approx(3.5761, abs=1e-4)
    assert epsilon(1.0, sampling="uniform", **known) > replaced
    rounds = [epsilon(1.0, sampling="poisson", **(known | {"rounds": n})) for n in (1, 10, 100)]
    assert rounds == sorted(rounds)


@pytest.mark.parametrize("sampling", ["uniform", "poisson"])
def test_the_ledger_the_row_and_the_table_say_what_was_spent(sampling, small):
    pytest.importorskip("dp_accounting")
    schedule = Schedule(batch_size=16, clients_per_round=2, sampling=sampling)
    result = small(
        "fedpt", schedule=schedule, options={"dp_clip": 0.1, "dp_noise": 2.0, "dp_delta": 1e-3}
    )
    spent = [entry.epsilon for entry in result.ledger.rounds]
    assert spent == [epsilon(2.0, 1e-3, sampling, 3, 2, rounds) for rounds in (1, 2, 3)]
    assert (result.row()["epsilon"], result.row()["delta"]) == (spent[-1], 1e-3)
    assert f"{spent[-1]:.3g}" in result.table()
    assert result.ledger.lines()[1]["epsilon"] == spent[1]


@pytest.mark.parametrize("method", ["fedavg", "fedpt"])
def test_a_private_run_resumes_bit_for_bit(method, small, tmp_path):
    pytest.importorskip("dp_accounting")
    given = {"options": {"dp_clip": 0.1, "dp_noise": 1.0}, "schedule": POISSON}
    whole = small(method, **given)
    small(method, rounds=1, checkpoint=tmp_path, **given)
    resumed = small(method, checkpoint=tmp_path, resume=True, **given)
    assert resumed.model_sha256 == whole.model_sha256
    assert [e.epsilon for e in resumed.ledger.rounds] == [e.epsilon for e in whole.ledger.rounds]


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"sparsefl\[dp\]"):
        load_method("fedpt").with_defaults({"dp_clip": 1.0, "dp_noise": 1.0})
    # Clipping alone has nothing to account for.
    load_method("fedpt").with_defaults({"dp_clip": 1.0})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dp_clip": -1.0}, "dp_clip"),
        ({"dp_noise": 1.0}, "needs dp_clip"),
        ({"dp_clip": 1.0, "dp_delta": 0.0}, "dp_delta"),
        ({"dp_clip": 1.0, "dp_entropy": "none"}, "dp_entropy"),
    ],
)
@pytest.mark.parametrize("method", PRIVATE)
def test_options_out_of_range_are_named(method, options, says):
    with pytest.raises(ValueError, match=says):
        load_method(method).with_defaults(options)


@pytest.mark.parametrize("method", PRIVATE)
def test_what_is_not_covered_is_refused(method, toy, federation):
    with pytest.raises(ValueError, match=r"1\.running_mean.*without buffers"):
        federation(method, factory=toy.norm_net, dp_clip=1.0)
    with pytest.raises(ValueError, match=r"0\.weight.*fixed parameters"):
        federation(method, factory=partly_fixed, dp_clip=1.0, **frozen_last(method))


def partly_fixed():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4), nn.Linear(4, 3))
    net[0].weight.requires_grad_(False)
    return net


def frozen_last(method):
    return {"frozen": "2"} if method == "fedpt" else {}


def test_sampling_without_a_theorem_is_refused(federation):
    run = federation("fedavg", dp_clip=1.0)
    run.schedule = Schedule(sampling="examples")
    with pytest.raises(ValueError, match="uniform or poisson"):
        run.play(1)


@pytest.mark.parametrize("method", ["scaffold", "fedpm", "hidenseek"])
def test_methods_that_send_something_else_offer_none(method):
    with pytest.raises(ValueError, match="no option dp_clip"):
        load_method(method).with_defaults({"dp_clip": 1.0})
