"""Each script's arithmetic, on settings that take no time."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsefl import models
from sparsefl.bench.claims import (
    adp,
    fedpt_bytes,
    fedpt_step,
    fedtiny,
    hidenseek,
    masks,
    prunefl,
    round_trip,
    uplinks,
)
from sparsefl.bench.claims.claim import HERE, read
from sparsefl.bench.claims.trial import network
from sparsefl.data.digits import load_digits
from sparsefl.fl import Schedule
from sparsefl.fl.experiment import Problem
from sparsefl.fl.methods._fedpm_network import draw_constants
from sparsefl.measuring import torch_threads
from sparsefl.timing import Effort

ONCE = Effort(warmup=0, timed=2, probes=1)
SMALL = {"image": (1, 8, 8), "classes": 10}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def problem() -> Problem:
    train, test, info = load_digits()
    return Problem([(train,), (train,)], None, test, (1, 8, 8), info.num_classes, "digits")


def test_masks_are_counted_by_their_own_entropy(problem):
    found = masks.measure_density(0.2, problem, 1, "here")
    bits = found.measured["uplink_per_parameter_bits"]
    entropy = found.accounting["uplink_per_parameter_bits"]
    assert found.settings["messages"] == 2
    assert found.measured["density_of_masks"] == pytest.approx(0.27, abs=0.05)
    assert bits == pytest.approx(
        8 * found.measured["uplink_message_bytes"] / found.settings["parameters"]
    )
    assert found.realised_factor == pytest.approx(entropy / bits)
    assert 0.7 < entropy < bits < 1


def test_fedpt_claims_parameters_and_counts_messages():
    found = fedpt_bytes.claim_of("cnn", "fc1", SMALL, 2, "here")
    total = found.accounting["parameters"]
    left = found.accounting["trainable_parameters"]
    assert total - left == models.build("cnn", (1, 8, 8), 10).fc1.weight.numel()
    assert found.accounting["round_trip_factor"] == total / left
    sides = ("uplink_bytes", "downlink_bytes")
    ours = sum(found.measured[side] for side in sides)
    dense = sum(found.measured[f"dense_{side}"] for side in sides)
    assert found.measured["round_trip_factor"] == pytest.approx(dense / ours)
    assert found.realised_factor == pytest.approx(dense / ours * left / total)
    assert found.goals["round_trip_factor"] == (44.0, None)
    other = fedpt_bytes.claim_of("cnn", "conv2", SMALL, 1, "here")
    assert set(other.goals) == {"realised", "realised_downlink"}


def test_round_trip_follows_the_formula_and_beats_it_when_coded():
    factory = functools.partial(models.build, "mlp", (1, 8, 8), 10)
    found = {c.settings["name"]: c for c in round_trip.measure_model(factory, (1, 8, 8), 0.2, "x")}
    assert list(found) == [form.name for form in round_trip.FORMS]
    plain, coded, known, bf16, int8 = (c.measured["round_trip_mb"] for c in found.values())
    assert plain > coded > known > bf16 > int8
    any_claim = next(iter(found.values()))
    every = sum(p.numel() for p in factory().parameters())
    assert any_claim.accounting["dense_formula_here_mb"] == 8 * every / 1e6
    assert any_claim.accounting["formula_here_mb"] < 0.4 * 8 * every / 1e6
    assert found["fp32, mask known"].measured["setup_mb"] > 0


def test_prunefl_compares_with_the_faster_dense_layout(monkeypatch):
    monkeypatch.setitem(prunefl.IMAGES, "lenet", (1, 28, 28))
    found = prunefl.claim_of("lenet", 0.1, "here", batch=2, effort=ONCE)
    layouts = [found.measured[f"against_{own}_factor"] for own in prunefl.LAYOUTS]
    assert found.measured["step_factor"] == min(layouts)
    assert found.realised_factor == min(layouts) / 2
    assert found.goals == {"step_factor": (2.0, None)}
    assert prunefl.goals_of(0.2) == {}


def test_fedpt_step_measures_both_sides(monkeypatch):
    monkeypatch.setattr(
        fedpt_step, "peak_elsewhere", lambda *cell: {"plain": 4, "ours": 3}[cell[2]]
    )
    monkeypatch.setattr(fedpt_step, "FROZEN_BATCH", 2)
    found = fedpt_step.claim_of("cnn", "conv2", fedpt_step.CONVOLUTIONS, "here", ONCE)
    assert found.measured["peak_share"] == 0.75
    assert found.measured["activation_bytes"] <= found.measured["plain_activation_bytes"]
    assert found.settings["frozen_fraction"] == pytest.approx(18432 / 1_199_882, abs=1e-4)
    assert set(found.goals) == {"peak_share"}
    assert set(fedpt_step.goals_of(fedpt_step.LINEAR)) == {"peak_share", "step_factor"}


@pytest.mark.parametrize("rule", ["sign_update", "vote"])
def test_hidenseek_counts_the_signs_of_its_messages(problem, rule):
    found = hidenseek.count_rule(rule, problem, 1, "here")
    measured = found.measured
    assert 0.1 < measured["uplink_per_kept_weight_bits"] < 1.3
    assert measured["last_round_per_kept_weight_bits"] == measured["uplink_per_kept_weight_bits"]
    assert measured["kept_weights_alone_factor"] == pytest.approx(
        320 / measured["uplink_per_kept_weight_bits"]
    )
    sent = [name for name in measured if name.startswith("downlink")]
    assert sent == (
        ["downlink_signs_per_kept_weight_bits"]
        if rule == "vote"
        else ["downlink_int8_per_kept_weight_bits", "downlink_fp32_per_kept_weight_bits"]
    )
    assert ("last_round_per_kept_weight_bits" in found.goals) == (rule == "vote")


def test_hidenseek_step_is_compared_with_supermasks(monkeypatch):
    monkeypatch.setitem(hidenseek.IMAGES, "lenet", (1, 28, 28))
    found = hidenseek.step_claim("lenet", 2, "here", ONCE)
    assert found.measured["step_factor"] > 0
    assert found.realised_factor == pytest.approx(0.532 * found.measured["step_factor"])


def test_threshold_mask_is_zero_or_one_and_passes_the_gradient_straight():
    model = network("linear", (1, 2, 2), 3)()
    net = hidenseek.ThresholdNetwork(model, draw_constants(model, 0, 1.0), "sampled")
    name, scores = next(iter(net.scores().items()))
    weights = net.weights()[name]
    weight = net.get_buffer("weight0")
    assert torch.equal(weights != 0, scores >= 0)
    weights.sum().backward()
    theta = scores.detach().sigmoid()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, weight * theta * (1 - theta))


def test_adp_counts_rounds_beside_the_dense_models(problem, monkeypatch):
    data = {"dataset": "digits", "rounds": 2, "schedule": Schedule(local_steps=1)}
    monkeypatch.setattr(adp, "SETTING", replace(adp.SETTING, **data))
    both = replace(problem, clients=[(train, train) for (train,) in problem.clients])
    monkeypatch.setattr(adp, "load_problem", lambda *_: both)
    monkeypatch.setattr(adp, "TARGETS", (0.001, 1.0))
    for found, stats in zip(adp.algorithm_claims("fedavg", "here"), adp.STATS, strict=True):
        assert found.settings["options"]["stats"] == stats
        assert found.measured["rounds_to_0.001"] == found.measured["dense_rounds_to_0.001"] == 1
        assert found.measured["rounds_to_1"] is None
        assert found.measured["rounds_factor"] == 1
        assert found.realised_factor == pytest.approx(0.43)
        assert found.missed == ("rounds 1x instead of at least 2.326x",)
        assert found.measured["uplink_bytes"] > found.measured["dense_uplink_bytes"]


@pytest.mark.slow
def test_the_growth_step_finds_what_the_broadcast_asks_for(monkeypatch):
    for name, value in {"IMAGE": (3, 8, 8), "BATCH": 2, "REPEATS": 1}.items():
        monkeypatch.setattr(fedtiny, name, value)
    run = fedtiny.federate(0.1, pool_size=1)
    own = fedtiny.growth_claim(run, 0.1, {}, "here")
    assert own.accounting["gradients"] == sum(run.state.counts.values()) > 0
    # The last block's convolutions of 3x3 between 512 channels.
    assert own.measured["largest_layers_dense_gradient_bytes"] == 4 * 9 * 512 * 512
    assert own.goals["growth_bytes"] == (None, 12 * own.accounting["gradients"])
    assert own.measured["plain_step_peak_bytes"] > own.accounting["dense_gradient_bytes"]


def test_committed_rows_of_adp_are_judged_by_its_goals():
    rows = read(HERE / "adp.json")
    steps = {own.row: own.goals for own in rows if "step" in own.row}
    assert steps == {row: adp.STEP_GOALS[row.rpartition(" ")[2]] for row in steps}
    assert all(own.goals == adp.ROUNDS_GOALS for own in rows if "rounds" in own.row)


def test_adp_claims_the_square_of_the_density_where_gates_are_active(monkeypatch):
    monkeypatch.setattr(adp, "EFFORT", ONCE)
    monkeypatch.setattr(adp, "BATCH", 2)
    active, everything = adp.network_claims("resnet32", "here")
    assert active.accounting["step_factor"] == pytest.approx(1 / 0.49, rel=0.02)
    assert everything.accounting["step_factor"] == pytest.approx(1 / 0.7, rel=0.02)
    assert active.settings["parameters_added"] == pytest.approx(0.1127, abs=1e-3)
    assert [c.goals["step_factor"][0] for c in (active, everything)] == [1.25, 1.0]


def test_uplinks_are_counted_in_every_format():
    pytest.importorskip("zstandard")
    random = np.random.default_rng(0)
    rows = np.repeat([0.0, 1e-3, 1.0], (60, 20, 20))[:, None]
    change = {
        "weight": (random.standard_normal((100, 500)) * rows).astype(np.float32),
        "bias": np.zeros(100, np.float32),
    }

    found = {own.row: own for own in uplinks.claims_of(change, "here", "here")}

    sizes = {f: found[f"9 uplink, {f}"].measured["uplink_bytes"] for f in uplinks.FORMATS}
    assert len(found) == len(uplinks.FORMATS)
    assert sizes["fp32"] > sizes["bf16"] > sizes["int8"] > sizes["int4"]
    for name in ("int8", "int4"):
        # The same scales within 2**-8, the same words for FedPAQ's integers.
        assert sizes[f"{name}_unbiased"] == pytest.approx(sizes[name], rel=0.05)
        assert sizes[f"{name}_unbiased"] != sizes[name]
    assert found["9 uplink, int4_unbiased"].claim.startswith("FedPAQ's")
    assert found["9 uplink, int4_unbiased"].accounting == found["9 uplink, int4"].accounting
    assert found["9 uplink, int8"].baseline["zstd19_bytes"] > 0
    assert found["9 uplink, int8"].settings["zeros"] == pytest.approx(0.6, abs=0.01)
