"""``sparsefl bench --device cuda``: times on a CUDA device, and a JSON file of them.

A step is captured in a CUDA graph where it can be, else run as it is, and timed by CUDA events, in
turns with the others of its case; before each, a buffer larger than the second-level cache is
written. A case whose providers need what is missing says so and is left out.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from sparsefl import report, timing
from sparsefl.ops import _verified
from sparsefl.timing import Effort, Samples

from .device_cases import DeviceCase, Step, cases
from .device_networks import network_cases
from .device_packing import packing_cases

Row = dict[str, Any]
EFFORT = Effort(warmup=5, timed=50, probes=1, short_s=0.0)
# Repetitions within a graph of the launch case: what is timed is a share of it.
LAUNCHES = 100
# Bytes that are written between timed steps: an H200's second-level cache holds 60 MB.
FLUSHED = 1 << 28
WARM = 3


class NoDeviceError(RuntimeError):
    """There is no CUDA device."""


def find_device() -> torch.device:
    """Return the CUDA device.

    Raises:
        NoDeviceError: if there is none, saying whether torch or the machine lacks it.
    """
    if not torch.backends.cuda.is_built():
        raise NoDeviceError(
            f"--device cuda: this torch ({torch.__version__}) is built without CUDA"
        )
    if not torch.cuda.is_available():
        raise NoDeviceError("--device cuda: torch finds no CUDA device on this machine")
    return torch.device("cuda", torch.cuda.current_device())


def run(json_file: pathlib.Path | None, seconds: float | None, *, quick: bool) -> None:
    """Time all cases, print a line for each provider, and write the rows as they come.

    Args:
        json_file: Where they are written, with the device and the commit; None: nowhere.
        seconds: No case is begun after this time; None: all are.
        quick: Whether few rounds are timed: a smoke test.

    Raises:
        NoDeviceError: if there is no CUDA device.
    """
    device = find_device()
    described, found = context(device), []
    print(*(f"{key}: {value}" for key, value in described.items()), sep="\n")
    began = time.monotonic()
    effort = Effort(warmup=1, timed=5, probes=1, short_s=0.0) if quick else EFFORT
    # First what takes little to prepare: large linear layers' plans take seconds each.
    for case in itertools.chain(packing_cases(), network_cases(), cases()):
        if seconds is not None and time.monotonic() - began > seconds:
            print("the time is over: the cases that are left were not timed")
            break
        for row in measure(case, device, effort):
            print(line(row), flush=True)
            found.append(row)
        if json_file is not None:
            write(described, found, json_file)


def measure(case: DeviceCase, device: torch.device, effort: Effort) -> Iterator[Row]:
    """Yield a row for each provider of a case; one that cannot run has the reason in it."""
    runs: dict[str, timing.Run] = {}
    rows: dict[str, Row] = {}
    flushed = torch.empty(FLUSHED, dtype=torch.uint8, device=device)
    for provider, make in case.make.items():
        rows[provider] = _row(case, provider)
        try:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            repeated = LAUNCHES if case.name == "launch" else 1
            runs[provider], how = timed(make(device), repeated, flushed)
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device) - before
            rows[provider].update(timing=how, peak_bytes=peak)
        except (ImportError, NotImplementedError, RuntimeError, AssertionError) as error:
            rows[provider]["missing"] = f"{type(error).__name__}: {error}".partition("\n")[0]
    samples = timing.interleave(runs, effort) if runs else {}
    baseline = samples.get(case.baseline)
    for provider, row in rows.items():
        if provider in samples:
            row.update(figures(case, samples[provider][-1], baseline))
        yield row
    runs.clear()
    torch.cuda.empty_cache()


def _row(case: DeviceCase, provider: str) -> Row:
    return {
        "case": case.name,
        "shape": dict(case.shape),
        "dtype": case.dtype,
        "density": case.density,
        "provider": provider,
    }


def timed(step: Step, repeated: int, flushed: torch.Tensor) -> tuple[timing.Run, str]:
    """Return what runs a step and gives its seconds, and how it runs.

    Args:
        step: The step.
        repeated: Runs of it that are timed together.
        flushed: A buffer that is written before.
    """
    graph = _captured(step, repeated)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run() -> tuple[float, ...]:
        flushed.zero_()
        begin.record()
        if graph is None:
            for _ in range(repeated):
                step()
        else:
            graph.replay()
        end.record()
        end.synchronize()
        return (begin.elapsed_time(end) / 1e3 / repeated,)

    return run, "events" if graph is None else "graph"


def _captured(step: Step, repeated: int) -> torch.cuda.CUDAGraph | None:
    """Return a graph of the step, or None where it cannot be captured; run it first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with contextlib.suppress(RuntimeError):
        with torch.cuda.graph(graph):
            for _ in range(repeated):
                step()
        return graph
    torch.cuda.synchronize()
    return None


def figures(case: DeviceCase, seconds: Samples, baseline: Samples | None) -> Row:
    """Return the figures of a row: times, throughput, and the ratio to the baseline, paired."""
    lower, median, upper = np.nanquantile(seconds, (0.2, 0.5, 0.8))
    found = {
        "median_us": round(1e6 * median, 2),
        "p20_us": round(1e6 * lower, 2),
        "p80_us": round(1e6 * upper, 2),
    }
    if case.bytes:
        found["gb_per_s"] = round(case.bytes / median / 1e9, 1)
    if case.flops:
        found["dense_tflops"] = round(case.flops / median / 1e12, 1)
    if baseline is not None:
        found["ratio"] = round(timing.paired_ratio(baseline[-1], seconds), 3)
    return found


def line(row: Row) -> str:
    """Format a row for reading."""
    sizes = ", ".join(f"{name} {size}" for name, size in row["shape"].items())
    head = f"{row['case']:14}{sizes:52}{row['dtype']:9} density {row['density']:<5}"
    head += f" {row['provider']:22}"
    if "median_us" not in row:
        return f"{head} not timed: {row['missing']}"
    speed = "".join(f"  {row[k]:,} {k}" for k in ("gb_per_s", "dense_tflops") if k in row)
    ratio = f"  {row['ratio']:.2f}x" if "ratio" in row else ""
    return f"{head} {row['median_us']:11,.1f} us ({row['timing']}){speed}{ratio}"


def context(device: torch.device) -> Row:
    """Describe what the rows are measured on and with."""
    versions = {}
    for name in ("torch", "triton", "sparsefl"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {
        "device": torch.cuda.get_device_name(device),
        "architecture": _verified.architecture(device),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "cuda": torch.version.cuda,
        **versions,
        "commit": report.commit(),
        "date": now,
    }


def write(described: Mapping[str, Any], rows: list[Row], path: pathlib.Path) -> None:
    """Write what was measured, and on what, a row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = ",\n".join(map(json.dumps, rows))
    path.write_text(f'{{"run": {json.dumps(dict(described))},\n"rows": [\n{body}\n]}}\n')
