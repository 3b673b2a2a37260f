"""Times ``GatedConvBN2d`` against the dense convolution, batch norm and ReLU it stands for.

``python -m sparsefl.bench.gated`` prints a table of the layers of VGG-11 and ResNet-32 (CIFAR
sizes): seconds of ours over dense's, for a training step (forward and backward of the layer) and
for inference. The input is that of a layer that follows another gated one of the same density.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsefl.nn import GatedConvBN2d
from sparsefl.ops import isa
from sparsefl.timing import Effort, interleave, paired_ratio, stopwatch

# Input channels, output channels, height and width of the input, stride.
LAYERS = {
    "resnet32 16-16": (16, 16, 32, 1),
    "resnet32 16-32 /2": (16, 32, 32, 2),
    "resnet32 32-32": (32, 32, 16, 1),
    "resnet32 32-64 /2": (32, 64, 16, 2),
    "resnet32 64-64": (64, 64, 8, 1),
    "vgg11 64-128": (64, 128, 16, 1),
    "vgg11 128-256": (128, 256, 8, 1),
    "vgg11 256-256": (256, 256, 8, 1),
    "vgg11 256-512": (256, 512, 4, 1),
    "vgg11 512-512": (512, 512, 4, 1),
    "vgg11 512-512 2x2": (512, 512, 2, 1),
}
DENSITIES = (0.7, 0.5)
STATS = ("active", "all")
BATCH = 64

Step = Callable[[], object]


def dense_steps(layer: GatedConvBN2d, x: Tensor, grad: Tensor, train: bool) -> Iterator[Step]:
    """Yield dense steps, in torch's default memory format and in channels_last."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parts = (copy.deepcopy(layer.conv), copy.deepcopy(layer.bn), nn.ReLU())
        model = nn.Sequential(*parts).to(memory_format=memory_format)
        yield step(model, x, grad.contiguous(memory_format=memory_format), train, memory_format)


def step(
    model: nn.Module,
    x: Tensor,
    grad: Tensor,
    train: bool,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Step:
    """Return a training step, or inference."""
    model.train(train)
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_(train)

    trained = [x, *model.parameters()] if train else []

    def run_training() -> None:
        torch.autograd.grad(model(x), trained, grad)

    def run_inference() -> None:
        with torch.no_grad():
            model(x)

    return run_training if train else run_inference


def gated_input(channels: int, size: int, density: float) -> tuple[Tensor, GatedConvBN2d]:
    """Return an output of a gated layer, and that layer."""
    before = GatedConvBN2d(nn.Conv2d(4, channels, 1), nn.BatchNorm2d(channels), density)
    with torch.no_grad():
        return before(torch.randn(BATCH, 4, size, size)), before


def measure(name: str, effort: Effort, train: bool) -> dict[tuple[str, float], float]:
    """Return seconds of ours over those of the faster dense, by statistics and density."""
    channels, out, size, stride = LAYERS[name]
    steps: dict[Any, Step] = {}
    for stats, density in product(STATS, DENSITIES):
        conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        x, before = gated_input(channels, size, density)
        layer = GatedConvBN2d(conv, nn.BatchNorm2d(out), density, stats, previous=before)
        grad = torch.randn(BATCH, out, size // stride, size // stride)
        steps[stats, density] = step(layer, x, grad, train)
    steps |= dict(enumerate(dense_steps(layer, x, grad, train)))
    measured = interleave({key: stopwatch(run) for key, run in steps.items()}, effort)
    dense_s = min((measured.pop(0)[-1], measured.pop(1)[-1]), key=np.median)
    return {key: 1 / paired_ratio(dense_s, ours[-1]) for key, ours in measured.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="*", default=list(LAYERS), choices=LAYERS, metavar="NAME")
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    effort = Effort(warmup=2, timed=arguments.timed, probes=2, slow_s=10.0)
    columns = [(s, d, t) for s, d in product(STATS, DENSITIES) for t in (True, False)]
    print(f"isa {isa()}, torch {torch.__version__}, {os.cpu_count()} cores; ours / dense")
    heads = (f"{s} {d} {'step' if t else 'inference'}" for s, d, t in columns)
    print("| layer | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * len(columns))
    for name in arguments.layers:
        ratios = {t: measure(name, effort, t) for t in (True, False)}
        cells = (f"{ratios[t][s, d]:.2f}" for s, d, t in columns)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
