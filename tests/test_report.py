import json

import pytest

from sparsefl import report
from sparsefl.fl import Schedule
from sparsefl.fl.experiment import Setting, load_problem
from sparsefl.fl.memory import Memory
from sparsefl.fl.saved import Run
from sparsefl.names import ROWS

# The schema that users of compare.json rely on.
ROW = {
    "method": str,
    "model": str,
    "norm": (str, type(None)),
    "density": float,
    "seed": int,
    "threads": int,
    "rounds": int,
    # Ours beyond that schema: with them a row says what was run.
    "data": str,
    "clients": int,
    "clients_per_round": (int, type(None)),
    "sampling": str,
    "batch_size": int,
    "local_epochs": int,
    "local_steps": int,
    "options": dict,
    "capabilities": (list, type(None)),
    "accuracy": float,
    "accuracy_per_client": dict,
    "uplink_bytes": int,
    "downlink_bytes": int,
    "setup_bytes": int,
    # Ours: what clients sent before the first round.
    "setup_uplink_bytes": int,
    "uplink_bound_bytes": int,
    "downlink_bound_bytes": int,
    "uplink_claimed_bytes": int,
    "uplink_dense_bytes": int,
    "downlink_dense_bytes": int,
    "client_step_s": float,
    "dense_step_s": float,
    "claimed_flops": int,
    "dense_flops": int,
    "client_peak_bytes": int,
    "dense_peak_bytes": int,
    "encode_s": float,
    "decode_s": float,
    "aggregate_s": float,
    # Ours, too.
    "step_factor": float,
    "groups": (list, type(None)),
}
SETTING = Setting(
    dataset="digits",
    model="mlp",
    clients=3,
    rounds=2,
    schedule=Schedule(local_steps=2),
    dev_examples=50,
    timed_steps=2,
    memory=True,
)


# ADP gates convolutions, of which an mlp has none; tests/fl/test_adp.py has it.
UNGATED = tuple(row for row in ROWS if row != "adp")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        # What it measures is tests/fl/test_runner.py's matter; a process a cell takes seconds.
        patch.setattr("sparsefl.fl.costs.measure_memory", lambda *_: Memory(9, 2, 2, 2, 2, 1))
        results = report.compare(
            SETTING,
            UNGATED,
            [5],
            {"fedavg": {"lr": 0.01}},
            folder,
            lambda method, seed, entry: seen.append((method, seed, entry.round)),
        )
    return folder, results, seen


def test_compare_json_has_exactly_the_schema(compared):
    folder, _, _ = compared
    written = json.loads((folder / "compare.json").read_text())
    assert list(written) == ["commit", "machine", "config", "rows"]
    assert isinstance(written["commit"], str)
    assert [row["method"] for row in written["rows"]] == list(UNGATED)
    for row in written["rows"]:
        assert list(row) == list(ROW)
        for name, kind in ROW.items():
            assert isinstance(row[name], kind), f"{name}: {row[name]!r}"
        clients = row["accuracy_per_client"]
        assert isinstance(clients["mean"], float)
        assert isinstance(clients["worst_decile"], float)
        assert len(clients["each"]) == SETTING.clients
        assert row["client_peak_bytes"] == row["dense_peak_bytes"] == 9


def test_config_and_machine_say_what_was_run(compared):
    folder, _, _ = compared
    written = json.loads((folder / "compare.json").read_text())
    assert written["config"]["dataset"] == "digits"
    assert written["config"]["schedule"]["local_steps"] == 2
    assert written["config"]["options"]["fedavg"]["lr"] == 0.01
    assert {"cpu", "cores", "torch", "isa", "omp_wait_policy"} <= set(written["machine"])


def test_every_run_leaves_its_log_and_result(compared):
    folder, results, seen = compared
    for result in results:
        label = result.config["label"]
        lines = (folder / f"{label}-5" / "log.jsonl").read_text().splitlines()
        assert len(lines) == 2
        saved = json.loads((folder / f"{label}-5" / "result.json").read_text())
        assert saved["model_sha256"] == result.model_sha256
        assert [entry for entry in seen if entry[0] == label] == [(label, 5, 1), (label, 5, 2)]


def test_linear_is_softmax_regression_and_the_others_the_model(compared):
    _, results, _ = compared
    rows = {result.config["label"]: result.row() for result in results}
    assert rows["linear"]["model"] == "linear"
    assert rows["linear"]["uplink_claimed_bytes"] == 4 * 650 * 3 * 2
    assert {rows[m]["model"] for m in ("fedavg", "fedpt", "hidenseek")} == {"mlp"}
    assert rows["hidenseek"]["density"] == 0.1
    assert rows["hidenseek"]["setup_bytes"] > 0


def test_all_that_is_known_is_drawn(compared, tmp_path):
    _, results, _ = compared
    drawn = report.draw([Run.of(result) for result in results], tmp_path)
    names = ["accuracy.png", "seconds.png", "factors.png", "memory.png", "clients.png"]
    assert [path.name for path in drawn] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_titles_name_the_data(compared, tmp_path, monkeypatch):
    _, results, _ = compared
    titles = []
    monkeypatch.setattr(report, "plot_seeds", lambda _, path, title, *rest: titles.append(title))
    report.draw([Run.of(result) for result in results], tmp_path)
    assert [title.splitlines()[1] for title in titles] == 2 * ["UCI digits, dirichlet:0.5"]


def test_memory_has_one_dense_bar_a_model(compared, tmp_path, monkeypatch):
    _, results, _ = compared
    seen = {}
    monkeypatch.setattr(report, "plot_memory", lambda cells, path: seen.update(cells))
    report.draw([Run.of(result) for result in results], tmp_path)
    assert list(seen) == [*UNGATED, "dense"]


def test_clients_development_and_test_data_are_disjoint():
    problem = load_problem(SETTING, seed=1)
    pools = [problem.dev, *(part for pair in problem.clients for part in pair)]

    def origin(subset):
        indices = list(range(len(subset)))
        while hasattr(subset, "indices"):
            indices = [subset.indices[i] for i in indices]
            subset = subset.dataset
        return subset, indices

    sources, indices = zip(*(origin(pool) for pool in pools), strict=True)
    flat = [index for part in indices for index in part]
    assert len(set(flat)) == len(flat)
    assert all(source is sources[0] for source in sources)
    assert problem.test is not sources[0]


def test_server_holdout_is_the_same_for_every_seed():
    first, second = (load_problem(SETTING, seed) for seed in (1, 2))
    assert first.dev.dataset.indices == second.dev.dataset.indices
    assert [len(train) for train, _ in first.clients] != [len(t) for t, _ in second.clients]
