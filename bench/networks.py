"""Whole networks: ResNet-18's training step and its peak memory, FedPT's frozen layers.

Run as a module it is the fresh process of one cell of the memory table:
``python -m sparsefl.bench.networks DENSITY THREADS``, density 1 for plain torch.nn.
"""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from sparsefl import models, pruning
from sparsefl.fl.methods import fedpt
from sparsefl.measuring import forget_peak, resident_bytes, saved_bytes, torch_threads
from sparsefl.nn import sparsify
from sparsefl.timing import Effort, Run, Samples, interleave, paired_ratio, stopwatch

from .goals import BF16, FROZEN, MEMORY, STEP
from .rows import BASELINE, OURS, Row
from .sweeps import FL_DENSITIES

BATCH = 64
IMAGE, CLASSES = (3, 32, 32), 10
LR, MOMENTUM = 0.05, 0.9
# A dense step takes 1.5 s on two cores.
STEP_EFFORT = Effort(warmup=1, timed=5, probes=1, slow_s=np.inf)
FROZEN_EFFORT = Effort(warmup=2, timed=10, probes=1, slow_s=np.inf)
MEMORY_DENSITIES = (0.1, 0.01)
MEMORY_STEPS = 3
# What is frozen of which network, the smaller share first. In the CNN every layer's input is kept
# by a ReLU before it whoever is frozen; nothing but VGG's convolutions keeps what a pool gives.
FROZEN_LAYERS = {
    "cnn": ("conv2", "fc1", "conv2,fc1"),
    "vgg11": ("conv2,conv3", "conv5,conv7", "conv2,conv3,conv5,conv7"),
}
IMAGES = {"cnn": (1, 28, 28), "vgg11": IMAGE}
FROZEN_BATCH = 32
_TIMEOUT_S = 300

Measure = Callable[[Row], list[Row]]


def resnet18(density: float) -> nn.Module:
    """Return ResNet-18 with random masks of the density; plain torch.nn at density 1."""
    torch.manual_seed(0)
    dense = models.build("resnet18", IMAGE, CLASSES)
    return dense if density == 1 else sparsify(dense, pruning.random(dense, density))


def train_step(
    model: nn.Module,
    *,
    image: tuple[int, ...] = IMAGE,
    batch: int = BATCH,
    channels_last: bool = False,
    autocast: bool = False,
) -> Callable[[], None]:
    """Return a training step on one random batch, SGD with momentum included."""
    torch.manual_seed(1)
    x, labels = torch.randn(batch, *image), torch.randint(CLASSES, (batch,))
    if channels_last:
        model, x = (
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for part in (model, x)
        )
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=MOMENTUM)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return step


def step_rows(described: Row) -> list[Row]:
    """Time ResNet-18's training step: dense in three ways, and sparse at each density."""
    dense = functools.partial(resnet18, 1.0)
    steps: dict[tuple[str, str, float], Callable[[], None]] = {
        (BASELINE, "nchw", 1.0): train_step(dense()),
        (BASELINE, "channels_last", 1.0): train_step(dense(), channels_last=True),
        (BF16, "channels_last", 1.0): train_step(dense(), channels_last=True, autocast=True),
    }
    for density in FL_DENSITIES:
        steps[OURS, "batch_last", density] = train_step(resnet18(density))
    times = seconds_of({key: stopwatch(step) for key, step in steps.items()}, STEP_EFFORT)
    plain = min((key for key in times if key[0] == BASELINE), key=lambda key: median(times[key]))
    peers = {BASELINE: times[plain], BF16: times[BF16, "channels_last", 1.0]}
    rows = []
    for (provider, variant, density), taken in times.items():
        row = network_row(STEP, "resnet18", BATCH, density, provider, variant, described)
        rows.append({**row, **time_figures(taken, peers, provider)})
    return rows


def memory_rows(described: Row) -> list[Row]:
    """Measure the peak memory of ResNet-18's training step, one fresh process a cell."""
    threads = torch.get_num_threads()
    peaks = {density: peak_elsewhere(density, threads) for density in (1.0, *MEMORY_DENSITIES)}
    rows = []
    for density, peak in peaks.items():
        provider = BASELINE if density == 1 else OURS
        row = network_row(MEMORY, "resnet18", BATCH, density, provider, "fresh", described)
        share = round(peak / peaks[1.0], 3)
        rows.append({**row, "mode": "memory", "peak_bytes": peak, "ratios": {BASELINE: share}})
    return rows


