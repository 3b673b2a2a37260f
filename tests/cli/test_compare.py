import json

from sparsefl import cli


def test_compare_prints_and_writes(tiny, tmp_path, capsys):
    methods = ["--methods", "linear,fedpt", "--timed-steps", "2", "--no-memory"]
    extra = ["--set", "fedpt.frozen=fc1", "--seeds", "0,1"]
    assert cli.main(["compare", *tiny, *methods, *extra, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "compare.json").read_text())
    keys = [(row["method"], row["seed"]) for row in written["rows"]]
    assert keys == [("linear", 0), ("fedpt", 0), ("linear", 1), ("fedpt", 1)]
    assert (tmp_path / "accuracy.png").exists()
    assert (tmp_path / "factors.png").exists()
    text = capsys.readouterr().out
    assert "realised" in text
    assert "2 rounds" in text


def test_options_of_a_method_that_is_not_compared_are_refused(tiny, refused):
    says = refused("compare", *tiny, "--methods", "linear", "--set", "fedpt.lr=1")
    assert "fedpt is not among the methods, linear" in says


def test_an_option_without_its_method_says_how_to_give_it(tiny, refused):
    assert "hidenseek.lr" in refused("compare", *tiny, "--set", "lr=1")


def test_a_model_that_a_method_cannot_train_is_refused_before_any_runs(tiny, refused, tmp_path):
    out = tmp_path / "out"
    said = refused("compare", *tiny, "--methods", "fedavg,adp", "--out", str(out))
    assert "nothing to gate" in said
    assert not out.exists()


def test_unknown_rows_are_refused(tiny, refused):
    assert "did you mean fedavg?" in refused("compare", *tiny, "--methods", "linear,fedav")
