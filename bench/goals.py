"""The tables' floors and aims, and what was seen beside them: mean, worst shape, what lags."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence

from . import sweeps
from .rows import BASELINE, FLOPS_OF_MODE, OURS, Row, shape_text

CSR, REAL_WEIGHTS, BF16 = "torch_sparse", "sparse_op", "torch_bf16"
SIGN_BATCH_1 = "sign_batch_1"
STEP, MEMORY, FROZEN = "resnet18_step", "resnet18_memory", "frozen"
# A shape below this share of the mean has to be named.
NAMED_BELOW = 0.7
# What counts as behind a peer: more than 5 %, and more than 40 us.
LAG_SHARE, LAG_US = 0.05, 40.0
# Of a pass, from which on MKL CSR has to be met too.
LEAST_FLOPS = 1e6


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a geometric mean is to reach.

    Attributes:
        floor: At least this.
        aim: What it is for.
    """

    floor: float
    aim: float

    def verdict(self, seen: float, less: bool = False) -> str:
        """Say in a word where a figure stands; ``less``: the smaller the better."""
        sign = -1 if less else 1
        if sign * seen >= sign * self.aim:
            return "aim"
        return "floor" if sign * seen >= sign * self.floor else "BELOW"


def _goals(densities: Sequence[float], *pairs: tuple[float, float]) -> dict[float, Goal]:
    return {d: Goal(*pair) for d, pair in zip(densities, pairs, strict=True)}


_ALL, _FEW = sweeps.TABLE_DENSITIES, sweeps.FL_DENSITIES
_EQUAL = [(1.0, 1.0)] * len(sweeps.FEW_DENSITIES)
# Floors that were seen of kernels alone; layers, through autograd, are held to them too.
_LINEAR = _goals(_ALL, (1.3, 1.8), (3.1, 4.2), (5, 8), (7.4, 13), (18, 40))
_CONV = _goals(_ALL, (1.3, 1.6), (2.9, 3.8), (4.7, 7), (7, 11), (10, 20))

# By table and peer; ratios are peer / ours but for memory, which is ours / dense.
GOALS: Mapping[tuple[str, str], Mapping[float, Goal]] = {
    (sweeps.LINEAR, BASELINE): _LINEAR,
    (sweeps.LINEAR_KERNELS, BASELINE): _LINEAR,
    (sweeps.LINEAR, CSR): _goals(_ALL, (2.2, 3.2), (2.3, 3.2), (2.1, 3.2), (1.9, 3.2), (1.7, 3)),
    (sweeps.LINEAR, BF16): {},
    (sweeps.CONV, BASELINE): _CONV,
    (sweeps.CONV_KERNELS, BASELINE): _CONV,
    (sweeps.CONV, CSR): {},
    (sweeps.CONV, BF16): {},
    (sweeps.FL, BASELINE): _goals(_FEW, (1.5, 2), (1.8, 2.8), (2.2, 3.5), (3, 6)),
    (sweeps.FL, CSR): {},
    (sweeps.FL, BF16): {},
    (sweeps.SIGN, REAL_WEIGHTS): _goals(sweeps.FEW_DENSITIES, *_EQUAL),
    (sweeps.SIGN, BASELINE): {},
    (SIGN_BATCH_1, BASELINE): {0.1: Goal(15, 20)},
    (SIGN_BATCH_1, CSR): {0.1: Goal(1.5, 2)},
    (STEP, BASELINE): _goals(_FEW, (2, 3), (3, 5.5), (4, 8), (5, 12)),
    (STEP, BF16): {},
    (MEMORY, BASELINE): {0.1: Goal(0.6, 0.45), 0.01: Goal(0.5, 0.35)},
    (FROZEN, "step"): {},
    (FROZEN, "activations"): {},
}
LESS_IS_BETTER = {MEMORY}

