"""``python -m sparsefl.bench.claims.accuracy``: the accuracy study, run by run, resumable.

Each run becomes one JSON line; a run that is there is not made again, so that the study can be
stopped at any time and taken up where it was. Trials are judged on the server's development set
alone; the test set is read in final runs only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import pathlib
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import tqdm

from sparsefl import fl
from sparsefl.allocator import keep_freed_memory
from sparsefl.fl import experiment
from sparsefl.fl.experiment import Problem, load_problem
from sparsefl.report import commit, machine

from . import widths
from .study import Job, Row, Setting, Study, choose, with_new_options

HERE = pathlib.Path(__file__).parent
STUDY = HERE / "accuracy.toml"
METHODS = HERE / "methods.toml"
RESULTS = HERE / "accuracy.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing of the study, setting by setting; return 0 when nothing is."""
    parser = argparse.ArgumentParser(prog="python -m sparsefl.bench.claims.accuracy")
    parser.add_argument("--study", type=pathlib.Path, default=STUDY, help="what is run")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="where it is written")
    parser.add_argument("--data-dir", help="folder of the data set's files")
    parser.add_argument("--processes", type=int, default=2, help="runs at once, a thread each")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument(
        "--steps", action="store_true", help="only time the steps, and find the narrow widths"
    )
    args = parser.parse_args(argv)
    study, results = Study.read(args.study), Results(args.results)
    study = dataclasses.replace(study, data_dir=args.data_dir)
    if args.steps:
        measure_steps(study, results)
        return 0
    find_uplink_widths(study, results)
    every_row = set(study.rows)
    study = study.with_widths(found_widths(study, results))
    waiting = every_row - set(study.rows)
    if waiting:
        print(f"left out until --steps has found their width: {', '.join(sorted(waiting))}")
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    complete = not waiting
    for setting in study.settings:
        complete &= run_jobs(study, study.trials(setting), results, args.processes, deadline)
        finals = study.finals(setting, choose(study, results.by_key))
        complete &= run_jobs(study, finals, results, args.processes, deadline)
    return 0 if complete else 1


class Results:
    """The study's JSON lines, by the key of their job."""

    def __init__(self, path: pathlib.Path) -> None:
        """Read what an earlier call has written."""
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        found = map(json.loads, lines)
        self.by_key: dict[str, dict[str, Any]] = {with_new_options(r["key"]): r for r in found}

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Append one result."""
        line = {"key": key, **result}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.by_key[key] = line


def run_jobs(
    study: Study, jobs: Iterable[Job], results: Results, processes: int, deadline: float | None
) -> bool:
    """Make the runs that are missing; return whether all are there in the end."""
    missing = [job for job in jobs if study.key(job) not in results.by_key]
    waiting = iter(missing)
    # Forked children of a process with threads would hang in torch's pool.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn) as pool, tqdm.tqdm(total=len(missing)) as bar:
        running: set[Future[tuple[str, dict[str, Any]]]] = set()
        while True:
            while len(running) < processes and (deadline is None or time.monotonic() < deadline):
                job = next(waiting, None)
                if job is None:
                    break
                running.add(pool.submit(play, study, job))
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                bar.update()
                try:
                    results.add(*future.result())
                except (RuntimeError, ValueError) as error:
                    # A run that fails leaves the others to be made; it is missing in the end.
                    bar.write(f"a run failed: {error}", file=sys.stderr)
    return all(study.key(job) in results.by_key for job in missing)


def play(study: Study, job: Job) -> tuple[str, dict[str, Any]]:
    """Make one run; a trial never sees the test set."""
    keep_freed_memory()
    row, setting = study.rows[job.row], study.settings[job.setting]
    trial, rounds = job.stage == "tune", study.rounds_of(job)
    problem = load_problem(federation(study, setting), job.seed)
    assert problem.dev is not None
    result = fl.run(
        row.method,
        widths.factory(row, problem),
        problem.clients,
        problem.dev if trial else problem.test,
        density=row.density,
        rounds=rounds,
        seed=job.seed,
        schedule=schedule(study, setting),
        options=job.options,
        dev=problem.dev,
        public=problem.public,
        evaluate_every=study.evaluate_every,
        threads=1,
        timed_steps=0,
    )
    curve = result.ledger.curve()
    report: dict[str, Any] = {
        **dataclasses.asdict(job),
        "rounds": rounds,
        "dev_accuracy": statistics.fmean(accuracy for _, accuracy in curve[-study.judged_on :]),
        "commit": commit(),
    }
    if not trial:
        report |= {
            "data": problem.label,
            "accuracy": result.accuracy,
            "accuracy_per_client": dict(result.accuracy_per_client),
            "curve": curve,
            "ledger": result.ledger.sums(),
            "model_sha256": result.model_sha256,
        }
    return study.key(job), report


def federation(study: Study, setting: Setting) -> experiment.Setting:
    """Return the data's part of a setting."""
    return experiment.Setting(
        dataset=study.dataset,
        data_dir=study.data_dir,
        client_test=study.client_test,
        clients=setting.clients,
        partition=setting.partition,
        public_examples=study.public_examples,
    )


