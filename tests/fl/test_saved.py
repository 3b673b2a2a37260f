import json
import math

import pytest

from sparsefl.fl.logs import JsonLinesLog
from sparsefl.fl.saved import Run, load_runs, name_runs
from sparsefl.fl.table import NEEDED, NEEDED_PER_CLIENT, format_table
from sparsefl.report import draw


def row(method="fedpt", seed=0, **change):
    base = dict.fromkeys(NEEDED) | {"method": method, "seed": seed, "density": 1.0, "model": "mlp"}
    per_client = {"mean": 0.5, "worst_decile": None}
    return base | {"rounds": 2, "accuracy_per_client": per_client} | change


def save(folder, parts=None, **change):
    folder.mkdir(parents=True)
    report = {"row": row(**change), "costs": {"client_memory": parts, "dense_memory": None}}
    (folder / "result.json").write_text(json.dumps(report))
    lines = [
        {"round": 1, "uplink_bytes": 5, "downlink_bytes": 7, "accuracy": None},
        {"round": 2, "uplink_bytes": 5, "downlink_bytes": 7, "accuracy": 0.5},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_result_and_its_files_are_the_same_run(small, tmp_path):
    result = small("fedpt", timed_steps=2)
    result.save(tmp_path)
    assert load_runs(tmp_path) == [Run.of(result)]
    spent = ("setup_bytes", "downlink_bytes", "uplink_bytes")
    assert Run.of(result).curve(*spent) == result.ledger.curve()


def test_what_is_not_known_of_a_run_without_test_data_is_null(small, toy, tmp_path):
    def refused(constant):
        raise AssertionError(constant)

    none = toy.clusters(0, 1)
    with JsonLinesLog(tmp_path / "rounds.jsonl") as log:
        result = small("fedpt", test=none, dev=none, on_round=log)
    result.save(tmp_path)
    files = [tmp_path / name for name in ("rounds.jsonl", "log.jsonl")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    lines.append((tmp_path / "result.json").read_text())
    *rounds, report = [json.loads(line, parse_constant=refused) for line in lines]
    assert {entry["accuracy"] for entry in rounds} == {report["accuracy"]} == {None}
    assert math.isnan(result.accuracy)
    (run,) = load_runs(tmp_path)
    assert run == Run.of(result)
    assert "not measured: test" in format_table([run.row, {**run.row, "seed": 1}])
    assert draw([run], tmp_path)


def test_a_run_is_read_with_its_log_and_memory(tmp_path):
    save(tmp_path / "a", parts={"peak_bytes": 9})
    (run,) = load_runs(tmp_path / "a")
    assert run.memory == {"client": {"peak_bytes": 9}}
    assert run.curve("uplink_bytes", "downlink_bytes") == [(24, 0.5)]


def test_a_comparison_is_read_in_the_order_of_its_rows(tmp_path):
    save(tmp_path / "fedpt-0")
    rows = [row("linear"), row("fedpt")]
    (tmp_path / "compare.json").write_text(json.dumps({"rows": rows}))
    linear, fedpt = load_runs(tmp_path)
    assert (linear.row["method"], linear.rounds) == ("linear", ())
    assert fedpt.row["method"] == "fedpt"
    assert len(fedpt.rounds) == 2
    assert [run.row for run in load_runs(tmp_path / "compare.json")] == rows


def test_seeds_of_a_run_are_read_from_its_folders(tmp_path):
    save(tmp_path / "seed-0")
    save(tmp_path / "seed-1", seed=1)
    assert [run.row["seed"] for run in load_runs(tmp_path)] == [0, 1]


def test_what_two_folders_hold_is_named_apart(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b")
    assert [run.row["method"] for run in load_runs(tmp_path / "a", tmp_path / "b")] == [
        "fedpt",
        "fedpt (b)",
    ]


def test_other_experiments_keep_their_names(tmp_path):
    save(tmp_path / "a", data="UCI digits (iid)")
    save(tmp_path / "b", data="Fashion-MNIST (iid)")
    runs = load_runs(tmp_path / "a", tmp_path / "b")
    assert [run.row["method"] for run in runs] == ["fedpt", "fedpt"]
    assert list(name_runs(runs)) == ["fedpt UCI digits (iid)", "fedpt Fashion-MNIST (iid)"]


def test_names_tell_what_differs():
    rows = [row("a"), row("b", density=0.1), row("b", density=0.2), row("b", density=0.2, seed=1)]
    named = name_runs([Run(each) for each in rows])
    assert {name: len(runs) for name, runs in named.items()} == {"a": 1, "b 0.1": 1, "b 0.2": 2}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nothing.txt", "", "holds neither result.json nor compare.json"),
        ("compare.json", "{", "is no JSON of a run"),
        (
            "compare.json",
            "[]",
            "compare.json is no JSON of a run: it must be an object, got list",
        ),
        ("compare.json", "{}", "compare.json has no 'rows'"),
        ("compare.json", "3", "is no JSON of a run: it must be an object, got int"),
        ("compare.json", '{"rows": [{}]}', "compare.json has no 'method' in its row"),
        ("result.json", "{}", "has no 'row'"),
        ("result.json", '{"row": {}, "costs": 3}', "result.json has no 'method' in its row"),
        ("result.json", '{"row": 3, "costs": {}}', "row must be an object, got int"),
        ("result.json", '{"row": {}}', "result.json has no 'costs'"),
        ("result.json", "\xff", "is no JSON of a run"),
    ],
)
def test_what_is_no_run_is_refused(name, text, says, tmp_path):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_runs(tmp_path)


@pytest.mark.parametrize("key", [*NEEDED, *NEEDED_PER_CLIENT, "log: round", "log: accuracy"])
def test_what_a_table_needs_is_named_where_a_file_lacks_it(key, tmp_path):
    save(tmp_path / "a")
    name = "log.jsonl" if key.startswith("log") else "result.json"
    path, lacking = tmp_path / "a" / name, key.removeprefix("log: ")
    text = path.read_text()
    path.write_text(text.replace(f'"{lacking}": ', '"other": '))
    with pytest.raises(ValueError, match=rf"{name} has no '{lacking}'"):
        load_runs(tmp_path / "a")


def test_a_table_needs_no_more_than_is_asked_for(small):
    known = small("fedpt", rounds=1).row()
    needed = {name: known[name] for name in NEEDED}
    needed["accuracy_per_client"] = dict.fromkeys(NEEDED_PER_CLIENT, 0.5)
    assert "fedpt" in format_table([needed, {**needed, "seed": 1}])
