"""What ``sparsefl bench --device cuda`` times: a device's yardsticks, kernels and linear layers.

A case gives a step of each provider, all of the same work. Steps take no arguments, allocate
through torch alone and do not wait for the device, so that a CUDA graph can hold them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsefl.nn import SignLinear, SparseLinear
from sparsefl.ops import _dispatch, _verified
from sparsefl.structure import StructureLike
from sparsefl.support import Support

Step = Callable[[], object]
Context = contextlib.nullcontext[None]
SIZE = 4096
ROWS = (16, 256, 4096)
BLOCK = 128
DENSITIES = (0.5, 0.25, 0.1, 0.05)
COPIED = 1 << 28
BASELINE = "torch_dense"


@dataclasses.dataclass(frozen=True)
class DeviceCase:
    """One point.

    Attributes:
        name: What is computed.
        shape: Sizes.
        dtype: Of the operands.
        density: Share of kept weights.
        make: Makes each provider's step on a device; a provider whose requirements are missing
            raises ImportError when it is made.
        bytes: That a copy moves; 0 where operations are what counts.
        flops: Of the dense computation; 0 where bytes are what counts.
        baseline: The provider that ratios are to.
    """

    name: str
    shape: Mapping[str, int]
    dtype: str
    density: float
    make: Mapping[str, Callable[[torch.device], Step]]
    bytes: int = 0
    flops: int = 0
    baseline: str = BASELINE


def cases(
    size: int = SIZE, batches: tuple[int, ...] = ROWS, copied: int = COPIED
) -> Iterator[DeviceCase]:
    """Yield all points.

    Args:
        size: Features of the layers and sides of the matrices, a multiple of 128.
        batches: Rows of their inputs.
        copied: Elements of float32 that the copy moves.
    """
    yield DeviceCase(
        "copy",
        {"elements": copied},
        "float32",
        1.0,
        {BASELINE: lambda d: _copy(copied, d)},
        8 * copied,
    )
    yield DeviceCase("launch", {"elements": 1}, "float32", 1.0, {BASELINE: _launch})
    for rows in batches:
        shape = {"batch": rows, "in_features": size, "out_features": size}
        flops = 2 * rows * size * size
        for dtype in ("bfloat16", "tf32"):
            dense = {BASELINE: bind(_product, rows, size, dtype)}
            yield DeviceCase("matmul", shape, dtype, 1.0, dense, flops=flops)
        for density in DENSITIES:
            yield from _products(shape, density, flops)
            yield DeviceCase(
                *("layer step", shape, "bfloat16", density),
                {
                    BASELINE: bind(_linear_step, shape, density, "dense"),
                    "torch_masked": bind(_linear_step, shape, density, "masked"),
                    "sparsefl": bind(_linear_step, shape, density, "sparse"),
                    "sparsefl_sign": bind(_linear_step, shape, density, "sign"),
                    "sparsefl_kernels": bind(_linear_step, shape, density, "sparse", forced=True),
                },
                flops=3 * flops,
            )
            for structure in ("rows", "columns"):
                lines = support_of((size, size), density, structure)
                yield DeviceCase(
                    *(f"{structure} layer step", shape, "bfloat16", density),
                    {
                        BASELINE: bind(_linear_step, shape, density, "dense"),
                        "sparsefl": bind(_linear_step, shape, density, "sparse", support=lines),
                    },
                    flops=3 * flops,
                )
            blocks = support_of((size, size), density, (BLOCK, BLOCK))
            yield DeviceCase(
                *("block layer step", shape, "bfloat16", density),
                {
                    BASELINE: bind(_linear_step, shape, density, "dense"),
                    **{
                        f"sparsefl_{kind}_kernels": bind(
                            _linear_step, shape, density, kind, forced=True, support=blocks
                        )
                        for kind in ("sparse", "sign")
                    },
                },
                flops=3 * flops,
            )


@functools.lru_cache(maxsize=16)
def support_of(
    shape: tuple[int, int], density: float, structure: StructureLike | None = None
) -> Support:
    """Return a random support; that of 4096 x 4096 takes a second, and all batches have it."""
    return Support.random(shape, density, structure=structure)


def bind(
    make: Callable[..., Step], *arguments: Any, **options: Any
) -> Callable[[torch.device], Step]:
    """Return what makes a step on a device, of all other arguments."""
    return lambda device: make(*arguments, device, **options)


@contextlib.contextmanager
def every_kernel() -> Iterator[None]:
    """Let layers that move to a device and run there first use every kernel that fits."""
    names = _verified.OVERRIDE, "SPARSEFL_LAYOUT"
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, ("all", "sparse"), strict=True))
    _dispatch.forget()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _dispatch.forget()


def _copy(elements: int, device: torch.device) -> Step:
    source = torch.zeros(elements, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _launch(device: torch.device) -> Step:
    one = torch.zeros(1, device=device)
    return lambda: one.add_(1)


def _product(rows: int, size: int, dtype: str, device: torch.device) -> Step:
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    x = torch.randn(rows, size, device=device, dtype=kind)
    weight = torch.randn(size, size, device=device, dtype=kind)

    def step() -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        return F.linear(x, weight)

    return step


def block_mask(shape: Mapping[str, int], density: float) -> Tensor:
    """Return a mask of whole blocks, ``[out_features, in_features]`` bool, drawn from a seed."""
    grid = (shape["out_features"] // BLOCK, shape["in_features"] // BLOCK)
    blocks = Support.random(grid, density).to_mask()
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def _products(shape: Mapping[str, int], density: float, flops: int) -> Iterator[DeviceCase]:
    """Yield the forward product and the weight gradient with a weight of kept blocks."""
    yield DeviceCase(
        *("block forward", shape, "bfloat16", density),
        {
            BASELINE: bind(_forward, shape, density, False),
            "torch_bsr_dense_addmm": bind(_forward, shape, density, True),
        },
        flops=flops,
    )
    yield DeviceCase(
        *("block dW", shape, "bfloat16", density),
        {
            BASELINE: bind(_weight_gradient, shape, density, "dense"),
            "torch_sampled_addmm": bind(_weight_gradient, shape, density, "bsr"),
            "sparsefl_block_dw": bind(_weight_gradient, shape, density, "block_dw"),
        },
        flops=flops,
    )


def _operands(shape: Mapping[str, int], device: torch.device) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape["batch"], shape["in_features"], device=device, dtype=torch.bfloat16)
    grad = torch.randn(shape["batch"], shape["out_features"], device=device, dtype=torch.bfloat16)
    return x, grad


def _bsr(weight: Tensor) -> Tensor:
    return weight.to_sparse_bsr((BLOCK, BLOCK))


def _triton_ops() -> Any:
    """Return torch's operators on block-sparse matrices.

    Raises:
        ImportError: where triton is missing.
    """
    importlib.import_module("triton")
    return importlib.import_module("torch.sparse._triton_ops")


def _forward(shape: Mapping[str, int], density: float, bsr: bool, device: torch.device) -> Step:
    x, grad = _operands(shape, device)
    weight = block_mask(shape, density).to(device, x.dtype)
    if not bsr:
        return lambda: F.linear(x, weight)
    ops, held = _triton_ops(), _bsr(weight)
    turned, nothing = x.t().contiguous(), torch.zeros_like(grad.t())
    return lambda: ops.bsr_dense_addmm(nothing, held, turned, beta=0)


def _weight_gradient(
    shape: Mapping[str, int], density: float, provider: str, device: torch.device
) -> Step:
    x, grad = _operands(shape, device)
    if provider == "dense":
        return lambda: grad.t() @ x
    mask = block_mask(shape, density)
    if provider == "bsr":
        ops, held = _triton_ops(), _bsr(mask.to(device, x.dtype))
        turned = grad.t().contiguous()
        return lambda: ops.sampled_addmm(held, turned, x, beta=0.0)
    kernel = importlib.import_module("sparsefl.kernels").REGISTRY["block_dw"].load()
    plans = importlib.import_module("sparsefl.kernels.block_plan")
    plan = plans.BlockPlan.from_mask(mask, (BLOCK, BLOCK), device)
    return lambda: kernel(grad, x, plan)


class Masked(nn.Linear):
    """What PyTorch users train a mask with: a dense weight, multiplied at each forward."""

    def __init__(self, mask: Tensor) -> None:
        """Take the mask, ``[out, in]`` bool."""
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ (weight * mask).T + bias``."""
        return F.linear(x, self.weight * self.mask, self.bias)


