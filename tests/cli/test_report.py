import sys

import pytest

from sparsefl import cli

PLOTS = {"accuracy.png", "seconds.png", "factors.png", "clients.png"}


@pytest.fixture
def compared(tiny, tmp_path, capsys):
    folder = tmp_path / "c"
    methods = ["--methods", "linear,fedpt", "--timed-steps", "2", "--no-memory", "--no-plots"]
    assert cli.main(["compare", *tiny, *methods, "--seeds", "0,1", "--out", str(folder)]) == 0
    return folder


def tables(text):
    return text[text.index("Accuracy of") : text.index("\nWrote")].strip()


def test_report_prints_the_tables_again_and_draws(compared, capsys):
    printed = tables(capsys.readouterr().out)
    assert not list(compared.glob("*.png"))
    assert cli.main(["report", str(compared)]) == 0
    assert tables(capsys.readouterr().out) == printed
    assert {path.name for path in compared.glob("*.png")} == PLOTS


def test_report_takes_several_runs(compared, run, tiny, tmp_path, capsys):
    run("fedavg", *tiny)
    capsys.readouterr()
    both = ["report", str(compared), str(tmp_path / "out")]
    assert cli.main([*both, "--no-plots"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("linear", "fedpt", "fedavg", "2 seeds"))
    assert cli.main([*both, "--out", str(tmp_path / "plots")]) == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == PLOTS


def test_a_file_that_lacks_a_key_is_refused_by_name(refused, tmp_path):
    (tmp_path / "result.json").write_text('{"row": {}, "costs": {}}')
    assert "result.json has no 'method' in its row" in refused("report", str(tmp_path))


def test_rounds_to_a_target_are_printed(compared, refused, capsys):
    capsys.readouterr()
    folders = [
        str(compared / f"{method}-{seed}") for method in ("linear", "fedpt") for seed in "01"
    ]
    assert cli.main(["report", *folders, "--no-plots", "--target", "0.001"]) == 0
    text = capsys.readouterr().out
    section = text[text.index("Rounds to accuracy 0.001") :].splitlines()
    assert len(section) == 4
    assert all(" 2    2, 2 " in line for line in section[2:])
    assert cli.main(["report", *folders, "--no-plots", "--target", "1"]) == 0
    assert "never, never" in capsys.readouterr().out
    assert "target" in refused("report", *folders, "--no-plots", "--target", "80")
    alone = compared.parent / "alone.json"
    alone.write_bytes((compared / "compare.json").read_bytes())
    assert "log" in refused("report", str(alone), "--no-plots", "--target", "1")


def test_tables_fit_the_terminal(compared, monkeypatch, capsys):
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["report", str(compared), "--no-plots"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_without_matplotlib_the_tables_are_there(compared, monkeypatch, capsys):
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["report", str(compared)]) == 0
    captured = capsys.readouterr()
    assert "fedpt" in captured.out
    assert "sparsefl[cli]" in captured.err


def test_what_cannot_be_reported_is_said(refused, tmp_path):
    assert "holds neither" in refused("report", str(tmp_path))
    assert "--out" in refused("report", *2 * [str(tmp_path)])
