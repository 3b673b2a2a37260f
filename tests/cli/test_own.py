"""A user's own model and data by name: what works, and what is wrong with what does not."""

import json

import pytest

from sparsefl import cli

DATA, MODEL = ["--data", "mine:clients"], ["--model", "mine:net"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*DATA, "--model", "nowhere:net"], "no module nowhere"),
        ([*DATA, "--model", "mine.inner:net"], "mine"),
        ([*DATA, "--model", "broken:net"], "broken imports a_package_that_nobody_has"),
        ([*DATA, "--model", "faulty:net"], "importing faulty raised ZeroDivisionError"),
        ([*DATA, "--model", "mine:nets"], "mine has no nets"),
        ([*DATA, "--model", "mine:"], "PACKAGE.MODULE:NAME"),
        ([*DATA, "--model", "mine:number"], "is a int, it must be callable"),
        ([*DATA, "--model", "mine:nothing"], "NoneType"),
        (
            [*DATA, "--model", "mine:fails"],
            "mine:fails failed, called without arguments: KeyError",
        ),
        ([*DATA, "--model", "mlp"], "own data needs an own model"),
        (["--data", "mine:nothing", *MODEL], "it gave NoneType"),
        (["--data", "mine:net", *MODEL], "it gave Sequential"),
        (["--data", "mine:one_client", *MODEL], "its first part is TensorDataset"),
        (["--data", "mine:fails", *MODEL], "mine:fails failed"),
        ([*DATA, *MODEL, "--clients", "3"], "clients has no meaning"),
        ([*DATA, *MODEL, "--norm", "batch"], "norm has no meaning"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(arguments, says, own, refused):
    (own / "faulty.py").write_text("1 / 0\n")
    assert says in refused("run", "fedavg", *arguments)


def test_all_methods_compare_on_own_data_with_a_linear_row(own):
    quick = ["--rounds", "2", "--timed-steps", "2", "--set", "hidenseek.iterations=2"]
    assert cli.main(["compare", *DATA, *MODEL, *quick, "--density", "0.5", "--out", "c"]) == 0
    rows = json.loads((own / "c/compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["linear", "fedavg", "fedpt", "hidenseek"]
    # Six inputs, two classes, two clients, two rounds.
    assert rows[0]["uplink_claimed_bytes"] == 4 * (6 * 2 + 2) * 2 * 2
