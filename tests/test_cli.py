import json
import subprocess
import sys

import pytest

from sparsefl import cli

TINY = ["--dataset", "digits", "--clients", "3", "--rounds", "2", "--local-steps", "2"]


def test_run_writes_log_and_result(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["run", "fedpt", *TINY, "--model", "mlp", "--lr", "0.02", "--out", str(out)]
    assert cli.main(arguments) == 0
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["round"] for line in log] == [1, 2]
    assert all(line["uplink_bytes"] > 0 and 0 <= line["accuracy"] <= 1 for line in log)
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["options"]["lr"] == 0.02
    assert result["ledger"]["uplink_bytes"] == sum(line["uplink_bytes"] for line in log)
    assert len(result["model_sha256"]) == 64
    captured = capsys.readouterr()
    assert "fedpt" in captured.out
    assert "round 2/2" in captured.err


def test_equal_seeds_give_equal_models(tmp_path):
    digests = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        out = tmp_path / name
        arguments = ["run", "hidenseek", *TINY, "--model", "mlp", "--set", "iterations=5"]
        assert cli.main([*arguments, "--seed", seed, "--out", str(out)]) == 0
        digests.append(json.loads((out / "result.json").read_text())["model_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_compare_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "compare"
    methods = ["--methods", "linear,fedpt", "--timed-steps", "2", "--no-memory"]
    extra = ["--set", "fedpt.frozen=fc1", "--seeds", "0,1", "--model", "mlp"]
    assert cli.main(["compare", *TINY, *methods, *extra, "--out", str(out)]) == 0
    written = json.loads((out / "compare.json").read_text())
    keys = [(row["method"], row["seed"]) for row in written["rows"]]
    assert keys == [("linear", 0), ("fedpt", 0), ("linear", 1), ("fedpt", 1)]
    assert (out / "accuracy.png").exists()
    assert (out / "factors.png").exists()
    text = capsys.readouterr().out
    assert "realised" in text
    assert "2 rounds" in text


def test_own_model_and_own_data_are_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def net():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), "
        "torch.nn.Linear(8, 2))\n"
        "def clients():\n"
        "    def data(n):\n"
        "        x = torch.randn(n, 6, generator=torch.Generator().manual_seed(n))\n"
        "        return TensorDataset(x, (x[:, 0] > 0).long())\n"
        "    return [(data(40), data(10)), (data(30), data(11))], data(100)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    arguments = ["run", "fedavg", "--data", "mine:clients", "--model", "mine:net"]
    assert cli.main([*arguments, "--rounds", "15", "--local-epochs", "3", "--out", "o"]) == 0
    assert json.loads((tmp_path / "o" / "result.json").read_text())["accuracy"] > 0.7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "fedavg", "--dataset", "fashion-mnist", "--data-dir", "/nowhere"], "/nowhere"),
        (["run", "fedavg", *TINY, "--model", "resnet"], "resnet"),
        (["run", "fedavg", *TINY, "--model", "nowhere.mod:Net"], "nowhere"),
        (["run", "fedavg", *TINY, "--set", "momentun=1"], "momentun"),
        (["run", "fedavg", *TINY, "--set", "momentum=big"], "momentum"),
        (["run", "fedavg", *TINY, "--set", "momentum"], "KEY=VALUE"),
        (["run", "hidenseek", *TINY, "--density", "1.5"], "density"),
        (["run", "fedavg", *TINY, "--partition", "zipf"], "partition"),
        (["run", "fedavg", *TINY, "--batch-size", "0"], "batch_size"),
        (["run", "fedavg", *TINY, "--clients", "0"], "num_clients"),
        (["compare", *TINY, "--set", "lr=1"], "METHOD.KEY"),
        (["run", "fedpt", *TINY, "--set", "frozen=fc9"], "fc9"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else value,
)
def test_a_users_error_is_one_line_and_status_two(arguments, says, capsys, tmp_path):
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["run"], ["run", "fedsgd"], ["compare", "--methods", "fedavg,adp"]],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_wrong_usage_is_status_two(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_help_lists_what_works(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("compare", "run", "bench", "info"))
    assert "profile" not in text


def test_help_needs_no_torch():
    code = (
        "import sys; from sparsefl import cli; cli.main(['--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_info_says_what_is_there(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["operators"].startswith("compiled, ")
    assert lines["codec"] == "compiled"
    assert lines["digits"] == "shipped"
    assert lines["cores"].isdigit()


def test_info_survives_missing_operators(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sparsefl.ops", None)
    assert cli.main(["info"]) == 1
    assert "not available" in capsys.readouterr().out


def test_names_agree_with_the_package():
    from sparsefl import data, fl, report

    assert cli._METHODS == fl.METHODS
    assert cli._ROWS == report.METHODS
    assert cli._DATASETS == data.NAMES


def test_without_fashion_mnist_the_digits_take_its_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sparsefl.data.fashion_mnist.DEFAULT_FOLDERS", ())
    monkeypatch.delenv("SPARSEFL_DATA_DIR", raising=False)
    arguments = ["run", "fedavg", "--model", "linear", *TINY[2:], "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert "digits" in capsys.readouterr().out


def test_bench_is_handed_through(monkeypatch):
    seen = []
    runner = type(sys)("sparsefl.bench.runner")
    runner.main = seen.append
    monkeypatch.setitem(sys.modules, "sparsefl.bench.runner", runner)
    monkeypatch.setitem(sys.modules, "sparsefl.bench", type(sys)("sparsefl.bench"))
    assert cli.main(["bench", "--op", "sparse_linear"]) == 0
    assert seen == [["--op", "sparse_linear"]]
