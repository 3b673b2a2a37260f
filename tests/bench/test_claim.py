"""A claim's file, and what reads as reproduced."""

import json
import pathlib

import pytest

from sparsefl.bench.claims import claim
from sparsefl.bench.claims.claim import Claim

COMMITTED = sorted(claim.HERE.glob("*.json"))
KEYS = {
    *("row", "claim", "accounting", "measured", "realised_factor", "baseline", "settings"),
    *("command", "commit", "machine"),
}
TIME = {"median_s": 0.002, "lower_quartile_s": 0.001, "upper_quartile_s": 0.003}


def example(**changes: object) -> Claim:
    held = {
        "row": "1 bytes",
        "claim": "46x fewer bytes",
        "accounting": {"uplink_factor": 46.0},
        "measured": {"uplink_factor": 44.5, "uplink_bytes": 2_500_000},
        "realised_factor": 44.5 / 46,
        "baseline": {"name": "dense"},
        "settings": {"density": 0.1},
        "command": "python -m x",
        "goals": {"uplink_factor": (44.0, None)},
        **changes,
    }
    return Claim(**held)  # type: ignore[arg-type]


def test_file_gives_back_the_claims_that_were_written(tmp_path):
    claims = [example(), example(row="2", realised_factor=None, goals={})]
    claim.write(tmp_path / "deep" / "some.json", claims)
    assert claim.read(tmp_path / "deep" / "some.json") == claims


@pytest.mark.parametrize("text", ["{", '{"row": 1}', '[{"row": "1"}]', "[1]", '[{"goals": 3}]'])
def test_file_that_is_no_list_of_claims_is_refused_by_name(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"odd\.json is no list of claims"):
        claim.read(path)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ((44.0, None), "reproduced"),
        ((44.5, 44.5), "reproduced"),
        ((45.0, None), "**not reproduced**: uplink 44.5x instead of at least 45x"),
        ((None, 44.0), "**not reproduced**: uplink 44.5x instead of at most 44x"),
        ((1.0, 2.0), "**not reproduced**: uplink 44.5x instead of at least 1x and at most 2x"),
    ],
)
def test_verdict_follows_from_the_goals(limits, text):
    assert example(goals={"uplink_factor": limits}).verdict == text


@pytest.mark.parametrize("value", [float("nan"), None])
def test_quantity_that_is_not_a_number_reaches_no_goal(value):
    missed = example(measured={"uplink_factor": value})
    assert missed.verdict.startswith("**not reproduced**")


def test_claim_without_goals_is_only_measured():
    assert example(goals={}).verdict == "measured"


def test_goal_of_nothing_measured_is_refused():
    with pytest.raises(ValueError, match=r"measured quantities.*, got step_s"):
        example(goals={"step_s": (None, 1.0)})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("uplink_bytes", 2_500_000, "uplink 2.5 MB"),
        ("per_weight_bits", 0.5, "per weight 0.5 bits"),
        ("step_s", TIME, "step 2 ms (1 to 3)"),
        ("step_factor", 3.0, "step 3x"),
        ("parameters", 1_206_590, "parameters 1,206,590"),
        ("round_trip_mb", 20.85, "round trip 20.85 MB"),
        ("options", {"lr": 0.1, "layers": [1, 2]}, "options (lr 0.1; layers [1, 2])"),
        ("image", [3, 32, 32], "image [3, 32, 32]"),
    ],
)
def test_quantities_are_shown_with_their_units(name, value, text):
    assert claim.show(name, value) == text


def test_table_has_a_line_a_claim():
    lines = claim.table([example(), example(realised_factor=None)]).splitlines()
    assert len(lines) == 4
    assert "| 0.967 | reproduced |" in lines[2]
    assert "| - | reproduced |" in lines[3]


def test_command_line_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / "x.json"
    commands = []

    def measure(command: str) -> list[Claim]:
        commands.append(command)
        return [example(command=command)]

    assert claim.main("masks", measure, ["--json", str(path)]) == 0
    assert commands == ["python -m sparsefl.bench.claims.masks"]
    assert claim.read(path)[0].command == commands[0]
    assert "| 1 bytes |" in capsys.readouterr().out


def test_some_rows_are_measured_again_and_the_others_kept(tmp_path):
    path = tmp_path / "x.json"
    rows = {name: lambda command, name=name: example(row=name) for name in ("1 a", "2 b", "3 c")}
    assert claim.main("masks", rows, ["--json", str(path), "--only", "[12]*"]) == 0
    assert [own.row for own in claim.read(path)] == ["1 a", "2 b"]
    again = {name: lambda command, name=name: example(row=name, claim="new") for name in rows}
    assert claim.main("masks", again, ["--json", str(path), "--only", "3*"]) == 0
    assert [(own.row, own.claim[:3]) for own in claim.read(path)] == [
        ("1 a", "46x"),
        ("2 b", "46x"),
        ("3 c", "new"),
    ]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_claims_are_whole_and_of_a_committed_tree(path: pathlib.Path):
    held = json.loads(path.read_text())
    assert held
    assert all(set(entry) >= KEYS for entry in held)
    for own in claim.read(path):
        assert own.command == f"python -m sparsefl.bench.claims.{path.stem}"
        assert len(own.commit) == 40, own.commit
        assert own.measured
        assert own.machine["cpu"]
        assert claim.table([own])
        assert claim.listed(own.settings)
        assert own.row[0].isdigit()
