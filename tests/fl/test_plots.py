"""What is drawn, read back from the figure: matplotlib draws, this tests what it is given."""

import sys

import pytest

pytest.importorskip("matplotlib")

from sparsefl.fl import plots

MEMORY = {
    "peak_bytes": 15_000_000,
    "parameters_bytes": 1_000_000,
    "gradients_bytes": 2_000_000,
    "optimizer_bytes": 3_000_000,
    "activations_bytes": 4_000_000,
    "workspace_bytes": 5_000_000,
}


def row(method="fedpt", **change):
    base = {
        "method": method,
        "uplink_bytes": 110,
        "uplink_claimed_bytes": 100,
        "uplink_dense_bytes": 4400,
        "client_step_s": 0.010,
        "dense_step_s": 0.015,
        "claimed_flops": 1000,
        "dense_flops": 3000,
    }
    return base | change


@pytest.fixture
def axes(monkeypatch):
    """Returns the axes of every figure that was opened."""
    opened = []
    open_figure = plots.open_figure

    def remember(*arguments):
        figure, axes, ticker = open_figure(*arguments)
        opened.append(axes)
        return figure, axes, ticker

    monkeypatch.setattr(plots, "open_figure", remember)
    return opened


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "plot.png"
    yield path
    assert path.read_bytes().startswith(b"\x89PNG")


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_a_curve_goes_through_its_points(axes, png):
    plots.plot_curves({"a": [(1000, 0.1), (10_000, 0.9)], "b": []}, png)
    (line,) = axes[0].get_lines()
    assert line.get_xydata().tolist() == [[1000, 0.1], [10_000, 0.9]]
    assert labels(axes[0]) == ["a"]


def test_seeds_are_a_mean_in_a_band(axes, png):
    runs = {"a": [[(10, 0.1), (20, 0.5)], [(10, 0.3), (22, 0.7)]]}
    plots.plot_seeds(runs, png, "Accuracy against seconds", spent="seconds")
    (line,) = axes[0].get_lines()
    assert line.get_xydata().ravel().tolist() == pytest.approx([10, 0.2, 21, 0.6])
    (band,) = axes[0].collections
    assert band.get_paths()[0].get_extents().bounds == pytest.approx((10, 0.1, 11, 0.6))
    assert "2 seeds" in axes[0].get_title()
    assert "seconds" in axes[0].get_xlabel()


def test_reference_rows_are_grey_and_dashed(axes, png):
    runs = {name: [[(1, 0.5), (2, 0.6)]] for name in ("linear", "fedavg", "narrow-bytes", "fedpt")}
    plots.plot_seeds(runs, png, "t")
    styles = {line.get_label(): line.get_linestyle() for line in axes[0].get_lines()}
    assert styles == {"linear": "--", "fedavg": "-", "narrow-bytes": "--", "fedpt": "-"}
    assert len({line.get_color() for line in axes[0].get_lines()}) == 4


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [(5, 0.5)]}], ids=["none", "empty", "one"])
def test_plots_are_drawn_of_little(curves, axes, png):
    plots.plot_curves(curves, png)
    drawn = [line for line in axes[0].get_lines() if len(line.get_xdata())]
    assert [line.get_label() for line in drawn] == [
        name for name, points in curves.items() if points
    ]


def test_factors_stand_where_they_belong(axes, png):
    plots.plot_factors([row(), row("linear", uplink_claimed_bytes=4400, claimed_flops=3000)], png)
    points = [c.get_offsets().tolist() for c in axes[0].collections if len(c.get_offsets())]
    assert points == [[[44.0, 40.0]], [[3.0, 1.5]]]
    # What claims nothing is not in the legend either.
    assert labels(axes[0]) == ["fedpt", "bytes up", "local step"]


def test_factors_are_drawn_of_nothing(axes, png):
    plots.plot_factors([], png)
    assert not any(len(c.get_offsets()) for c in axes[0].collections)


def test_memory_is_stacked_to_its_sum(axes, png):
    plots.plot_memory({"fedpt": MEMORY, "dense": MEMORY | {"workspace_bytes": 0}}, png)
    ends = [max(bar[i].get_x() + bar[i].get_width() for bar in axes[0].containers) for i in (0, 1)]
    assert ends == [15_000_000, 10_000_000]
    assert len(labels(axes[0])) == 5


def test_clients_are_an_ascending_share(axes, png):
    plots.plot_clients({"fedpt": [0.5, 0.25, 0.75, 1.0], "linear": [0.5]}, png)
    line = axes[0].get_lines()[0]
    assert line.get_xdata().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert line.get_ydata().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparsefl\[cli\]"):
        plots.plot_curves({}, tmp_path / "no.png")
