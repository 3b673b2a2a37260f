"""One line of evidence: a claim, what its own formula gives, and what was measured here.

A script of this package measures the claims of one row of the table of claims and writes them into
the JSON file of its name; :mod:`.page` makes an appendix of such files.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sparsefl.bench.markdown import markdown
from sparsefl.fl.table import size
from sparsefl.report import commit, machine
from sparsefl.timing import StepTime

HERE = pathlib.Path(__file__).parent

# Of numbers or, for a time, "median_s", "lower_quartile_s" and "upper_quartile_s"; the last word
# of a name is its unit.
Quantities: TypeAlias = Mapping[str, Any]
# Least and most that a measured quantity may be; None is no limit.
Limits: TypeAlias = tuple[float | None, float | None]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, what its own accounting gives, and what was measured.

    The names of quantities end in their unit: ``_bytes``, ``_bits``, ``_s``, ``_flops``, ``_mb``
    (10^6 bytes), or ``_factor``, which is dense / ours: times less than dense.

    Attributes:
        row: Number of the row in the table of claims, and a short name: "8 masks, density 0.1".
        claim: The sentence that is judged, and its source.
        accounting: What the source's own formula gives here.
        measured: What was measured.
        realised_factor: Measured factor / claimed factor; ``None`` where no factor is claimed.
        baseline: What it is compared with.
        settings: Everything that determines the measurement.
        command: How to repeat it.
        goals: Least and most of measured quantities, by name: what decides whether it holds.
        commit: Of the measured code.
        machine: That measured.
    """

    row: str
    claim: str
    accounting: Quantities
    measured: Quantities
    realised_factor: float | None
    baseline: Mapping[str, Any]
    settings: Mapping[str, Any]
    command: str
    goals: Mapping[str, Limits] = dataclasses.field(default_factory=dict)
    commit: str = dataclasses.field(default_factory=commit)
    machine: Mapping[str, Any] = dataclasses.field(default_factory=machine)

    def __post_init__(self) -> None:
        """Raises: ValueError: if a goal is of nothing that was measured."""
        if odd := sorted(set(self.goals) - set(self.measured)):
            raise ValueError(
                f"{self.row}: goals must be of measured quantities "
                f"({', '.join(self.measured)}), got {', '.join(odd)}"
            )

    @property
    def missed(self) -> tuple[str, ...]:
        """The goals that were not reached, as text."""
        return tuple(
            f"{show(name, self.measured[name])} instead of {_limits(name, limits)}"
            for name, limits in self.goals.items()
            if not _within(self.measured[name], limits)
        )

    @property
    def verdict(self) -> str:
        """Whether it reproduced, as text; "measured" where there is no goal."""
        if not self.goals:
            return "measured"
        return f"**not reproduced**: {'; '.join(self.missed)}" if self.missed else "reproduced"


def _within(value: float | None, limits: Limits) -> bool:
    """Tell whether a value reaches its goal; what was never reached, ``None``, does not."""
    if value is None:
        return False
    least, most = limits
    return (least is None or value >= least) and (most is None or value <= most)


def _limits(name: str, limits: Limits) -> str:
    least, most = limits
    texts = [
        f"{word} {_number(name, limit)}"
        for word, limit in (("at least", least), ("at most", most))
        if limit is not None
    ]
    return " and ".join(texts)


def show(name: str, value: Any) -> str:
    """Format a quantity with its name: ``("uplink_bytes", 2.5e6)`` is "uplink 2.5 MB"."""
    words, _, unit = name.rpartition("_")
    plain = words if words and unit in _UNITS else name
    return f"{plain.replace('_', ' ')} {_number(name, value)}"


def _number(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and "median_s" not in value:
        return f"({listed(value)})"
    if isinstance(value, Mapping):
        median, lower, upper = (
            value[f"{part}_s"] for part in ("median", "lower_quartile", "upper_quartile")
        )
        return f"{1e3 * median:.4g} ms ({1e3 * lower:.4g} to {1e3 * upper:.4g})"
    if value is None or isinstance(value, str | bool | list | tuple):
        return str(value)
    form = _UNITS.get(name.rpartition("_")[2])
    if form is not None:
        return form(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


_UNITS: Mapping[str, Callable[[float], str]] = {
    "bytes": size,
    "mb": lambda value: f"{value:.4g} MB",
    "bits": lambda value: f"{value:.4g} bits",
    "s": lambda value: f"{1e3 * value:.4g} ms",
    "flops": lambda value: f"{value / 1e9:.4g} GFLOP",
    "factor": lambda value: f"{value:.4g}x",
}


def listed(quantities: Quantities) -> str:
    """Format quantities in one line."""
    return "; ".join(show(name, value) for name, value in quantities.items()) or "-"


def seconds(step: StepTime) -> dict[str, float]:
    """Return a time as a quantity."""
    return dataclasses.asdict(step)


def write(path: pathlib.Path, claims: Sequence[Claim]) -> None:
    """Write claims as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(c) for c in claims], indent=1) + "\n")


def read(path: pathlib.Path) -> list[Claim]:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: if the file is no list of claims; the message names it.
    """
    try:
        return [Claim(**{**held, "goals": _goals(held)}) for held in json.loads(path.read_text())]
    except (TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no list of claims: {error}") from error


def _goals(held: Mapping[str, Any]) -> dict[str, Limits]:
    return {name: (limits[0], limits[1]) for name, limits in held.get("goals", {}).items()}


HEAD = ("row", "accounting", "measured", "realised", "verdict")
TEXTS = ("accounting", "measured", "verdict")


def table(claims: Sequence[Claim]) -> str:
    """Format claims, a line each, as markdown."""
    return markdown(
        HEAD,
        ([c.row, listed(c.accounting), listed(c.measured), realised(c), c.verdict] for c in claims),
        TEXTS,
    )


def realised(claim: Claim) -> str:
    """Format the realised factor."""
    return "-" if claim.realised_factor is None else f"{claim.realised_factor:.3g}"


def measure_some(
    rows: Mapping[str, Callable[[str], Claim]], pattern: str, path: pathlib.Path, command: str
) -> list[Claim]:
    """Measure the rows whose name matches; of the others return what a file holds already."""
    held = {own.row: own for own in read(path)} if path.exists() else {}
    found = {
        row: measure_row(command) if fnmatch.fnmatchcase(row, pattern) else held.get(row)
        for row, measure_row in rows.items()
    }
    return [own for own in found.values() if own is not None]


def main(
    name: str,
    measure: Callable[[str], Sequence[Claim]] | Mapping[str, Callable[[str], Claim]],
    argv: Sequence[str] | None = None,
) -> int:
    """Be the command line of a script: measure, write, print.

    Args:
        name: Of the script's module.
        measure: Takes the command for the claims, and makes them; or such a function of one claim
            by the name of its row, so that some can be measured again and the others kept.
        argv: Its arguments.
    """
    module = f"sparsefl.bench.claims.{name}"
    command = f"python -m {module}"
    parser = argparse.ArgumentParser(prog=command)
    parser.add_argument("--json", type=pathlib.Path, default=HERE / f"{name}.json")
    if isinstance(measure, Mapping):
        parser.add_argument("--only", default="*", metavar="PATTERN", help="rows measured again")
    args = parser.parse_args(argv)
    if isinstance(measure, Mapping):
        claims = measure_some(measure, args.only, args.json, command)
    else:
        claims = list(measure(command))
    write(args.json, claims)
    print(table(claims), end="")
    if any(c.commit.endswith("-dirty") for c in claims):
        print("measured on a changed tree: commit, and measure again", file=sys.stderr)
    return 0