def schedule(study: Study, setting: Setting) -> fl.Schedule:
    """Return how much every client does."""
    return fl.Schedule(
        clients_per_round=setting.clients_per_round,
        batch_size=study.batch_size,
        local_steps=study.local_steps,
    )


def found_widths(study: Study, results: Results) -> dict[str, float]:
    """Return the widths that were found for narrow rows, by row."""
    keys = {row.name: study.width_key(row) for row in study.rows.values() if row.like}
    return {name: results.by_key[k]["width"] for name, k in keys.items() if k in results.by_key}


def find_uplink_widths(study: Study, results: Results) -> None:
    """Find the widths that depend on bytes of replies alone, which no other work disturbs."""
    waiting = [row for row in study.rows.values() if row.width == "uplink"]
    for row in (row for row in waiting if study.width_key(row) not in results.by_key):
        setting = next(iter(study.settings.values()))
        problem = load_problem(federation(study, setting), study.tuning_seed)
        assert row.like is not None
        width = widths.at_uplink(row, study.rows[row.like], problem, schedule(study, setting))
        results.add(study.width_key(row), {"row": row.name, "width": width})


def measure_steps(study: Study, results: Results) -> None:
    """Time a local step of each row against the dense model; wants an idle machine.

    The rows that a narrow one is like come first: their bytes or step time give its width.
    """
    find_uplink_widths(study, results)
    setting = next(iter(study.settings.values()))
    problem = load_problem(federation(study, setting), study.tuning_seed)
    for row in sorted(study.rows.values(), key=lambda row: row.like is not None):
        if row.like is not None:
            if study.width_key(row) not in results.by_key:
                other = results.by_key[study.step_key(study.rows[row.like])]
                width = measure_width(study, row, other, problem)
                results.add(study.width_key(row), {"row": row.name, "width": width})
            row = study.with_widths(found_widths(study, results)).rows[row.name]
        if study.step_key(row) not in results.by_key:
            results.add(study.step_key(row), measure_step(study, row, problem))


def measure_step(study: Study, row: Row, problem: Problem) -> dict[str, Any]:
    """Return a row's step factor, against the dense model of full width, and a client's bytes."""
    assert problem.dev is not None
    result = fl.run(
        row.method,
        widths.factory(row, problem),
        problem.clients,
        problem.dev,
        public=problem.public,
        density=row.density,
        rounds=1,
        schedule=fl.Schedule(batch_size=study.batch_size, local_steps=study.local_steps),
        evaluate_every=0,
    )
    sums = result.ledger.sums()
    factor = result.costs.step_factor
    if row.method == "fedavg":
        # Against itself the run would compare it.
        dense = study.rows[study.dense]
        factor = widths.step_factor(row, dense, problem, study.batch_size)
    return {
        "row": row.name,
        "step_factor": factor,
        "exchange_bytes": (sums["uplink_bytes"] + sums["downlink_bytes"]) / len(problem.clients),
        "machine": machine(),
        "commit": commit(),
    }


def measure_width(study: Study, row: Row, other: Mapping[str, Any], problem: Problem) -> float:
    """Return the width at which a narrow model costs what another row costs."""
    if row.width == "bytes":
        return widths.at_bytes(row, problem, other["exchange_bytes"])
    dense = study.rows[study.dense]
    return widths.at_time(row, dense, problem, other["step_factor"], study.batch_size)


if __name__ == "__main__":
    sys.exit(main())
