import json

import pytest


def test_run_writes_log_and_result(run, tiny, tmp_path, capsys):
    result = run("fedpt", *tiny, "--lr", "0.02")
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert [line["round"] for line in log] == [1, 2]
    assert all(line["uplink_bytes"] > 0 and 0 <= line["accuracy"] <= 1 for line in log)
    assert result["config"]["options"]["lr"] == 0.02
    assert result["ledger"]["uplink_bytes"] == sum(line["uplink_bytes"] for line in log)
    assert len(result["model_sha256"]) == 64
    captured = capsys.readouterr()
    assert "fedpt" in captured.out
    assert "round 2/2" in captured.err


def test_equal_seeds_give_equal_models(run, tiny):
    digests = [
        run("hidenseek", *tiny, "--set", "iterations=5", "--seed", seed, out=f"{number}")
        for number, seed in enumerate(("7", "7", "8"))
    ]
    first, second, other = (result["model_sha256"] for result in digests)
    assert first == second != other


def test_own_model_and_own_data_are_found_in_the_current_folder(own, run):
    result = run(
        "fedavg", "--data", "mine:clients", "--model", "mine:net", "--rounds", "15",
        "--local-epochs", "3",
    )  # fmt: skip
    assert result["accuracy"] > 0.7


def test_without_fashion_mnist_the_digits_take_its_place(run, tiny, monkeypatch, capsys):
    monkeypatch.setattr("sparsefl.data.fashion_mnist.candidates", lambda *_: ())
    run("fedavg", *tiny[2:])
    captured = capsys.readouterr()
    assert "UCI digits" in captured.out
    assert "take its place" in captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "METHOD"),
        (
            ["xyz"],
            "there are: adp, fedavg, fedpm, fedprox, fedpt, fedtiny, hidenseek, lotteryfl",
        ),
        (["hideandseek"], "did you mean hidenseek?"),
        (["linear"], "no method 'linear'"),
        (["fedavg", "--data-dir", "/nowhere", "--dataset", "fashion-mnist"], "/nowhere"),
        (["fedavg", "--model", "resnet"], "resnet"),
        (["fedavg", "--model", "mlp", "--rounds", "ten"], "rounds must be an integer, got 'ten'"),
        (["hidenseek", "--density", "1.5"], "density"),
        (["fedavg", "--partition", "zipf"], "partition"),
        (["fedavg", "--batch-size", "0"], "batch_size"),
        (["fedavg", "--clients", "0"], "num_clients"),
        (["fedpt", "--set", "frozen=fc9"], "fc9"),
    ],
    ids=lambda value: " ".join(value[-2:]) or "nothing" if isinstance(value, list) else None,
)
def test_a_users_error_is_one_line_and_status_two(arguments, says, refused, tiny, tmp_path):
    given = {flag for flag in arguments if flag.startswith("--")}
    rest = [
        part
        for flag, value in zip(tiny[::2], tiny[1::2], strict=True)
        if flag not in given
        for part in (flag, value)
    ]
    assert says in refused("run", *arguments, *rest, "--out", str(tmp_path))
