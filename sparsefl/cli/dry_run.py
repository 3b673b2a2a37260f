"""``--dry-run``: what a run would cost, layer by layer and byte by byte, without making it."""

import importlib
from collections.abc import Sequence
from typing import Any

from sparsefl.cli.report import terminal_width
from sparsefl.cli.resolve import Plan
from sparsefl.columns import align


def dry_run(plan: Plan) -> int:
    """Print bytes a round, minutes expected and the layout of each method; return status 0."""
    experiment = importlib.import_module("sparsefl.fl.experiment")
    forecast = importlib.import_module("sparsefl.fl.forecast")
    problem = experiment.load_problem(plan.setting, plan.seeds[0], plan.methods)
    forecasts = [
        forecast.forecast(
            method, plan.setting, problem, plan.seeds[0], plan.options.get(method, {})
        )
        for method in plan.methods
    ]
    width = terminal_width()
    for one in forecasts:
        print(f"{one.method}: layers of a client\n{_layers(one, width)}\n")
    print(_costs(forecasts, plan, width))
    print(_assumptions(forecasts, len(plan.seeds), forecast.WARMUP_STEPS, forecast.TIMED_STEPS))
    return 0


def _layers(one: Any, width: int) -> str:
    columns = [
        ["layer", *(layer.name for layer in one.layers)],
        ["kind", *(layer.kind for layer in one.layers)],
        ["shape", *("x".join(map(str, layer.shape)) for layer in one.layers)],
        ["density", *(f"{layer.density:.3g}" for layer in one.layers)],
        ["nnz", *(f"{layer.nnz:,}" for layer in one.layers)],
        ["computes in", *(layer.computes for layer in one.layers)],
    ]
    return "\n".join(align(columns, width))


def _costs(forecasts: Sequence[Any], plan: Plan, width: int) -> str:
    def dense(count: int, one: Any) -> str:
        return f"{count:,} ({one.dense_bytes / max(1, count):.3g}x)"

    def total(one: Any) -> int:
        each = one.rounds * one.cohort * (one.uplink_bytes + one.downlink_bytes)
        return int(each + one.clients * one.setup_bytes + one.prepare_bytes)

    size = importlib.import_module("sparsefl.fl.table").size
    columns = [
        ["method", *(one.method for one in forecasts)],
        ["up, B", *(dense(one.uplink_bytes, one) for one in forecasts)],
        ["down, B", *(dense(one.downlink_bytes, one) for one in forecasts)],
        ["set-up, B", *(f"{one.setup_bytes:,}" for one in forecasts)],
        ["before, B", *(f"{one.prepare_bytes:,}" for one in forecasts)],
        ["whole run", *(size(total(one)) for one in forecasts)],
        ["step, ms", *(f"{1000 * one.step_s:.3g}" for one in forecasts)],
        ["minutes", *(f"{one.wall_s / 60 * len(plan.seeds):.2g}" for one in forecasts)],
    ]
    if not any(one.prepare_bytes for one in forecasts):
        del columns[4]
    head = "Bytes of one client in one round (set-up: once), encoded messages (x: dense / this)"
    if any(one.prepare_bytes for one in forecasts):
        head += ";\nbefore: what all clients exchange before the first round"
    return f"{head}\n" + "\n".join(align(columns, width))


def _assumptions(forecasts: Sequence[Any], seeds: int, warmup: int, timed: int) -> str:
    first = forecasts[0]
    minutes = sum(one.wall_s for one in forecasts) * seeds / 60
    lines = [
        "",
        f"About {minutes:.2g} minutes in all: {first.rounds} rounds of {first.cohort} clients, one "
        f"after the other,",
        f"{first.local_steps:.3g} steps each on average, {seeds} seed{'s' * (seeds > 1)}, "
        f"{first.evaluations} evaluations; from {timed} steps timed on this machine",
        "as it is now; timing and memory measurements at the end come on top.",
    ]
    lines += [
        f"{one.method}: up depends on what is learnt: {one.trained_uplink_bytes:,} B after "
        f"{warmup + timed} local steps."
        for one in forecasts
        if one.trained_uplink_bytes != one.uplink_bytes
    ]
    return "\n".join(lines)
