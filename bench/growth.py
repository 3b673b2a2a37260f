"""Memory of the growth step: the largest gradients of pruned weights beside the dense gradient.

``python -m sparsefl.bench.growth`` prints a list of JSON objects, one a cell, each measured in a
fresh process: ResNet-18's forward and backward pass, then what the search for the gradients adds to
its peak. ``dense`` is what a mask of zeros has to do: dense gradients, of which a top-k is taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsefl import models
from sparsefl.measuring import forget_peak, resident_bytes
from sparsefl.nn import sparsify
from sparsefl.pruning import growth_counts, random, watch_growth
from sparsefl.support import Support

from .networks import BATCH, CLASSES, IMAGE

PROVIDERS = ("step", "growth", "dense")
DENSITIES = (0.1, 0.01)
# The weights that are watched: those of the last block, and all but the output layer's.
SCOPES = {"block": "stage4", "entire": ""}
# As FedTiny's first adjustment.
RATE = 0.3
THREADS = 2
# Steps before the measured one, whose memory it uses again.
_WARMUP = 2
_TIMEOUT_S = 300


def cells() -> list[dict[str, object]]:
    """Measure every cell in a process of its own."""
    found = []
    for density in DENSITIES:
        for scope in SCOPES:
            for provider in PROVIDERS:
                command = [
                    sys.executable,
                    "-m",
                    "sparsefl.bench.growth",
                    provider,
                    str(density),
                    scope,
                ]
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
                )
                found.append(json.loads(done.stdout))
    return found


def cell(provider: str, density: float, scope: str) -> dict[str, object]:
    """Return what one more step adds to the peak of this process.

    Args:
        provider: "step" for forward and backward alone, "growth" for a watched one, "dense" for a
            dense one and the top of its gradients, whose memory the steps before have left: of this
            one the peak tells more than what is added.
        density: Of the masks, drawn at random.
        scope: Which weights are watched, a key of ``SCOPES``.
    """
    torch.manual_seed(0)
    model = models.build("resnet18", IMAGE, CLASSES)
    supports = {name: Support.from_mask(m) for name, m in random(model, density).items()}
    supports.pop("fc.weight")
    watched = {n: s for n, s in supports.items() if n.startswith(SCOPES[scope])}
    counts = growth_counts(watched, RATE)
    if provider != "dense":
        model = sparsify(model, {name: s.to_mask() for name, s in supports.items()})
    pruned = {name: ~s.to_mask() for name, s in watched.items()} if provider == "dense" else {}
    x, labels = torch.randn(BATCH, *IMAGE), torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        nn.functional.cross_entropy(model(x), labels).backward()

    for _ in range(_WARMUP):
        step()
        model.zero_grad(set_to_none=True)
    forget_peak()
    before = resident_bytes("VmRSS")
    _run(provider, model, step, counts, pruned)
    peak = resident_bytes("VmHWM")
    return {
        "network": "resnet18",
        "provider": provider,
        "density": density,
        "scope": scope,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "watched_weights": sum(s.numel for s in watched.values()),
        "gradients": sum(counts.values()),
        "peak_bytes": peak,
        "added_bytes": peak - before,
    }


def _run(
    provider: str,
    model: nn.Module,
    step: Callable[[], None],
    counts: dict[str, int],
    pruned: dict[str, Tensor],
) -> None:
    if provider == "growth":
        with watch_growth(model, counts):
            step()
        return
    step()
    for name, mask in pruned.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        scores = (gradient.abs() * mask).flatten()
        gradient.flatten()[scores.topk(counts[name]).indices]


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    if len(sys.argv) == 4:
        print(json.dumps(cell(sys.argv[1], float(sys.argv[2]), sys.argv[3])))
    else:
        print(json.dumps(cells(), indent=1))
