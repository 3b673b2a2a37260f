"""``python -m sparsefl.bench.claims.fedpt_step``: FedPT's layers against ``requires_grad_(False)``.

Both sides freeze the same weights and train the same biases. Steps are timed in turns in one
process; the peak of memory is of a fresh process each, which this module is when it is run as
``python -m sparsefl.bench.claims.fedpt_step --peak MODEL LAYERS SIDE THREADS``.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence

import torch

from sparsefl.allocator import give_back
from sparsefl.bench.networks import (
    FROZEN_BATCH,
    IMAGES,
    activations,
    frozen_pair,
    seconds_of,
    train_step,
)
from sparsefl.measuring import forget_peak, resident_bytes, torch_threads
from sparsefl.timing import Effort, StepTime, paired_ratio, stopwatch

from . import claim
from .claim import Claim, Limits

CONVOLUTIONS, LINEAR, PREFIX = "convolutions", "a linear layer", "a prefix"
# What is frozen, and of which kind the claim is.
CELLS = {
    ("cnn", "conv2"): CONVOLUTIONS,
    ("cnn", "fc1"): LINEAR,
    ("cnn", "conv1,conv2,fc1"): PREFIX,
    ("vgg11", "conv5,conv7"): CONVOLUTIONS,
    ("vgg11", "conv1,conv2,conv3,conv4"): PREFIX,
}
SIDES = ("plain", "ours")
EFFORT = Effort(warmup=2, timed=15, probes=1, slow_s=float("inf"))
PEAK_STEPS, PEAKS = 3, 3
# Every block is mapped by itself, so that a peak is of what is held: glibc would else keep freed
# blocks, up to a third more, as its threads happen to meet.
HELD_ONLY = {
    **{"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    **{"MALLOC_TOP_PAD_": "0", "MALLOC_ARENA_MAX": "1"},
}
_TIMEOUT_S = 300


def goals_of(kind: str) -> dict[str, Limits]:
    """Return what a kind of frozen layers is to reach, ours / plain and plain / ours."""
    if kind == LINEAR:
        return {"peak_share": (None, 1.03), "step_factor": (0.97, None)}
    if kind == PREFIX:
        return {"step_factor": (1.0, None), "peak_share": (None, 1.0)}
    return {"peak_share": (None, 1.0)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all cells; or, with ``--peak``, be the fresh process of one."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--peak"]:
        model, layers, side, threads = given[1:]
        print(json.dumps(peak_here(model, layers, side, int(threads))))
        return 0
    cells = {
        row_of(*cell): functools.partial(claim_of, *cell, kind) for cell, kind in CELLS.items()
    }
    return claim.main("fedpt_step", cells, given)


def row_of(model: str, layers: str) -> str:
    """Name a cell."""
    return f"2 FedPT step, {model}, frozen {layers}"


def claim_of(model: str, layers: str, kind: str, command: str, effort: Effort = EFFORT) -> Claim:
    """Measure one choice of frozen layers."""
    threads = torch.get_num_threads()
    peaks = {side: peak_elsewhere(model, layers, side, threads) for side in SIDES}
    *pair, share = frozen_pair(model, layers)
    networks = dict(zip(SIDES, pair, strict=True))
    x = torch.randn(FROZEN_BATCH, *IMAGES[model])
    saved = {side: activations(own, x) for side, own in networks.items()}
    runs = {
        side: stopwatch(train_step(own, image=IMAGES[model], batch=FROZEN_BATCH))
        for side, own in networks.items()
    }
    times = seconds_of(runs, effort)
    return Claim(
        row=row_of(model, layers),
        claim="faster training and less memory with frozen layers (Sidahmed et al. 2021, arXiv "
        f"2110.03450); here against plain requires_grad_(False), {kind} frozen",
        accounting={"frozen_fraction": share},
        measured={
            "step_factor": paired_ratio(times["plain"], times["ours"]),
            "step_s": claim.seconds(StepTime.of(times["ours"])),
            "plain_step_s": claim.seconds(StepTime.of(times["plain"])),
            "peak_share": peaks["ours"] / peaks["plain"],
            "peak_bytes": peaks["ours"],
            "plain_peak_bytes": peaks["plain"],
            "activation_bytes": saved["ours"],
            "plain_activation_bytes": saved["plain"],
        },
        realised_factor=None,
        baseline={"name": "torch.nn with requires_grad_(False) on the same weights"},
        settings={
            "model": model,
            "frozen": layers,
            "frozen_fraction": share,
            "batch_size": FROZEN_BATCH,
            "optimizer": "SGD, momentum 0.9",
            "threads": threads,
            "timed_steps": effort.timed,
        },
        goals=goals_of(kind),
        command=command,
    )


def peak_elsewhere(model: str, layers: str, side: str, threads: int) -> int:
    """Return the median peak memory, bytes, of fresh processes that train over what they had."""
    command = [sys.executable, "-m", "sparsefl.bench.claims.fedpt_step", "--peak"]
    command += [model, layers, side, str(threads)]
    options = {"capture_output": True, "text": True, "timeout": _TIMEOUT_S, "check": True}
    done = [subprocess.run(command, env=os.environ | HELD_ONLY, **options) for _ in range(PEAKS)]
    return int(statistics.median(json.loads(d.stdout.splitlines()[-1]) for d in done))


def peak_here(model: str, layers: str, side: str, threads: int) -> int:
    """Train a few steps and return the peak of this process's memory over what it took before.

    That of the training: neither the other network of the pair nor the making of both is in it, nor
    are pages of files, which are libraries' code.
    """
    with torch_threads(threads):
        for network in frozen_pair(model, layers)[:2]:
            train_step(network, image=IMAGES[model], batch=2)()
        del network
        give_back()
        before = resident_bytes("RssAnon")
        chosen = frozen_pair(model, layers)[SIDES.index(side)]
        step = train_step(chosen, image=IMAGES[model], batch=FROZEN_BATCH)
        give_back()
        forget_peak()
        for _ in range(PEAK_STEPS):
            step()
    return resident_bytes("VmHWM") - resident_bytes("RssFile") - before


if __name__ == "__main__":
    sys.exit(main())
