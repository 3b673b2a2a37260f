"""The registry: what is timed, on which sizes, against which baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F

from sparsefl import ops
from sparsefl.support import Support

from . import baselines
from .problem import Conv, Problem, Shape, Step, autograd_step

DENSITIES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
# The sign ops run the loops of the sparse ones: fewer points show the same curve.
FEW_DENSITIES = (0.01, 0.1, 0.5)
# Constant magnitude of the sign ops, as signed-constant initialisation of a layer this size gives.
MAGNITUDE = 0.05

Providers = Mapping[str, Mapping[str, Callable[[Problem], Step | None]]]


@dataclasses.dataclass(frozen=True)
class Point:
    """One cell of a sweep.

    Attributes:
        shape: Named sizes.
        density: Share of kept weights.
        floor: The least accepted ratio to dense torch of a full step on two threads, if any.
        quick: Whether it is small enough for ``--quick``, which the tests run.
    """

    shape: Shape
    density: float
    floor: float | None = None
    quick: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """An op, how its tensors are made, who computes it, and on which points.

    Attributes:
        op: Name of the op in ``sparsefl.ops``.
        setup: Makes the tensors of an op and a point; the seed is fixed.
        providers: For each provider its variants, each a function that prepares a step, or gives
            None where it does not apply. Dense torch is judged by its fastest variant.
        sweep: The points.
    """

    op: str
    setup: Callable[[str, Point], Problem]
    providers: Providers
    sweep: tuple[Point, ...]

    def variants(self) -> Iterator[tuple[str, str, Callable[[Problem], Step | None]]]:
        """Yield provider, variant and what prepares it."""
        for provider, variants in self.providers.items():
            for variant, prepare in variants.items():
                yield provider, variant, prepare


def linear_problem(op: str, point: Point) -> Problem:
    """Make the row-major tensors of a linear layer."""
    batch, columns, rows = (point.shape[k] for k in ("batch", "in_features", "out_features"))
    generator = torch.Generator().manual_seed(0)
    support = Support.random((rows, columns), point.density, seed=0)
    return Problem(
        op=op,
        x=torch.randn(batch, columns, generator=generator),
        weight=masked_weight(support, magnitudes(op), generator),
        bias=torch.randn(rows, generator=generator),
        grad=torch.randn(batch, rows, generator=generator),
        support=support,
        magnitudes=magnitudes(op),
        conv=None,
    )


def conv_problem(op: str, point: Point) -> Problem:
    """Make the row-major (NCHW) tensors of a convolution."""
    shape = point.shape
    stride, padding = shape["stride"], shape["kernel"] // 2
    generator = torch.Generator().manual_seed(0)
    kept = (shape["out_channels"], shape["in_channels"], shape["kernel"], shape["kernel"])
    support = Support.random(kept, point.density, seed=0)
    size = (shape["size"] + 2 * padding - shape["kernel"]) // stride + 1
    batch = shape["batch"]
    return Problem(
        op=op,
        x=torch.randn(
            batch, shape["in_channels"], shape["size"], shape["size"], generator=generator
        ),
        weight=masked_weight(support, magnitudes(op), generator),
        bias=torch.randn(shape["out_channels"], generator=generator),
        grad=torch.randn(batch, shape["out_channels"], size, size, generator=generator),
        support=support,
        magnitudes=magnitudes(op),
        conv=Conv((stride, stride), (padding, padding)),
    )


def magnitudes(op: str) -> tuple[float, ...]:
    """Return the argument that the sign ops take and the others lack."""
    return (MAGNITUDE,) if op.startswith("sign_") else ()


def masked_weight(
    support: Support, magnitudes: tuple[float, ...], generator: torch.Generator
) -> torch.Tensor:
    """Make a dense weight that is zero outside the support, of one magnitude if that is given."""
    weight = torch.randn(support.shape, generator=generator)
    for magnitude in magnitudes:
        weight = torch.where(weight >= 0, magnitude, -magnitude)
    return weight * support.to_mask()


def sparsefl_step(problem: Problem) -> Step:
    """Prepare the op of this project: row-major tensors in, row-major tensors out."""
    op = getattr(ops, problem.op)
    plan: ops.LinearPlan | ops.Conv2dPlan
    if problem.conv is None:
        plan = ops.LinearPlan(problem.support)
    else:
        plan = ops.Conv2dPlan(problem.support, *problem.conv)
    # A score of any magnitude has the same sign, so the weight itself serves as one.
    stored = problem.weight[problem.support.to_mask()][plan.order].requires_grad_()

    def call(x: torch.Tensor, stored: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = op(x, stored, *problem.magnitudes, bias, plan)
        return ops.row_major(out)

    def row_major(grad: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(grad)
        out[plan.order] = grad
        return out

    return autograd_step(call, problem, stored, row_major)


def dense_step(memory_format: torch.memory_format) -> Callable[[Problem], Step]:
    """Return what prepares dense torch, through autograd, in a memory format."""

    def prepare(problem: Problem) -> Step:
        moved = problem.to(memory_format)
        mask = problem.support.to_mask()
        weight = moved.weight.clone().requires_grad_()

        def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            if problem.conv is None:
                return F.linear(x, weight, bias)
            return F.conv2d(x, weight, bias, problem.conv.stride, problem.conv.padding)

        return autograd_step(call, moved, weight, lambda grad: grad[mask] * problem.score_scale)

    return prepare


LINEAR_PROVIDERS: Providers = {
    "sparsefl": {"batch_last": sparsefl_step},
    "torch_dense": {
        "autograd": dense_step(torch.contiguous_format),
        "preallocated": baselines.preallocated_linear,
    },
    "torch_sparse": {"csr": baselines.csr_linear},
}
CONV_PROVIDERS: Providers = {
    "sparsefl": {"batch_last": sparsefl_step},
    "torch_dense": {
        "nchw": dense_step(torch.contiguous_format),
        "channels_last": dense_step(torch.channels_last),
    },
    "torch_sparse": {"im2col_csr": baselines.csr_conv2d},
}


def linear(batch: int, columns: int, rows: int) -> Shape:
    """Name the sizes of a linear layer."""
    return {"batch": batch, "in_features": columns, "out_features": rows}


def conv(batch: int, channels: int, size: int, kernel: int = 3, stride: int = 1) -> Shape:
    """Name the sizes of a convolution with as many output as input channels."""
    sizes = {"batch": batch, "in_channels": channels, "out_channels": channels}
    return {**sizes, "size": size, "kernel": kernel, "stride": stride}


def sweeps(
    shape: Shape, floor: float | None = None, densities: tuple[float, ...] = DENSITIES
) -> tuple[Point, ...]:
    """Make a point for each density; the floor is for density 0.1."""
    return tuple(Point(shape, d, floor=floor if d == 0.1 else None) for d in densities)


SMALL_LINEAR = Point(linear(16, 65, 33), 0.1, quick=True)
SMALL_CONV = Point(conv(16, 8, 6), 0.1, quick=True)
LINEAR_SWEEP = (
    SMALL_LINEAR,
    *sweeps(linear(64, 1024, 1024), floor=3.5),
    *(Point(linear(batch, 1024, 1024), 0.1) for batch in (1, 16, 50, 256)),
    Point(linear(32, 3136, 512), 0.1),
    Point(linear(32, 256, 64), 0.1),
)
# The widest convolution takes half a minute a density on one thread, so only one is timed.
CONV_SWEEP = (
    SMALL_CONV,
    *sweeps(conv(64, 64, 8)),
    Point(conv(64, 128, 16), 0.1, floor=2.5),
    Point(conv(64, 64, 8, stride=2), 0.1),
    Point(conv(64, 64, 8, kernel=1), 0.1),
    Point(conv(32, 32, 16), 0.1),
)
SIGN_LINEAR_SWEEP = (SMALL_LINEAR, *sweeps(linear(64, 1024, 1024), densities=FEW_DENSITIES))
SIGN_CONV_SWEEP = (SMALL_CONV, *sweeps(conv(64, 64, 8), densities=FEW_DENSITIES))

CASES = {
    case.op: case
    for case in (
        Case("sparse_linear", linear_problem, LINEAR_PROVIDERS, LINEAR_SWEEP),
        Case("sparse_conv2d", conv_problem, CONV_PROVIDERS, CONV_SWEEP),
        Case("sign_linear", linear_problem, LINEAR_PROVIDERS, SIGN_LINEAR_SWEEP),
        Case("sign_conv2d", conv_problem, CONV_PROVIDERS, SIGN_CONV_SWEEP),
    )
}
