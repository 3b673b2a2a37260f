import dataclasses
import json
import pathlib

import pytest

from sparsefl.bench.claims import accuracy, study, summary, widths
from sparsefl.fl.method import load_method

SMALL = """
dataset = "digits"
dense = "fedavg"
rounds = 2
tuning_rounds = 1
evaluate_every = 1
judged_on = 1
batch_size = 16
local_steps = 2
seeds = [0, 1]
tuning_seed = 1000
[[settings]]
name = "all"
clients = 4
partition = "iid"
[[settings]]
name = "some"
clients = 4
clients_per_round = 2
partition = "iid"
tuned_in = "all"
[[rows]]
name = "fedavg"
method = "fedavg"
model = "linear"
grid = { lr = [0.01, 0.05] }
[[rows]]
name = "second"
method = "fedavg"
model = "mlp"
tuned_as = "fedavg"
"""


@pytest.fixture
def small(tmp_path: pathlib.Path) -> study.Study:
    path = tmp_path / "study.toml"
    path.write_text(SMALL)
    return study.Study.read(path)


@pytest.mark.parametrize("path", sorted(accuracy.HERE.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_study_gives_every_row_the_same_most_trials(path):
    committed = study.Study.read(path)
    assert committed.tuning_seed not in committed.seeds
    own = [row for row in committed.rows.values() if row.tuned_as is None]
    assert own
    assert all(1 <= len(list(row.trials())) <= study.MAX_TRIALS for row in own)
    for row in own:
        for options in row.trials():
            load_method(row.method).with_defaults(options)


def test_committed_results_are_those_of_the_committed_study():
    committed = study.Study.read(accuracy.STUDY)
    results = accuracy.Results(accuracy.RESULTS)
    committed = committed.with_widths(accuracy.found_widths(committed, results))
    chosen = study.choose(committed, results.by_key)
    for setting in committed.settings:
        finals = list(committed.finals(setting, chosen))
        assert len(finals) == len(committed.seeds) * len(committed.rows)
        assert all(committed.key(job) in results.by_key for job in finals)


def test_every_committed_result_is_one_of_a_committed_study():
    """Options that methods get later, off by default, leave what was run to be found."""
    results, known = accuracy.Results(accuracy.RESULTS), set()
    for path in accuracy.HERE.glob("*.toml"):
        waiting = study.Study.read(path)
        known |= {waiting.width_key(row) for row in waiting.rows.values() if row.like}
        committed = waiting.with_widths(accuracy.found_widths(waiting, results))
        known |= {committed.step_key(row) for row in committed.rows.values()}
        chosen = study.choose(committed, results.by_key)
        for setting in committed.settings:
            known |= {committed.key(job) for job in committed.trials(setting)}
            known |= {committed.key(job) for job in committed.finals(setting, chosen)}
    assert results.by_key
    assert results.by_key.keys() <= known


def test_key_from_before_an_option_was_there_is_that_of_its_default(small):
    job = next(small.trials("all"))
    written = json.loads(small.key(job))
    del written["options"]["dp_clip"]
    assert study.with_new_options(json.dumps(written)) == small.key(job)
    written["options"]["lr"] = 0.9
    assert study.with_new_options(json.dumps(written)) != small.key(job)


@pytest.mark.parametrize("held_out", [{"public_examples": 100}, {"client_test": 0.1}], ids=str)
def test_examples_that_are_held_out_tell_runs_apart(small, held_out):
    job = next(small.trials("all"))
    assert dataclasses.replace(small, **held_out).key(job) != small.key(job)


def test_the_folder_of_the_data_tells_no_runs_apart(small):
    job, other = next(small.trials("all")), dataclasses.replace(small, data_dir="elsewhere")
    assert other.key(job) == small.key(job)
    setting = small.settings["all"]
    assert accuracy.federation(other, setting).data_dir == "elsewhere"


def test_more_trials_than_the_budget_are_refused(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SMALL.replace("[0.01, 0.05]", str([0.01 * i for i in range(1, 14)])))
    with pytest.raises(ValueError, match="fedavg: at most 12 trials, got 13"):
        study.Study.read(path)


def test_row_that_names_no_row_is_refused(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SMALL.replace('tuned_as = "fedavg"', 'tuned_as = "nobody"'))
    with pytest.raises(ValueError, match="second: no row is named 'nobody'"):
        study.Study.read(path)


def test_options_are_those_of_the_best_trial_once_all_are_done(small):
    jobs = list(small.trials("all"))
    assert [dict(job.options) for job in jobs] == [{"lr": 0.01}, {"lr": 0.05}]
    first, second = (small.key(job) for job in jobs)
    assert study.choose(small, {first: {"dev_accuracy": 0.9}}) == {}
    done = {first: {"dev_accuracy": 0.5}, second: {"dev_accuracy": 0.6}}
    assert study.choose(small, done) == {("all", "fedavg"): {"lr": 0.05}}


def test_shared_trials_serve_every_row_and_setting_that_takes_them(small):
    assert [job.setting for job in small.trials("some")] == ["all", "all"]
    finals = list(small.finals("some", {("all", "fedavg"): {"lr": 0.05}}))
    assert [(job.seed, job.setting, job.row) for job in finals] == [
        (seed, "some", row) for seed in (0, 1) for row in ("fedavg", "second")
    ]


@pytest.mark.parametrize("changed", ["rounds", "local_steps", "batch_size", "judged_on"])
def test_result_of_another_schedule_is_no_result(small, changed):
    job = next(small.finals("all", {("all", "fedavg"): {"lr": 0.05}}))
    other = dataclasses.replace(small, **{changed: 77})
    assert other.key(job) != small.key(job)


def test_trial_is_judged_on_development_data_alone(small):
    trial = next(small.trials("all"))
    key, report = accuracy.play(small, trial)
    assert key == small.key(trial)
    assert 0 <= report["dev_accuracy"] <= 1
    assert "accuracy" not in report


def test_interrupted_study_goes_on_where_it_was(small, tmp_path):
    path = tmp_path / "results.jsonl"
    job = next(small.finals("all", {("all", "fedavg"): {"lr": 0.05}}))
    key, report = accuracy.play(small, job)
    accuracy.Results(path).add(key, report)

    read = accuracy.Results(path)
    assert read.by_key[key]["model_sha256"] == report["model_sha256"]
    assert accuracy.run_jobs(small, [job], read, processes=1, deadline=None)
    assert len(path.read_text().splitlines()) == 1


def test_no_run_starts_after_the_deadline(small, tmp_path):
    results = accuracy.Results(tmp_path / "results.jsonl")
    assert not accuracy.run_jobs(
        small, list(small.trials("all")), results, processes=1, deadline=0.0
    )
    assert results.by_key == {}


def final(accuracy: float, total: int) -> dict[str, object]:
    return {
        "accuracy": accuracy,
        "accuracy_per_client": {"mean": accuracy - 0.1, "worst_decile": accuracy - 0.2},
        "ledger": {"setup_bytes": 0, "downlink_bytes": total, "uplink_bytes": total},
        "commit": "0123456789abcdef",
    }


@pytest.fixture
def results(small: study.Study, tmp_path: pathlib.Path) -> accuracy.Results:
    """Trials that choose 0.05, and final runs: of one row with both seeds, of another with one."""
    results = accuracy.Results(tmp_path / "results.jsonl")
    for job, score in zip(small.trials("all"), (0.5, 0.6), strict=True):
        results.add(small.key(job), {"dev_accuracy": score})
    for job in small.finals("all", study.choose(small, results.by_key)):
        if (job.row, job.seed) != ("second", 1):
            accuracy_of_seed = {0: 0.8, 1: 0.9}[job.seed]
            results.add(small.key(job), final(accuracy_of_seed, total=1000))
    return results


def test_summary_is_over_the_seeds_that_were_run(small, results):
    first, second = summary.summarise(small, results)
    assert (first.row.name, first.seeds, second.row.name, second.seeds) == (
        "fedavg",
        2,
        "second",
        1,
    )
    assert first.accuracy.mean == pytest.approx(0.85)
    assert first.worst_decile.mean == pytest.approx(0.65)
    assert first.total_bytes == 2000
    assert first.options == {"lr": 0.05}
    assert first.commits == {"0123456789abcdef"}


def test_table_says_what_was_not_run_and_not_measured(small, results):
    text = summary.tables(small, list(summary.summarise(small, results)))
    assert "| fedavg | 85.0 ± 7.1 | 75.0 ± 7.1 | 65.0 ± 7.1 | 2 kB | - | 2 | lr 0.05 |" in text
    assert "| second | 80.0 | 70.0 | 60.0 | 2 kB | - | 1 | lr 0.05 |" in text
    assert "some\n\nnot run yet: fedavg; second" in text


def test_own_models_have_a_column_where_there_are_any(small, results):
    job = next(small.finals("some", {("all", "fedavg"): {"lr": 0.05}}))
    run = final(0.8, total=1000) | {"data": "digits (a copy), iid"}
    run["accuracy_per_client"]["personal"] = {"mean": 0.95, "worst_decile": 0.9}
    results.add(small.key(job), run)
    found = list(summary.summarise(small, results))
    text = summary.tables(small, found)
    assert "| worst tenth | own models: mean |" in text
    assert "| fedavg | 80.0 | 70.0 | 60.0 | 95.0 | 2 kB | - | 1 | lr 0.05 |" in text
    assert "| second | not run yet |  |  |  |  |  |  |  |" in text
    assert "| fedavg | 85.0 ± 7.1 | 75.0 ± 7.1 | 65.0 ± 7.1 | 2 kB |" in text
    assert summary.data_of(small, found[-1:]) == "digits (a copy)"
    assert summary.data_of(small, []) == "digits"


def test_committed_tables_are_those_of_the_committed_results(tmp_path, capsys):
    written = tmp_path / "accuracy.md"
    assert summary.main(["--tables", str(written), "--plot", str(tmp_path / "accuracy.png")]) == 0
    assert written.read_text() == summary.TABLES.read_text() == capsys.readouterr().out[:-1]
    rounds = [study.Study.read(path).rounds for path in summary.STUDIES]
    assert [f"{n} rounds of" in written.read_text() for n in rounds] == [True] * len(rounds)


def test_picture_is_drawn(small, results, tmp_path):
    summary.draw(list(summary.summarise(small, results)), tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 1000


def test_overview_says_what_is_missing(small, results):
    text = summary.overview(small, list(summary.summarise(small, results)))
    assert "| fedavg | 85.0 ± 7.1 | not run yet | 2 kB | - |" in text
    assert "| second | 80.0 (1 of 2 seeds) | not run yet | 2 kB | - |" in text


def test_result_under_other_defaults_of_the_method_is_no_result(small, monkeypatch):
    job = next(small.finals("all", {("all", "fedavg"): {"lr": 0.05}}))
    before = small.key(job)
    method = load_method("fedavg")
    changed = dataclasses.replace(method, defaults={**method.defaults, "momentum": 0.123})
    monkeypatch.setattr(study, "load_method", lambda name: changed)
    assert small.key(job) != before


def test_narrow_row_waits_for_its_width(small):
    narrow = study.Row("narrow", "fedavg", width="bytes", like="fedavg", tuned_as="fedavg")
    rows = dataclasses.replace(small, rows={**small.rows, "narrow": narrow})
    assert "narrow" not in rows.with_widths({}).rows
    assert rows.with_widths({"narrow": 0.2}).rows["narrow"].width == 0.2


UPLINK = """
[[rows]]
name = "few"
method = "fedpt"
model = "mlp"
width = 0.15
[[rows]]
name = "masks"
method = "fedpm"
model = "mlp"
width = "uplink"
like = "few"
"""


def test_masks_of_a_narrower_network_take_the_bytes_of_a_row_that_sends_few(tmp_path, monkeypatch):
    path = tmp_path / "study.toml"
    path.write_text(SMALL + UPLINK)
    waiting, results = study.Study.read(path), accuracy.Results(tmp_path / "results.jsonl")
    accuracy.find_uplink_widths(waiting, results)
    found = accuracy.found_widths(waiting, results)
    row = waiting.with_widths(found).rows["masks"]
    problem = accuracy.load_problem(accuracy.federation(waiting, waiting.settings["all"]), 1000)

    def replied(row):
        schedule = accuracy.schedule(waiting, waiting.settings["all"])
        return widths.reply_bytes(row, problem, schedule)

    wider = dataclasses.replace(row, width=round(row.width + 0.01, 2))
    budget = replied(waiting.rows["few"])
    assert 0.15 < row.width < 1
    assert 0.9 * budget < replied(row) <= budget < replied(wider)
    # What is in the results is not looked for again.
    monkeypatch.setattr(widths, "at_uplink", lambda *_: 1 / 0)
    accuracy.find_uplink_widths(waiting, accuracy.Results(results.path))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('width = "uplink"', 'width = "bytes"', "masks: width must be 'uplink' or a number with"),
        ('width = "uplink"', 'width = "half"', "masks: width must be a number, or one of bytes"),
        ('like = "few"', "", "masks: width must be a number, or one of bytes, time, uplink with"),
    ],
    ids=["dense bytes", "nonsense", "like nothing"],
)
def test_widths_that_cannot_be_found_are_refused(old, new, problem, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SMALL + UPLINK.replace(old, new))
    with pytest.raises(ValueError, match=problem):
        study.Study.read(path)


@pytest.mark.parametrize("name", ["supermasks", "supermasks_cifar10"])
def test_supermasks_are_compared_at_equal_bytes_up(name):
    rows = study.Study.read(accuracy.HERE / f"{name}.toml").rows
    narrow, full = rows["fedpm, narrow, bytes of hidenseek .1"], rows["fedpm"]
    assert (narrow.method, narrow.width, narrow.like) == ("fedpm", "uplink", "hidenseek .1")
    assert list(narrow.trials()) == list(full.trials())


def test_tuning_on_a_final_seed_is_refused(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(SMALL.replace("tuning_seed = 1000", "tuning_seed = 1"))
    with pytest.raises(ValueError, match="tuning_seed 1 must be none"):
        study.Study.read(path)


def test_run_that_fails_leaves_the_others(small, tmp_path):
    results = accuracy.Results(tmp_path / "results.jsonl")
    broken = study.Setting("broken", clients=4, partition="nonsense")
    both = dataclasses.replace(small, settings={**small.settings, "broken": broken})
    bad = study.Job("final", "broken", "fedavg", 0, {"lr": 0.05})
    good = study.Job("final", "all", "fedavg", 0, {"lr": 0.05})
    assert not accuracy.run_jobs(both, [bad, good], results, processes=1, deadline=None)
    assert list(results.by_key) == [small.key(good)]
