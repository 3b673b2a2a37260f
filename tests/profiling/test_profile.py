"""Profiles of small networks: what they say, not how long anything took."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sparsefl
from sparsefl import Support, codec, sparsify
from sparsefl.profiling import Profile, profile

# Too little for more than the least number of runs.
SECONDS = 0.01


class Odd(nn.Module):
    """Residual, depthwise, grouped, transposed, recurrent, tied, called twice, never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.twice = nn.Linear(12, 12)
        self.tied = nn.Linear(12, 12)
        self.tied.weight = self.twice.weight
        self.rnn = nn.LSTM(12, 7, batch_first=True)
        self.head = nn.Linear(7, 5)
        self.never = nn.Linear(9, 9)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.grouped(self.depthwise(x))
        x = torch.relu_(self.up(x)).mean(1)
        x = self.tied(self.twice(self.twice(x)))
        return self.head(self.rnn(x)[0][:, -1])


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.out = nn.Linear(8, 20)

    def forward(self, ids, scale):
        return {"logits": self.out(self.embedding(ids) * scale)}


def mlp():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 25), nn.Linear(25, 4))


def quick(model, *arguments, **options):
    options = {"seconds": SECONDS, "batch_size": 3, "masks": "random", **options}
    return profile(model, *arguments, **options)


def by_name(found):
    return {layer.name: layer for layer in found.layers}


@pytest.fixture
def inject(monkeypatch):
    """Replace what is measured: seconds of each layer's forms, and of the whole step's."""

    def replace(layers, steps):
        queue = iter(layers)

        def measure(runs, budget, seconds, round_s):
            whole = "recommended" in runs or next(iter(runs.values())).__name__ == "run_step"
            times = steps if whole else next(queue)
            return {name: np.full((4, 3), times[name]) for name in runs}

        def stopwatch(step):
            def run_step():
                return (0.0,)

            return run_step

        # All alike, so that layers are taken in the order of their calls.
        monkeypatch.setattr("sparsefl.profiling.study.round_seconds", lambda runs: 0.0)
        monkeypatch.setattr("sparsefl.profiling.study.measure", measure)
        monkeypatch.setattr("sparsefl.profiling.study.stopwatch", stopwatch)

    return replace


FAST, SLOW = ({"dense": 1.0, "sparse": sparse, "alone": sparse} for sparse in (0.25, 4.0))


def test_the_recommended_masks_are_those_of_the_layers_that_pay(inject):
    inject([FAST, SLOW, FAST], {"dense": 3.0, "sparse": 4.5, "recommended": 1.5})
    found = quick(mlp(), (20,))
    assert [layer.verdict for layer in found.layers] == ["use it", "stay dense", "use it"]
    assert set(found.masks) == {"0.weight", "3.weight"}
    assert set(found.all_masks) == {"0.weight", "2.weight", "3.weight"}
    assert set(found.keep_dense) == {"2"}
    assert found.layers[0].factor.median == 4
    assert found.recommended.factor.median == 2
    assert found.sparse.factor.median == pytest.approx(2 / 3)
    assert found.dense.factor is None


@pytest.mark.parametrize(
    ("dense", "sparse", "verdict"), [(1.0, 4.5, "stay dense"), (3.0, 0.5, "use it")]
)
def test_the_whole_step_has_the_last_word(inject, dense, sparse, verdict):
    inject([FAST, SLOW, FAST], {"dense": dense, "sparse": sparse, "recommended": 2.0})
    found = quick(mlp(), (20,))
    assert {layer.verdict for layer in found.layers} == {verdict}
    assert set(found.masks) == (set(found.all_masks) if verdict == "use it" else set())
    assert found.recommended.time.median_s == min(dense, sparse)
    assert "the whole step was faster" in found.notes[0]
    reasons = found.keep_dense
    assert bool(reasons) == (verdict == "stay dense")
    if reasons:
        assert reasons["0"] == "faster sparse alone, but not in the whole step"
        assert reasons["2"].startswith("sparse it takes 4.00x as long")


@pytest.mark.parametrize(("layers", "form"), [([SLOW] * 3, "dense"), ([FAST] * 3, "sparse")])
def test_a_choice_of_all_or_none_is_not_timed_twice(inject, layers, form):
    inject(layers, {"dense": 3.0, "sparse": 2.0 if form == "sparse" else 5.0})
    found = quick(mlp(), (20,))
    chosen = getattr(found, form)
    assert found.recommended.time == chosen.time
    assert found.recommended.memory == chosen.memory
    assert len(found.masks) == (3 if form == "sparse" else 0)


