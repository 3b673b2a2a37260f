"""What an accuracy study runs: settings, rows with their grids, and the jobs that they make."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from sparsefl.fl.method import load_method

# Every row gets as many trials on the development set, at most.
MAX_TRIALS = 12
# Widths that are looked for.
_FOUND = ("bytes", "time", "uplink")

Stage = Literal["tune", "final"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A federation.

    Attributes:
        name: Short name.
        clients: Number of clients.
        partition: As for ``sparsefl.data.partition.split``.
        clients_per_round: Cohort size; ``None`` is everyone.
        tuned_in: The setting whose trials choose the options; itself if absent.
    """

    name: str
    clients: int
    partition: str
    clients_per_round: int | None = None
    tuned_in: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A method on a model.

    Attributes:
        name: Short name.
        method: A method of ``sparsefl.fl.METHODS``.
        model: A model of ``sparsefl.models``.
        density: Share of weights kept.
        norm: Normalisation of the model.
        width: Of the model; until it is known what a narrow one may take of ``like``'s: "bytes", of
            a dense exchange, and "time", of a local step, in plain torch, or "uplink", a reply's
            bytes, of any method.
        like: The row whose bytes or step time a narrow model may take.
        grid: Values of each option; the trials are their product.
        tuned_as: The row whose trials choose the options; itself if absent.
    """

    name: str
    method: str
    model: str = "cnn"
    density: float = 1.0
    norm: str | None = None
    width: float | Literal["bytes", "time", "uplink"] = 1.0
    like: str | None = None
    grid: Mapping[str, list[Any]] = dataclasses.field(default_factory=dict)
    tuned_as: str | None = None

    def identity(self) -> list[Any]:
        """Return what tells it from other rows, its name and its grid apart."""
        return [self.method, self.model, self.norm, self.density, self.width]

    @staticmethod
    def method_of(identity: list[Any]) -> str:
        """Return the method of what ``identity`` has returned."""
        return str(identity[0])

    def check_width(self) -> None:
        """Raise ValueError where a width is to be found that cannot be."""
        if not isinstance(self.width, str):
            return
        if self.width not in _FOUND or self.like is None:
            raise ValueError(
                f"{self.name}: width must be a number, or one of {', '.join(_FOUND)} with like, "
                f"got {self.width!r}"
            )
        if self.width != "uplink" and self.method != "fedavg":
            raise ValueError(
                f"{self.name}: width must be 'uplink' or a number with method {self.method!r}, "
                f"got {self.width!r}, which is of fedavg's messages and steps"
            )

    def trials(self) -> Iterator[dict[str, Any]]:
        """Yield the options of each trial."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Study:
    """All that an accuracy study runs.

    Attributes:
        dataset: Name of the data set.
        dense: The row that every step time is compared with.
        rounds: Rounds of a final run.
        tuning_rounds: Rounds of a trial.
        evaluate_every: Rounds between two evaluations on the development set.
        judged_on: Evaluations at the end of a trial whose mean is its score.
        batch_size: Examples of a local step.
        local_steps: Most local steps in a round.
        seeds: Seeds of the final runs.
        tuning_seed: Seed of the trials; none of ``seeds``.
        settings: By name.
        rows: By name.
        public_examples: Examples that the server trains on where a method does; no client has them
            in any row.
        client_test: Share of each client's examples that it is judged by at the end, its own model
            among others; without any its development data serve.
        data_dir: Folder of the data set's files; tells no runs apart.
    """

    dataset: str
    dense: str
    rounds: int
    tuning_rounds: int
    evaluate_every: int
    judged_on: int
    batch_size: int
    local_steps: int
    seeds: tuple[int, ...]
    tuning_seed: int
    settings: Mapping[str, Setting]
    rows: Mapping[str, Row]
    public_examples: int = 0
    client_test: float = 0.0
    data_dir: str | None = None

    @classmethod
    def read(cls, path: pathlib.Path) -> Study:
        """Read a study from a TOML file.

        Raises:
            ValueError: if a row has more trials than all may have, names an unknown one, or a width
                that is not found for it.
        """
        given = tomllib.loads(path.read_text())
        settings = {s["name"]: Setting(**s) for s in given.pop("settings")}
        rows = {r["name"]: Row(**r) for r in given.pop("rows")}
        for row in rows.values():
            trials = len(list(row.trials()))
            if trials > MAX_TRIALS:
                raise ValueError(f"{row.name}: at most {MAX_TRIALS} trials, got {trials}")
            for other in (row.tuned_as, row.like):
                if other is not None and other not in rows:
                    raise ValueError(f"{row.name}: no row is named {other!r}")
            row.check_width()
        study = cls(seeds=tuple(given.pop("seeds")), settings=settings, rows=rows, **given)
        if study.tuning_seed in study.seeds:
            raise ValueError(f"tuning_seed {study.tuning_seed} must be none of seeds {study.seeds}")
        return study

    def with_widths(self, widths: Mapping[str, float]) -> Study:
        """Fill in the widths that were found, by row, and leave out the rows that wait for one."""
        rows = {
            name: dataclasses.replace(row, width=widths.get(name, row.width))
            for name, row in self.rows.items()
        }
        known = {name: row for name, row in rows.items() if not isinstance(row.width, str)}
        return dataclasses.replace(self, rows=known)

    def tuning(self, setting: Setting, row: Row) -> tuple[str, str]:
        """Return the names of the setting and the row whose trials choose the options."""
        return setting.tuned_in or setting.name, row.tuned_as or row.name

    def rounds_of(self, job: Job) -> int:
        """Return the rounds of a run."""
        return self.tuning_rounds if job.stage == "tune" else self.rounds

    def key(self, job: Job) -> str:
        """Return all that determines a run, as JSON: a result with an equal key is its result."""
        setting, row = self.settings[job.setting], self.rows[job.row]
        determined_by = {
            "stage": job.stage,
            "dataset": self.dataset,
            "clients": [setting.clients, setting.clients_per_round, setting.partition],
            "work": [self.rounds_of(job), self.local_steps, self.batch_size],
            "judged": [self.evaluate_every, self.judged_on],
            "row": row.identity(),
            "seed": job.seed,
            "options": load_method(row.method).with_defaults(job.options),
        }
        # Studies from before these were there go without them.
        for name in ("public_examples", "client_test"):
            if getattr(self, name):
                determined_by[name] = getattr(self, name)
        return json.dumps(determined_by, sort_keys=True)

    def step_key(self, row: Row) -> str:
        """Return all that determines a row's measured step, as JSON."""
        options = load_method(row.method).with_defaults({})
        step = {"stage": "step", "row": row.identity(), "options": options}
        return json.dumps({**step, "work": [self.batch_size, self.dataset]}, sort_keys=True)

    def width_key(self, row: Row) -> str:
        """Return all that determines the width that is looked for, as JSON."""
        like = None if row.like is None else self.step_key(self.rows[row.like])
        return json.dumps({"stage": "width", "row": row.identity(), "like": like}, sort_keys=True)

    def trials(self, setting: str) -> Iterator[Job]:
        """Yield the trials that a setting's final runs need, each once."""
        pairs = (self.tuning(self.settings[setting], row) for row in self.rows.values())
        for tuned_in, tuned_as in dict.fromkeys(pairs):
            for options in self.rows[tuned_as].trials():
                yield Job("tune", tuned_in, tuned_as, self.tuning_seed, options)

    def finals(
        self, setting: str, chosen: Mapping[tuple[str, str], Mapping[str, Any]]
    ) -> Iterator[Job]:
        """Yield a setting's final runs, seed by seed, of the rows whose options are chosen."""
        for seed in self.seeds:
            for row in self.rows.values():
                options = chosen.get(self.tuning(self.settings[setting], row))
                if options is not None:
                    yield Job("final", setting, row.name, seed, options)