CODEC_SIZES, CODEC_SPEED = "codec_sizes", "codec_speed"
# Of a message's length to the bits that it holds: at most this.
SIZE_AIMS: Mapping[str, float] = {
    **{"support": 1.005, "layers": 1.01, "rows": 1.05, "changes": 1.005, "additions": 1.005},
    **{"values": 1.003, "flips": 1.02, "signs": 1.02, "message": 1.01},
}
# Of supports without rANS: up to the density, and above it.
PLAIN_DENSITY, PLAIN_AIMS = 0.05, (1.02, 1.045)
# A code of fewer changes is small enough for its own parameters to count.
LEAST_CHANGES = 10_000
# Of the length of the tensors in float32, a message at density .1 in int8.
DENSE_SHARE = 0.034


@dataclasses.dataclass(frozen=True)
class SpeedGoal:
    """What a figure of the table ``codec_speed`` is to reach.

    Attributes:
        figure: Its field: ``slower`` than the yardstick (the less the better), ``faster`` than it,
            or a rate.
        floor: At least this.
        aim: What it is for.
    """

    figure: str
    floor: float
    aim: float

    def verdict(self, seen: float) -> str:
        """Say in a word where a figure stands."""
        return Goal(self.floor, self.aim).verdict(seen, less=self.figure == "slower")


# By what is done, variant, mode and density; None for all of them.
SPEED_GOALS: Mapping[tuple[str, str, str, float | None], SpeedGoal] = {
    # To a bitmap, and to the positions themselves, which is what the aim was seen of.
    ("support", "plain", "decode", 0.1): SpeedGoal("gindices_per_s", 2.2, 3.2),
    ("support", "plain", "positions", 0.1): SpeedGoal("gindices_per_s", 2.2, 3.2),
    ("support", "plain", "encode", 0.1): SpeedGoal("gindices_per_s", 1.1, 2.0),
    ("bytes", "rans", "decode", None): SpeedGoal("faster", 1.1, 1.5),
    ("bytes", "rans", "encode", None): SpeedGoal("faster", 0.75, 1.5),
    ("update", "from_dense", "encode", 0.1): SpeedGoal("slower", 2.0, 1.0),
    ("update", "", "accumulate", 0.1): SpeedGoal("slower", 0.9, 0.7),
    ("update", "", "accumulate", 0.01): SpeedGoal("slower", 0.2, 0.1),
    ("pack_signs", "", "fwd", None): SpeedGoal("faster", 0.8, 0.95),
    ("unpack_signs", "", "fwd", None): SpeedGoal("faster", 2.7, 3.0),
    ("top_k", "", "fwd", None): SpeedGoal("faster", 40, 150),
    ("majority_vote", "", "fwd", None): SpeedGoal("faster", 80, 300),
    ("weighted_mean", "", "fwd", None): SpeedGoal("faster", 12, 60),
}


def speed_goal(op: str, variant: str, mode: str, density: float) -> SpeedGoal | None:
    """Return what a row of the table ``codec_speed`` is to reach, if anything.

    Args:
        op: What is done; symbols of all kinds have the same goals.
        variant: Which way.
        mode: ``encode``, ``decode``, ``accumulate``, or ``fwd`` of a kernel.
        density: Share of kept positions.
    """
    kind = "bytes" if op.startswith("bytes_") else op
    exact = SPEED_GOALS.get((kind, variant, mode, density))
    return exact or SPEED_GOALS.get((kind, variant, mode, None))


def size_aim(op: str, density: float, rans: bool, changes: int) -> float | None:
    """Return what the ratio of a code to its bound is to stay within, if anything.

    Of ``message`` it is the ratio of the whole message, header and all.

    Args:
        op: What is sent; the part before the first underscore names its aim.
        density: Of its support.
        rans: Whether rANS was allowed.
        changes: How many positions were dropped or added.
    """
    if not rans:
        return PLAIN_AIMS[density > PLAIN_DENSITY] if op == "support" else None
    if 0 < changes < LEAST_CHANGES:
        return None
    return SIZE_AIMS.get(op.partition("_")[0])


