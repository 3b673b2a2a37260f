"""Runs whose process is killed by SIGKILL at random moments: they go on to the same end."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

SETTING = ["--dataset", "digits", "--model", "mlp", "--clients", "6", "--clients-per-round", "3"]
WORK = ["--local-steps", "3", "--checkpoint-every", "3", "--set", "evaluate_every=8", "--csv"]
# Enough that a kill finds the run under way, also where a round takes a millisecond.
ROUNDS = 24


def kill_once(arguments, draws):
    """Starts the command and kills it some rounds later; returns whether it was not over yet."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsefl", *arguments], stderr=subprocess.PIPE, text=True
    )
    rounds = draws.randrange(1, ROUNDS // 3)
    for line in process.stderr:
        rounds -= " round " in line
        if rounds == 0:
            break
    # Wherever in a round, or in writing a checkpoint, this falls.
    time.sleep(draws.random() / 20)
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    return process.wait() == -signal.SIGKILL


def outcome(folder):
    """Returns model, bytes and log of a run, the seconds left out."""
    report = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if not k.endswith("_s")} for line in lines]
    return report["model_sha256"], report["accuracy"], log


def check(method, run, tmp_path, kills, seed):
    draws = random.Random(seed)
    arguments = [method, *SETTING, *WORK, "--rounds", str(ROUNDS)]
    run(*arguments, out="whole")
    cut = ["--out", str(tmp_path / "cut")]
    killed = kill_once(["run", *arguments, *cut], draws)
    assert killed, "the run was over before it was killed"
    for _ in range(kills - 1):
        kill_once(["run", "--resume", *cut], draws)
    run("--resume", out="cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    rows = (tmp_path / "cut/log.csv").read_text().splitlines()
    numbers = [row.partition(",")[0] for row in rows]
    assert len(numbers) == len(set(numbers))


def test_a_killed_process_goes_on_to_the_same_end(run, tmp_path):
    check("scaffold", run, tmp_path, kills=2, seed=time.time_ns())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["fedavg", "fedpt", "hidenseek", "fedpm", "scaffold"])
def test_any_method_survives_many_kills(method, seed, run, tmp_path):
    check(method, run, tmp_path, kills=8, seed=seed)
