"""What ``sparsefl bench --device cuda`` times of convolutions: ResNet-18's layers, and ResNet-18.

Images are channels_last. As in :mod:`sparsefl.bench.device_cases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsefl.models import resnet18
from sparsefl.nn import SignConv2d, SparseConv2d, sparsify
from sparsefl.structure import StructureLike
from sparsefl.support import Support

from .device_cases import BASELINE, Context, DeviceCase, Step, bind, every_kernel, training_step

DENSITIES = (0.25, 0.1)
# Channels of ResNet-18's stages, and pixels of a side where images are 32 x 32.
STAGES = ((64, 32), (128, 16), (256, 8), (512, 4))
# Of channels: larger ones leave its first stage none to prune.
BLOCKS = {16: (16, 16), 32: (32, 32)}


def network_cases(
    batch: int = 128, width: float = 1.0, stages: tuple[tuple[int, int], ...] = STAGES
) -> Iterator[DeviceCase]:
    """Yield training steps of ResNet-18 at 32 x 32 and of its 3x3 convolutions, in bfloat16.

    Args:
        batch: Images.
        width: Factor of the network's channels.
        stages: Channels and side of an image of each convolution.
    """
    for channels, side in stages:
        shape = {"batch": batch, "channels": channels, "height": side, "width": side}
        flops = 3 * 2 * batch * side * side * 9 * channels * channels
        for density in DENSITIES:
            steps = {BASELINE: bind(_conv_step, shape, density, "dense", None)}
            for block, structure in BLOCKS.items():
                for kind in ("sparse", "sign"):
                    steps[f"sparsefl_{kind}_kernels_{block}"] = bind(
                        _conv_step, shape, density, kind, structure
                    )
            yield DeviceCase("block conv step", shape, "bfloat16", density, steps, flops=flops)
    for density in DENSITIES:
        steps = {
            BASELINE: bind(_network_step, batch, density, width, None),
            "sparsefl": bind(_network_step, batch, density, width, "unstructured"),
            "sparsefl_columns": bind(_network_step, batch, density, width, "columns:16"),
            **{
                f"sparsefl_kernels_{block}": bind(
                    _network_step, batch, density, width, structure, forced=True
                )
                for block, structure in BLOCKS.items()
            },
        }
        yield DeviceCase("resnet18 step", {"batch": batch}, "bfloat16", density, steps)


def _conv_step(
    shape: Mapping[str, int],
    density: float,
    kind: str,
    structure: StructureLike | None,
    device: torch.device,
) -> Step:
    """Return a training step of a 3x3 convolution; a sparse one's through every kernel."""
    batch, channels, height, width = shape.values()
    size = (batch, channels, height, width)
    layer: nn.Module
    if kind == "dense":
        layer = nn.Conv2d(channels, channels, 3, padding=1)
    else:
        support = Support.random((channels, channels, 3, 3), density, structure=structure)
        of = SparseConv2d if kind == "sparse" else SignConv2d
        layer = of(channels, channels, 3, support, padding=1)
    forced = Context if kind == "dense" else every_kernel
    with forced():
        layer = layer.to(device, torch.bfloat16, memory_format=torch.channels_last)
    x, grad = (_images(size, device).to(torch.bfloat16) for _ in range(2))
    return training_step(layer, x.requires_grad_(), grad, forced)


def _images(size: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(size, device=device).to(memory_format=torch.channels_last)


def network(density: float, width: float, structure: StructureLike | None) -> nn.Module:
    """Return ResNet-18 with a random mask of that density on each convolution."""
    model = resnet18(width=width)
    masks = {
        f"{name}.weight": Support.random(tuple(module.weight.shape), density, structure=structure)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    return sparsify(model, masks)


def _network_step(
    batch: int,
    density: float,
    width: float,
    structure: StructureLike | None,
    device: torch.device,
    *,
    forced: bool = False,
) -> Step:
    """Return a training step under autocast; dense where there is no structure."""
    model = resnet18(width=width) if structure is None else network(density, width, structure)
    x = _images((batch, 3, 32, 32), device)
    labels = torch.arange(batch, device=device) % 10

    def differentiate() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()

    with every_kernel() if forced else Context():
        model = model.to(device, memory_format=torch.channels_last)
        differentiate()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        differentiate()
        optimizer.step()

    return step