def _linear_step(
    shape: Mapping[str, int],
    density: float,
    kind: str,
    device: torch.device,
    *,
    forced: bool = False,
    support: Support | None = None,
) -> Step:
    """Return a training step of a layer; ``forced``: through every kernel that fits it."""
    support = support or support_of((shape["out_features"], shape["in_features"]), density)
    layers: dict[str, Callable[[], nn.Module]] = {
        "dense": lambda: nn.Linear(support.shape[1], support.shape[0]),
        "masked": lambda: Masked(support.to_mask()),
        "sparse": lambda: SparseLinear(*support.shape[::-1], support),
        "sign": lambda: SignLinear(*support.shape[::-1], support),
    }
    x, grad = _operands(shape, device)
    every = every_kernel if forced else Context
    with every():
        layer = layers[kind]().to(device, torch.bfloat16)
    return training_step(layer, x.requires_grad_(), grad, every)


def training_step(
    layer: nn.Module, x: Tensor, grad: Tensor, choosing: Callable[[], Context] = Context
) -> Step:
    """Return a training step of a layer by SGD with momentum.

    Args:
        layer: On the device.
        x: Its input.
        grad: Gradient of its output.
        choosing: Under what the first step runs, in which layers choose what computes them.
    """
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    with choosing():
        layer(x).backward(grad)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        layer(x).backward(grad)
        optimizer.step()

    return step