def test_totals_are_those_of_the_sparsified_model(inject):
    inject([FAST, SLOW, FAST], {"dense": 3.0, "sparse": 4.5, "recommended": 1.5})
    model = mlp()
    found = quick(model, (20,))
    mixed = sparsify(model, found.masks)
    assert found.recommended.parameters == sum(p.numel() for p in mixed.parameters())
    assert found.dense.parameters == sum(p.numel() for p in model.parameters())
    assert found.recommended.memory.parameters_bytes == 4 * found.recommended.parameters
    schema = codec.Schema.of(model)
    entries = {name: codec.Dense(p) for name, p in model.state_dict().items()}
    assert found.dense.uplink_bytes == len(codec.encode(codec.Update(entries, round=1), schema))
    kept = found.dense.uplink_bytes - found.recommended.uplink_bytes
    assert kept == pytest.approx(
        4 * (found.dense.parameters - found.recommended.parameters), rel=0.25
    )
    assert found.dense.setup_bytes == 0
    assert 0 < found.recommended.setup_bytes < found.sparse.setup_bytes


def test_every_layer_of_an_odd_network_is_accounted_for():
    found = quick(Odd(), (3, 6, 6))
    layers = by_name(found)
    assert list(layers) == ["stem", "depthwise", "grouped", "up", "twice", "head"]
    assert layers["stem"].kind == "Conv2d"
    assert layers["up"].sparse_time is None
    assert layers["up"].dense_time.median_s > 0
    reasons = found.keep_dense
    assert reasons["depthwise"] == "depthwise"
    assert reasons["up"] == "ConvTranspose2d unsupported"
    assert reasons["rnn"] == "LSTM unsupported"
    assert reasons["never"] == "not called in the forward pass"
    assert set(found.all_masks) == {"stem.weight", "grouped.weight", "twice.weight", "head.weight"}


def test_tied_layers_are_one_row_with_one_weight():
    tied = by_name(quick(Odd(), (3, 6, 6)))["twice"]
    assert tied.dense_parameters == 12 * 12 + 2 * 12
    assert tied.kept_parameters == round(0.1 * 144) + 2 * 12


def test_measured_profiles_have_times_of_all_forms():
    found = quick(mlp(), (20,))
    for layer in found.layers:
        assert layer.repetitions == 3
        for time in (layer.dense_time, layer.sparse_time, layer.alone_time):
            assert 0 < time.lower_quartile_s <= time.median_s <= time.upper_quartile_s
        assert layer.dense_parts.backward_s > 0
    assert found.dense.repetitions == 3


