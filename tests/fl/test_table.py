import json

import pytest

from sparsefl.fl.table import factor, format_table, merge_seeds, name_rows, realised, size


def row(**change):
    base = {
        "method": "fedpt",
        "model": "cnn",
        "norm": None,
        "density": 1.0,
        "seed": 0,
        "threads": 2,
        "rounds": 3,
        "data": "UCI digits (iid)",
        "clients": 10,
        "clients_per_round": None,
        "sampling": "uniform",
        "batch_size": 16,
        "local_epochs": 1,
        "local_steps": None,
        "options": {"lr": 0.1, "momentum": 0.9},
        "accuracy": 0.8125,
        "accuracy_per_client": {"mean": 0.75, "worst_decile": 0.5},
        "uplink_bytes": 110,
        "downlink_bytes": 120,
        "setup_bytes": 0,
        "uplink_bound_bytes": 100,
        "downlink_bound_bytes": 115,
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
    coded = cells(text, "order-0 bound")
    assert (coded["up bound"], coded["up/bound"]) == ("100 B", "1.100")
    assert (coded["down bound"], coded["down/bound"]) == ("115 B", "1.043")
    assert "values coded by classes, may take less" in text
    step = cells(text, "Local step")
    assert (step["ms"], step["dense ms"]) == ("10", "15")
    assert (step["claimed x"], step["measured x"], step["realised"]) == ("3x", "1.5x", "0.500")
    assert cells(text, "Accuracy")["worst decile"] == "0.500"


UNMEASURED = dict.fromkeys(
    ("client_step_s", "dense_step_s", "client_peak_bytes", "dense_peak_bytes")
)


def test_what_was_not_measured_for_one_row_is_a_dash():
    text = format_table([row(), row(method="linear", **UNMEASURED)])
    step = cells(text, "Local step", "linear")
    assert [step[name] for name in ("ms", "measured x", "realised", "peak memory")] == ["-"] * 4


def test_what_was_measured_for_no_row_is_named_below():
    text = format_table([row(**UNMEASURED)])
    assert list(cells(text, "Local step")) == ["method", "threads", "claimed x"]
    assert "not measured: ms, dense ms, measured x, realised, peak memory, dense" in text


def test_clients_without_held_out_data_have_no_accuracy():
    text = format_table([row(accuracy_per_client={"mean": None, "worst_decile": None})])
    assert "not measured: clients' mean, worst decile" in text


def test_the_paired_factor_is_taken_where_there_is_one():
    assert cells(format_table([row(step_factor=1.25)]), "Local step")["measured x"] == "1.25x"


def test_seeds_are_one_line_with_mean_and_spread():
    rows = [
        row(seed=seed, accuracy=accuracy, uplink_bytes=up)
        for seed, accuracy, up in ((0, 0.80, 110), (1, 0.82, 110), (2, 0.84, 113))
    ]
    text = format_table([*rows, row(method="linear")])
    line = cells(text, "Accuracy")
    assert (line["seed"], line["test"]) == ("3 seeds", "0.820 ±0.020")
    assert line["clients' mean"] == "0.750 ±0.000"
    assert cells(text, "Bytes")["up"] == "111 B"
    assert cells(text, "Accuracy", "linear")["test"] == "0.812"
    assert text.count("fedpt") == 5


def test_densities_of_one_method_stay_apart():
    merged = merge_seeds([row(density=0.1), row(density=0.1, seed=1), row(density=0.2)])
    assert [(r["density"], r.get("seeds")) for r in merged] == [(0.1, 2), (0.2, None)]


OTHERS = [
    ("data", "Fashion-MNIST (iid)", "fedpt Fashion-MNIST (iid)"),
    ("model", "mlp", "fedpt mlp"),
    ("norm", "group", "fedpt group"),
    ("rounds", 4, "fedpt rounds=4"),
    ("clients", 20, "fedpt clients=20"),
    ("clients_per_round", 5, "fedpt clients_per_round=5"),
    ("sampling", "examples", "fedpt sampling=examples"),
    ("batch_size", 32, "fedpt batch_size=32"),
    ("local_epochs", 2, "fedpt local_epochs=2"),
    ("local_steps", 7, "fedpt local_steps=7"),
    ("threads", 1, "fedpt threads=1"),
    ("options", {"lr": 0.2, "momentum": 0.9}, "fedpt lr=0.2"),
]


@pytest.mark.parametrize(("field", "value", "name"), OTHERS, ids=lambda v: str(v)[:20])
def test_other_experiments_are_no_seeds_and_are_named_apart(field, value, name):
    rows = [row(), row(seed=1, **{field: value})]
    assert [merged.get("seeds") for merged in merge_seeds(rows)] == [None, None]
    assert name_rows(rows)[1] == name
    text = format_table(rows)
    assert "seeds" not in text
    assert cells(text, "Bytes", name)["up"] == "110 B"


def test_rows_of_older_versions_still_merge():
    new = ("data", "clients", "sampling", "options", "local_steps")
    old = [{k: v for k, v in row(seed=seed).items() if k not in new} for seed in (0, 1)]
    assert [merged["seeds"] for merged in merge_seeds(old)] == [2]
    assert len(merge_seeds([*old, row(seed=2)])) == 2


def test_columns_line_up_for_several_rows():
    rows = [row(method="hidenseek", uplink_bytes=123456789), row(method="linear")]
    for block in format_table(rows).split("\n\n"):
        head, *lines = block.splitlines()[1:]
        assert {len(line) for line in (head, *lines)} == {len(head)}


@pytest.mark.parametrize("width", [100, 80, 60, 30])
def test_no_line_is_wider_than_the_terminal(width):
    many = [row(seed=seed, uplink_bytes=123456789) for seed in range(3)]
    text = format_table([*many, row(method="hidenseek"), row(method="linear", **UNMEASURED)], width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("measured x") == 2


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


def test_rows_are_plain_json():
    assert json.loads(json.dumps(row())) == row()