@dataclasses.dataclass(frozen=True)
class Cell:
    """What was seen of a table at one density against one peer.

    Attributes:
        table: Its name.
        peer: The provider.
        density: Share of kept weights; for frozen layers that of the frozen parameters.
        mean: Geometric mean of the ratios over the shapes.
        worst: The least favourable ratio.
        worst_shape: Where that is.
        shapes: How many there are.
        goal: Floor and aim, if there are any.
    """

    table: str
    peer: str
    density: float
    mean: float
    worst: float
    worst_shape: str
    shapes: int
    goal: Goal | None

    @property
    def less(self) -> bool:
        """Whether smaller figures are better."""
        return self.table in LESS_IS_BETTER

    @property
    def uneven(self) -> bool:
        """Whether the worst shape is so far from the mean that it has to be named."""
        if self.less:
            return self.worst > self.mean / NAMED_BELOW
        return self.worst < NAMED_BELOW * self.mean

    @property
    def verdict(self) -> str:
        """Where the mean stands: ``aim``, ``floor``, ``BELOW``, or nothing without a goal."""
        return self.goal.verdict(self.mean, self.less) if self.goal else ""


def cells(rows: Sequence[Row]) -> Iterator[Cell]:
    """Summarise the rows, table by table."""
    ours = [row for row in rows if row["provider"] == OURS and "ratios" in row]
    threads = max((row["threads"] for row in ours), default=0)
    ours = [row for row in ours if row["threads"] == threads]
    for (table, peer), goals in GOALS.items():
        of_table = [row for row in ours if row["table"] == table and peer in row["ratios"]]
        for density in sorted({row["density"] for row in of_table}, reverse=True):
            found = [row for row in of_table if row["density"] == density]
            ratio = {id(row): row["ratios"][peer] for row in found}
            pick = max if table in LESS_IS_BETTER else min
            worst = pick(found, key=lambda row: ratio[id(row)])
            yield Cell(
                table,
                peer,
                density,
                statistics.geometric_mean(ratio.values()),
                ratio[id(worst)],
                shape_text(worst),
                len(found),
                goals.get(density),
            )


def lagging(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each point of ours that is behind by more than 5 % and 40 us.

    Behind dense torch anywhere, behind MKL CSR from ``LEAST_FLOPS`` a pass on. A row knows the
    ratios to its peers; the peer's time follows from that and ours.
    """
    for row in rows:
        if row["provider"] != OURS or row["mode"] == "memory":
            continue
        for peer, ratio in row.get("ratios", {}).items():
            behind_us = row["median_us"] * (1 - ratio)
            if not _matters(row, peer) or ratio >= 1 / (1 + LAG_SHARE) or behind_us <= LAG_US:
                continue
            where = f"{row['table']}: {row['op']} {shape_text(row)}, density {row['density']:g}"
            yield f"{where}: {ratio:.2f}x {peer}, {behind_us:,.0f} us behind"


def wrong(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each point where our result is wrong: no ratio of it is in any mean."""
    for row in rows:
        if row["provider"] == OURS and not row["correct"]:
            yield f"{row['table']}: {row['op']} {shape_text(row)}, density {row['density']:g}"


def _matters(row: Row, peer: str) -> bool:
    if peer == CSR and "gflops_per_s" in row:
        flops = row["gflops_per_s"] * row["median_us"] * 1e3
        return bool(flops >= FLOPS_OF_MODE[row["mode"]] * LEAST_FLOPS)
    return peer == BASELINE


def summary(rows: Sequence[Row]) -> str:
    """Return the tables as text: a line a density, and what lags."""
    lines = [
        f"{'table':16}{'against':14}{'density':>8}{'mean':>8}{'floor':>8}{'aim':>7}  reached  worst"
    ]
    for cell in cells(rows):
        goal = (f"{cell.goal.floor:g}", f"{cell.goal.aim:g}") if cell.goal else ("-", "-")
        named = f"  UNEVEN: under {NAMED_BELOW} of the mean" if cell.uneven else ""
        lines.append(
            f"{cell.table:16}{cell.peer:14}{cell.density:>8g}{cell.mean:>8.2f}{goal[0]:>8}"
            f"{goal[1]:>7}  {cell.verdict or '-':9}{cell.worst:.2f} {cell.worst_shape}{named}"
        )
    failed = list(wrong(rows))
    if failed:
        lines += ["", "wrong results, in no mean:", *failed]
    behind = list(lagging(rows))
    if behind:
        lines += ["", f"behind a peer by more than {LAG_SHARE:.0%} and {LAG_US:g} us:", *behind]
    return "\n".join(lines) if len(lines) > 1 else ""