def with_new_options(key: str) -> str:
    """Return a key that was written earlier, with the options that its method has got since.

    A new option is off by default, so that what was run before it was there was run without it.
    """
    determined_by = json.loads(key)
    if "options" in determined_by:
        method = load_method(Row.method_of(determined_by["row"]))
        determined_by["options"] = method.with_defaults(determined_by["options"])
    if determined_by.get("like"):
        determined_by["like"] = with_new_options(determined_by["like"])
    return json.dumps(determined_by, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run."""

    stage: Stage
    setting: str
    row: str
    seed: int
    options: Mapping[str, Any]


def choose(
    study: Study, done: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the options of the best trial of each (setting, row) whose trials are all done.

    Args:
        study: The study.
        done: Results by the job's key.
    """
    scores: dict[tuple[str, str], list[tuple[float, Mapping[str, Any]]]] = {}
    missing = set()
    for job in (job for setting in study.settings for job in study.trials(setting)):
        pair = (job.setting, job.row)
        if study.key(job) in done:
            score = done[study.key(job)]["dev_accuracy"]
            scores.setdefault(pair, []).append((score, job.options))
        else:
            missing.add(pair)
    return {
        pair: max(trials, key=lambda trial: trial[0])[1]
        for pair, trials in scores.items()
        if pair not in missing
    }
