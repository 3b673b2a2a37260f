"""Commands that fail before they train leave what was finished as it was."""

import pytest

from sparsefl import cli

COMPARED = ["--methods", "linear,fedpt", "--timed-steps", "0", "--no-memory", "--no-plots"]
WRONG = {
    "no data": ["--dataset", "fashion-mnist", "--data-dir", "/nowhere"],
    "no model": ["--model", "resnet"],
    "no batch": ["--batch-size", "0"],
    "no partition": ["--partition", "zipf"],
    "no layer": ["--set", "fedpt.frozen=fc9"],
}


def content(folder):
    """Returns every file below, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def replaced(tiny, wrong):
    """Returns the settings with the wrong ones in place of the right ones."""
    pairs = zip(tiny[::2], tiny[1::2], strict=True)
    kept = [part for flag, value in pairs if flag not in wrong for part in (flag, value)]
    return [*kept, *wrong]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_failing_run_keeps_the_finished_one(wrong, run, tiny, tmp_path, refused):
    run("fedpt", *tiny)
    before = content(tmp_path / "out")
    assert refused("run", "fedpt", *replaced(tiny, wrong), "--out", str(tmp_path / "out"))
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("wrong", [WRONG[name] for name in list(WRONG)[:-1]], ids=list(WRONG)[:-1])
def test_a_failing_comparison_keeps_the_finished_one(wrong, tiny, tmp_path, refused):
    out = ["--out", str(tmp_path / "c")]
    assert cli.main(["compare", *tiny, *COMPARED, *out]) == 0
    before = content(tmp_path / "c")
    assert refused("compare", *replaced(tiny, wrong), *COMPARED, *out)
    assert content(tmp_path / "c") == before


def test_no_method_is_run_where_another_cannot_be(own, refused):
    data = ["--dataset", "digits", "--model", "mine:fails", "--rounds", "1"]
    assert "mine:fails failed" in refused("compare", *data, *COMPARED, "--out", "c")
    assert not (own / "c").exists()
