import subprocess
import sys

import pytest

from sparsefl import cli


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["run", "--rounds"], ["compare", "--method", "fedavg", "extra"]],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_wrong_usage_is_status_two(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_help_lists_what_works(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("compare", "run", "bench", "info"))


@pytest.mark.parametrize("command", [[], ["run"], ["compare"]], ids=lambda c: c[0] if c else "all")
def test_help_needs_no_torch(command):
    code = f"import sys; from sparsefl import cli; cli.main([*{command}, '--help'])"
    loaded = "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {loaded}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_interrupt_is_status_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsefl.cli.run.resolve", interrupt)
    assert cli.main(["run", "fedavg"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("SPARSEFL_TRACEBACK", "1")
    with pytest.raises(ValueError, match="fedsgd"):
        cli.main(["run", "fedsgd"])


def test_bench_is_handed_through(monkeypatch):
    seen = []
    runner = type(sys)("sparsefl.bench.runner")
    runner.main = seen.append
    monkeypatch.setitem(sys.modules, "sparsefl.bench.runner", runner)
    monkeypatch.setitem(sys.modules, "sparsefl.bench", type(sys)("sparsefl.bench"))
    assert cli.main(["bench", "--op", "sparse_linear"]) == 0
    assert seen == [["--op", "sparse_linear"]]
