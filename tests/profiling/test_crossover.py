"""From which density on a layer is faster dense; no time is asserted."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import sparsefl
from sparsefl.cli import main
from sparsefl.profiling import crossover_plot, profile_crossover
from sparsefl.profiling.crossover import Crossover, LayerCrossover, Point
from sparsefl.profiling.result import Factor
from sparsefl.timing import StepTime


def layer(
    factors: dict[float, float], name: str = "fc", shape: tuple[int, ...] = (10, 10)
) -> LayerCrossover:
    """A layer of these factors by density."""
    time = StepTime(0.001, 0.001, 0.001)
    points = tuple(Point(d, int(100 * d), time, Factor(f, f, f)) for d, f in factors.items())
    return LayerCrossover(name, f"{name}.weight", "Linear", shape, time, points, repetitions=5)


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


@pytest.fixture
def figures(monkeypatch):
    """Returns every figure that was opened, with its axes."""
    pytest.importorskip("matplotlib")
    opened = []
    open_figure = crossover_plot.open_figure

    def remember(*arguments):
        opened.append(open_figure(*arguments))
        return opened[-1]

    monkeypatch.setattr(crossover_plot, "open_figure", remember)
    return opened


def inside(artist, figure) -> bool:
    box = artist.get_window_extent()
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_the_twelve_largest_are_drawn_and_the_others_named(figures, tmp_path):
    layers = [layer({0.1: 2.0, 0.4: 0.5}, f"fc{n}", (10 + n, 10)) for n in reversed(range(14))]
    found(*layers).plot(tmp_path / "new" / "crossover.png")
    _, axes, _ = figures[-1]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [f"fc{n}: 0.2" for n in range(13, 1, -1)]
    assert axes.get_xlabel().splitlines()[1:] == ["smaller, not drawn: fc1, fc0"]
    assert [round(x, 9) for x in axes.get_xticks()] == [0.1, 0.4]
    assert (tmp_path / "new" / "crossover.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["f", "stage4.shortcut.conv", "encoder.layers.11.attention.projection"]
)
@pytest.mark.parametrize("count", [1, 4, 30])
def test_everything_written_lies_within_the_picture(figures, tmp_path, name, count):
    layers = [layer({0.1: 2.0, 0.4: 1.5}, f"{name}{n}") for n in range(count)]
    found(*layers).plot(tmp_path / "crossover.svg")
    figure, axes, _ = figures[-1]
    figure.savefig(tmp_path / "crossover.png")
    for artist in (figure.legends[0], axes.title, axes.xaxis.label, axes.yaxis.label):
        assert inside(artist, figure)


@pytest.mark.parametrize(
    ("densities", "named"),
    [
        ((0.01, 0.05, 0.1, 0.2, 0.5), [0.01, 0.05, 0.1, 0.2, 0.5]),
        ((0.1, 0.101, 0.5, 0.51, 1.0), [0.1, 0.5, 1.0]),
    ],
    ids=["default", "crowded"],
)
def test_densities_too_close_together_share_a_number(densities, named):
    assert crossover_plot._apart(densities) == named


def test_a_picture_of_no_known_format_is_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="suffix"):
        found(layer({0.1: 2.0})).plot(tmp_path / "crossover.xyz")


@pytest.fixture
def crossover(monkeypatch) -> Crossover:
    def measure(runs, budget, seconds, round_s):
        # Dense takes a second, sparse four times its density.
        return {at: np.full((4, 3), 1.0 if at is None else 4 * at) for at in runs}

    monkeypatch.setattr("sparsefl.profiling.sweep.measure", measure)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return profile_crossover(model, (6,), densities=(0.5, 0.01, 0.125), batch_size=4, seconds=0.01)


def test_every_layer_is_measured_at_every_density_that_keeps_a_weight(crossover):
    assert crossover.densities == (0.01, 0.125, 0.5)
    assert [one.name for one in crossover.layers] == ["0", "2"]
    assert [[p.kept for p in one.points] for one in crossover.layers] == [[4, 15], [2, 8]]
    assert [one.curve for one in crossover.layers] == [[(0.125, 2.0), (0.5, 0.5)]] * 2
    assert [one.density for one in crossover.layers] == [pytest.approx(0.25)] * 2
    assert [one.repetitions for one in crossover.layers] == [3, 3]
    assert " -  2.00x  0.50x" in crossover.table()


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


def test_a_layer_that_cannot_be_sparse_is_named_with_the_reason(crossover_of):
    found = crossover_of(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 5, 1)))
    assert [one.name for one in found.layers] == ["1"]
    assert found.left_dense == {"0": "depthwise"}
    assert "depthwise" in found.table()


@pytest.fixture
def crossover_of():
    def measured(model):
        return profile_crossover(model, (4, 6, 6), densities=(0.2, 0.5), batch_size=2, seconds=0.01)

    return measured


def test_command_refuses_densities_without_a_picture(capsys):
    assert main(["profile", "mlp", "--input-shape", "1,8,8", "--densities", "0.1,0.2"]) == 2
    assert "--densities needs --crossover" in capsys.readouterr().err


def test_command_prints_draws_and_writes_the_crossover_beside_the_profile(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot, written = tmp_path / "crossover.svg", tmp_path / "found.json"
    command = "profile mlp --input-shape 1,4,4 --seconds 0.01 --batch-size 4 --masks random"
    files = ["--crossover", str(plot), "--json", str(written)]
    assert main([*command.split(), *files, "--densities", "0.5,0.2"]) == 0
    assert "dense from" in capsys.readouterr().out
    assert "density of random masks" in plot.read_text()
    read = json.loads(written.read_text())
    assert read["crossover"]["densities"] == [0.2, 0.5]
    assert read["crossover"]["settings"]["model"] == read["settings"]["model"] == "mlp"


@pytest.mark.parametrize("wrong", [["--crossover", "a.xyz"], ["--densities", "0.1,2"]])
def test_command_refuses_before_it_measures(tmp_path, monkeypatch, capsys, wrong):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    command = ["profile", "mlp", "--input-shape", "1,4,4", "--crossover", "a.svg", *wrong]
    assert main(command) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "[  0%]" not in said.err
