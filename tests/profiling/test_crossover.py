"""From which density on a layer is faster dense; no time is asserted."""

import json

import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.cli import main
from sparsefl.profiling import profile_crossover
from sparsefl.profiling.crossover import Crossover, LayerCrossover, Point
from sparsefl.profiling.result import Factor
from sparsefl.timing import StepTime


def layer(factors: dict[float, float]) -> LayerCrossover:
    """A layer of these factors by density."""
    time = StepTime(0.001, 0.001, 0.001)
    points = tuple(Point(d, int(100 * d), time, Factor(f, f, f)) for d, f in factors.items())
    return LayerCrossover("fc", "fc.weight", "Linear", (10, 10), time, points, repetitions=5)


def found(*layers: LayerCrossover) -> Crossover:
    settings = {"model": "net", "batch_size": 4, "layer": "sparse", "threads": 1}
    return Crossover(settings, (0.1, 0.4), layers, {"norm": "no weight matrix"})


@pytest.mark.parametrize(
    ("factors", "density", "words"),
    [
        ({0.1: 2.0, 0.4: 0.5}, 0.2, "0.2"),
        ({0.1: 4.0, 0.4: 1.5}, None, "> 0.4"),
        ({0.1: 0.9, 0.4: 0.5}, None, "< 0.1"),
    ],
    ids=["between", "beyond", "below"],
)
def test_crossover_lies_where_the_factor_falls_through_one(factors, density, words):
    one = layer(factors)
    assert one.density == (None if density is None else pytest.approx(density))
    assert one.dense_from == words


def test_table_has_a_line_a_layer_and_says_what_was_not_measured():
    text = found(layer({0.1: 2.0})).table()
    assert "2.00x" in text
    assert "> 0.1" in text
    assert "norm" in text
    assert "no weight matrix" in text


def test_picture_is_drawn(tmp_path):
    layers = [layer({0.1: 2.0, 0.4: 0.5}) for _ in range(14)]
    found(*layers).plot(tmp_path / "crossover.png")
    assert (tmp_path / "crossover.png").stat().st_size > 1000


@pytest.fixture
def crossover() -> Crossover:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return profile_crossover(model, (6,), densities=(0.5, 0.2), batch_size=4, seconds=0.5)


def test_every_layer_is_measured_at_every_density(crossover):
    assert crossover.densities == (0.2, 0.5)
    assert [one.name for one in crossover.layers] == ["0", "2"]
    assert [[p.kept for p in one.points] for one in crossover.layers] == [[6, 15], [3, 8]]
    assert all(p.time.median_s > 0 for one in crossover.layers for p in one.points)


def test_json_holds_the_crossover(crossover, tmp_path):
    crossover.save(tmp_path / "crossover.json")
    read = json.loads((tmp_path / "crossover.json").read_text())
    assert [one["crossover_density"] for one in read["layers"]] == [
        one.density for one in crossover.layers
    ]


def test_model_and_generator_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(6, 5))
    before, state = model[0].weight.detach().clone(), torch.get_rng_state()
    profile_crossover(model, (6,), densities=(0.2, 0.5), batch_size=4, seconds=0.2)
    assert torch.equal(model[0].weight, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("densities", [(), (0.5,), (0.0, 0.5), (0.5, 1.5), (0.5, 0.5)])
def test_densities_that_cannot_serve_are_refused(densities):
    with pytest.raises(ValueError, match="densities"):
        sparsefl.profile_crossover(nn.Linear(6, 5), (6,), densities=densities)


def test_network_without_a_sparse_layer_is_refused():
    with pytest.raises(ValueError, match="layer"):
        profile_crossover(nn.Sequential(nn.BatchNorm1d(4)), (4,), batch_size=4, seconds=0.2)


def test_command_refuses_densities_without_a_picture(capsys):
    assert main(["profile", "mlp", "--input-shape", "1,8,8", "--densities", "0.1,0.2"]) == 2
    assert "--densities needs --crossover" in capsys.readouterr().err