def test_the_model_and_the_surroundings_are_left_as_they_were():
    model = mlp().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    quick(model, (20,), threads=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


def test_other_inputs_come_as_a_tuple():
    found = quick(Tokens(), example_input=(torch.randint(20, (5, 6)), torch.ones(5, 1, 1)))
    assert found.settings["batch_size"] == 5
    assert found.settings["inputs"] == [[5, 6], [5, 1, 1]]
    assert found.keep_dense["embedding"] == "Embedding unsupported"


def test_without_a_rule_what_synflow_cannot_prune_is_pruned_at_random_and_that_is_said():
    found = quick(
        Tokens(), example_input=(torch.randint(20, (5, 6)), torch.ones(5, 1, 1)), masks=None
    )
    assert found.settings["masks"].startswith("erdos_renyi, as SynFlow cannot prune")


@pytest.mark.parametrize("masks", ["synflow", "erdos_renyi", "random", "magnitude", None])
def test_every_rule_keeps_the_density_over_the_network(masks):
    found = quick(mlp(), (20,), masks=masks, density=0.25)
    assert found.settings["kept_density"] == pytest.approx(0.25, abs=0.01)


def test_own_masks_are_those_of_pruning():
    model = mlp()
    prune.random_unstructured(model[0], "weight", 0.5)
    found = quick(model, (20,), masks="own")
    assert by_name(found)["0"].density == 0.5
    assert found.keep_dense["2"] == "its mask keeps every weight"
    assert torch.equal(found.all_masks["0.weight"], model[0].weight_mask.bool())


def test_given_masks_are_taken_and_what_they_leave_out_stays_dense():
    support = Support.random((25, 30), 0.2)
    found = quick(mlp(), (20,), masks={"2.weight": support})
    assert torch.equal(found.all_masks["2.weight"], support.to_mask())
    assert found.keep_dense["0"] == "no mask given"


def test_density_one_leaves_everything_dense():
    found = quick(mlp(), (20,), density=1.0)
    assert set(found.keep_dense.values()) == {"its mask keeps every weight"}
    assert found.masks == {}
    assert found.sparse.factor.median == 1


def test_a_layer_whose_mask_keeps_nothing_stays_dense():
    found = quick(mlp(), (20,), density=0.001)
    assert found.keep_dense["3"] == "its mask keeps no weight: sparse, only its bias would be left"


def test_signs_cost_a_bit_a_kept_weight_even_where_all_are_kept():
    found = quick(mlp(), (20,), layer="sign", density=1.0)
    layer = by_name(found)["0"]
    assert layer.dense_uplink_bytes - layer.sparse_uplink_bytes == pytest.approx(
        4 * 600 - 600 / 8, rel=0.25
    )


def test_a_batch_of_one():
    assert quick(mlp(), (20,), batch_size=1).settings["inputs"] == [[1, 20]]


def test_the_model_itself_may_be_the_layer():
    found = quick(nn.Linear(40, 30), (40,))
    assert [layer.name for layer in found.layers] == [""]
    assert set(found.all_masks) == {"weight"}
    assert "the model" in found.table()


class Viewed(nn.Module):
    """Views as rows what sparse layers give batch last."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.second(torch.relu_(self.first(x))).view(-1, 3)


@pytest.mark.parametrize("layer", ["sparse", "sign"])
def test_layers_followed_in_place_are_measured(layer):
    convolutions = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
    )
    found = quick(convolutions, (3, 7, 7), layer=layer, density=0.05)
    assert [layer.sparse_time is not None for layer in found.layers] == [True, True]
    linear = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    found = quick(linear, (5, 6), layer=layer, density=0.05)
    assert [layer.sparse_time is not None for layer in found.layers] == [True, True]


def test_what_sparse_layers_cannot_be_followed_by_is_named():
    with pytest.raises(ValueError, match=r"\.view\(\)") as found:
        quick(Viewed(), (3, 7, 7), density=0.1)
    assert "in-place" not in str(found.value)


def test_the_table_names_every_layer_verdict_reason_and_note():
    found = quick(Odd(), (3, 6, 6))
    text = found.table()
    for layer in found.layers:
        assert any(
            line.startswith(f"{layer.name} ") and line.endswith(layer.verdict)
            for line in text.splitlines()
        )
    assert all(reason in text for reason in found.keep_dense.values())
    assert all(note in text for note in found.notes)
    assert "these verdicts" in text


def test_json_holds_everything_but_the_masks(tmp_path):
    found = quick(Odd(), (3, 6, 6))
    found.save(tmp_path / "profile.json")
    read = json.loads((tmp_path / "profile.json").read_text())
    assert read == json.loads(json.dumps(found.to_dict()))
    assert read["schema_version"] == 1
    fields = set(Profile.__dataclass_fields__) - {"masks", "all_masks"}
    assert set(read) == fields | {"schema_version", "keep_dense"}
    assert {layer["verdict"] for layer in read["layers"]} <= {"use it", "stay dense"}
    assert read["dense"]["memory"]["parameters_bytes"] > 0


def test_progress_is_told_by_stages():
    told = []
    quick(mlp(), (20,), on_progress=lambda stage, share: told.append((stage, share)))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["first step", "masks", "recording", "layers", "whole steps", "counting"]
    assert all(0 <= share <= 1 for _, share in told)


def test_it_is_offered_at_the_top():
    assert sparsefl.profile is profile


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (
            nn.LSTM(3, 3),
            {"input_shape": (5, 3)},
            ValueError,
            r"no layer of LSTM can be sparse.*LSTM",
        ),
        (nn.ReLU(), {"input_shape": (3,)}, ValueError, "no layer of ReLU.*no weights"),
        (nn.Linear(3, 3), {"input_shape": (4,)}, ValueError, r"\[2, 4\].*input_shape.*--example"),
        (nn.Linear(3, 3), {}, ValueError, "give either input_shape"),
        (nn.Linear, {"input_shape": (3,)}, TypeError, "model must be an nn.Module.*call it"),
        (nn.Linear(3, 3), {"input_shape": (3,), "density": 0.0}, ValueError, "density"),
        (nn.Linear(3, 3), {"input_shape": (3,), "density": "1"}, TypeError, "density"),
        (nn.Linear(3, 3), {"input_shape": (3,), "batch_size": 0}, ValueError, "batch_size"),
        (nn.Linear(3, 3), {"input_shape": (3,), "threads": 1.5}, TypeError, "threads"),
        (nn.Linear(3, 3), {"input_shape": (3,), "seconds": -1}, ValueError, "seconds"),
        (nn.Linear(3, 3), {"input_shape": (0,)}, ValueError, "input_shape"),
        (
            nn.Linear(3, 3),
            {"input_shape": (3,), "layer": "dense"},
            ValueError,
            "'sparse' or 'sign'",
        ),
        (
            nn.Linear(3, 3),
            {"input_shape": (3,), "optimizer": "lamb"},
            ValueError,
            "'sgd' or 'adam'",
        ),
        (
            nn.Linear(3, 3),
            {"input_shape": (3,), "masks": "best"},
            ValueError,
            "masks must be one of",
        ),
        (nn.Linear(3, 3), {"input_shape": (3,), "masks": {"w": 1}}, KeyError, "no parameter 'w'"),
        (nn.Linear(3, 3), {"example_input": [1]}, TypeError, "example_input must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_what_to_do(model, options, error, message):
    with pytest.raises(error, match=message):
        profile(model, **{"batch_size": 2, "seconds": SECONDS, **options})


def test_synflow_asked_for_by_name_is_refused_where_it_cannot_be_applied():
    inputs = (torch.randint(20, (5, 6)), torch.ones(5, 1, 1))
    with pytest.raises(ValueError, match=r"SynFlow cannot prune.*choose masks erdos_renyi"):
        quick(Tokens(), example_input=inputs, masks="synflow")


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        quick(mlp().requires_grad_(False), (20,))