def peak_elsewhere(density: float, threads: int) -> int:
    """Return the peak memory of a fresh process that trains, without its imports, bytes."""
    command = [sys.executable, "-m", "sparsefl.bench.networks", str(density), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def peak_here(density: float, threads: int) -> int:
    """Train a few steps and return the peak of this process's memory over what imports took."""
    with torch_threads(threads):
        tiny = models.build("lenet", (1, 28, 28), CLASSES)
        train_step(tiny, image=(1, 28, 28), batch=2)()
        forget_peak()
        before = resident_bytes("VmRSS")
        step = train_step(resnet18(density))
        for _ in range(MEMORY_STEPS):
            step()
    return resident_bytes("VmHWM") - before


def frozen_rows(described: Row) -> list[Row]:
    """Compare FedPT's frozen layers with plain ``requires_grad_(False)``: time and activations."""
    rows = []
    for name, choices in FROZEN_LAYERS.items():
        for layers in choices:
            rows += frozen_point(name, layers, described)
    return rows


def frozen_point(name: str, layers: str, described: Row) -> list[Row]:
    """Compare one choice of frozen layers."""
    plain, ours, share = frozen_pair(name, layers)
    forms = {BASELINE: plain, OURS: ours}
    x = torch.randn(FROZEN_BATCH, *IMAGES[name])
    saved = {provider: activations(model, x) for provider, model in forms.items()}
    steps = {
        provider: stopwatch(train_step(model, image=IMAGES[name], batch=FROZEN_BATCH))
        for provider, model in forms.items()
    }
    times = seconds_of(steps, FROZEN_EFFORT)
    rows = []
    for provider, taken in times.items():
        op = f"{name}, frozen {layers}"
        row = network_row(FROZEN, op, FROZEN_BATCH, share, provider, "sgd", described)
        row |= time_figures(taken, {BASELINE: times[BASELINE]}, provider)
        row["activation_bytes"] = saved[provider]
        row["ratios"] = {
            "step": row["ratio_to_dense"],
            "activations": round(saved[BASELINE] / max(saved[provider], 1), 3),
        }
        rows.append(row)
    return rows


def frozen_pair(name: str, layers: str) -> tuple[nn.Module, nn.Module, float]:
    """Return a network with layers frozen, plainly and by FedPT, and the share they hold."""
    torch.manual_seed(0)
    plain = models.build(name, IMAGES[name], CLASSES)
    weights = tuple(f"{layer}.weight" for layer in layers.split(","))
    ours = fedpt.freeze(copy.deepcopy(plain), weights, seed=0)
    total = sum(p.numel() for p in plain.parameters())
    frozen = [plain.get_parameter(weight).requires_grad_(False) for weight in weights]
    return plain, ours, round(sum(p.numel() for p in frozen) / total, 4)


def activations(model: nn.Module, x: torch.Tensor) -> int:
    """Count the bytes that a forward pass saves for backward."""
    known = [*model.parameters(), *model.buffers(), x]
    return saved_bytes(lambda: model(x).square().sum(), known)


def seconds_of(runs: Mapping[tuple[str, ...] | str, Run], effort: Effort) -> dict[object, Samples]:
    """Time runs in turns, ``[timed]`` seconds each."""
    return {key: taken[-1] for key, taken in interleave(runs, effort).items()}


def median(seconds: Samples) -> float:
    """Return the median of what was measured."""
    return float(np.nanmedian(seconds))


def network_row(
    table: str, op: str, batch: int, density: float, provider: str, variant: str, described: Row
) -> Row:
    """Return the part of a row that is known before it is measured."""
    return {
        **{"table": table, "op": op, "shape": {"batch": batch}, "density": density},
        **{"provider": provider, "variant": variant, "mode": "full", "correct": True},
        **{"dtype": "float32", "threads": torch.get_num_threads(), **described},
    }


def time_figures(seconds: Samples, peers: Mapping[str, Samples], provider: str) -> Row:
    """Return the times of a row and its ratios to the peers."""
    low, middle, high = (1e6 * float(np.nanquantile(seconds, q)) for q in (0.2, 0.5, 0.8))
    return {
        **{"median_us": round(middle, 1), "p20_us": round(low, 1), "p80_us": round(high, 1)},
        "timed_steps": int(np.isfinite(seconds).sum()),
        "ratio_to_dense": round(paired_ratio(peers[BASELINE], seconds), 3),
        "ratios": {
            peer: round(paired_ratio(taken, seconds), 3)
            for peer, taken in peers.items()
            if peer != provider
        },
    }


TABLES: Mapping[str, Measure] = {STEP: step_rows, MEMORY: memory_rows, FROZEN: frozen_rows}


def measure(tables: Sequence[str], described: Row) -> Iterator[list[Row]]:
    """Measure the named tables of networks on all threads."""
    for name in tables:
        if name in TABLES:
            yield TABLES[name](described)


if __name__ == "__main__":
    print(json.dumps(peak_here(float(sys.argv[1]), int(sys.argv[2]))))
