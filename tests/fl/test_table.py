import json

import pytest

from sparsefl.fl.plots import plot_curves, plot_factors
from sparsefl.fl.table import factor, format_table, realised, size


def row(**change):
    base = {
        "method": "fedpt",
        "model": "cnn",
        "norm": None,
        "density": 1.0,
        "seed": 0,
        "threads": 2,
        "rounds": 3,
        "accuracy": 0.8125,
        "accuracy_per_client": {"mean": 0.75, "worst_decile": 0.5},
        "uplink_bytes": 110,
        "downlink_bytes": 120,
        "setup_bytes": 0,
        "uplink_bound_bytes": 100,
        "uplink_claimed_bytes": 100,
        "uplink_dense_bytes": 4400,
        "downlink_dense_bytes": 4400,
        "client_step_s": 0.010,
        "dense_step_s": 0.015,
        "claimed_flops": 1000,
        "dense_flops": 3000,
        "client_peak_bytes": 1_500_000,
        "dense_peak_bytes": 3_000_000,
        "encode_s": 0.25,
        "decode_s": 0.5,
        "aggregate_s": 0.125,
    }
    return base | change


def cells(text, section, method="fedpt"):
    """Returns the cells of one line, by column, of the section that a word names."""
    block = next(part for part in text.split("\n\n") if section in part.splitlines()[0])
    split = [[cell for cell in line.split("  ") if cell.strip()] for line in block.splitlines()[1:]]
    head, *lines = ([cell.strip() for cell in line] for line in split)
    return dict(zip(head, next(line for line in lines if line[0] == method), strict=True))


def test_claimed_stands_beside_measured_with_the_realised_factor():
    text = format_table([row()])
    sent = cells(text, "Bytes")
    assert (sent["up"], sent["claimed"]) == ("110 B", "100 B")
    assert (sent["claimed x"], sent["measured x"], sent["realised"]) == ("44x", "40x", "0.909")
    step = cells(text, "Local step")
    assert (step["ms"], step["dense ms"]) == ("10", "15")
    assert (step["claimed x"], step["measured x"], step["realised"]) == ("3x", "1.5x", "0.500")
    assert cells(text, "Accuracy")["worst decile"] == "0.500"


def test_what_was_not_measured_is_a_dash():
    unmeasured = dict.fromkeys(
        ("client_step_s", "dense_step_s", "client_peak_bytes", "dense_peak_bytes")
    )
    step = cells(format_table([row(**unmeasured)]), "Local step")
    assert [step[name] for name in ("ms", "measured x", "realised", "peak memory")] == ["-"] * 4


def test_columns_line_up_for_several_rows():
    rows = [row(method="hidenseek", uplink_bytes=123456789), row(method="linear")]
    for block in format_table(rows).split("\n\n"):
        head, *lines = block.splitlines()[1:]
        assert {len(line) for line in (head, *lines)} == {len(head)}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (15_234, "15.2 kB"),
        (999_600, "1 MB"),
        (4_826_360, "4.83 MB"),
        (2.5e9, "2.5 GB"),
        (None, "-"),
    ],
)
def test_sizes_have_three_digits(count, text):
    assert size(count) == text


def test_factors_of_unknown_or_zero_are_unknown():
    assert factor(6, 2) == 3
    assert factor(None, 2) is factor(2, None) is factor(2, 0) is None
    assert realised(2.0, 4.0) == 0.5
    assert realised(None, 4.0) is None


def test_plots_are_drawn_also_without_points(tmp_path):
    plot_curves({"a": [(1000, 0.1), (10_000, 0.9)], "b": []}, tmp_path / "curves.png")
    plot_curves({}, tmp_path / "empty.png")
    plot_factors([row(), row(method="linear", client_step_s=None)], tmp_path / "factors.png")
    for name in ("curves", "empty", "factors"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"sparsefl\[cli\]"):
        plot_curves({}, tmp_path / "no.png")


def test_rows_are_plain_json():
    assert json.loads(json.dumps(row())) == row()
