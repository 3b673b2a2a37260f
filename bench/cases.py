"""The registry: what is timed, on which sizes, against which baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from sparsefl import ops
from sparsefl.ops._autograd import BATCH_LAST, ROW_MAJOR
from sparsefl.ops._conv2d_call import call_of
from sparsefl.support import Support

from . import baselines
from .problem import Conv, Gradients, Problem, Step, autograd_step, direct_step
from .sweeps import CONV_SWEEP, LINEAR_SWEEP, SIGN_CONV_SWEEP, SIGN_LINEAR_SWEEP, Point

# Constant magnitude of the sign ops, as signed-constant initialisation of a layer this size gives.
MAGNITUDE = 0.05

Providers = Mapping[str, Mapping[str, Callable[[Problem], Step | None]]]


@dataclasses.dataclass(frozen=True)
class Case:
    """An op, how its tensors are made, who computes it, and on which points.

    Attributes:
        op: Name of the op in ``sparsefl.ops``.
        setup: Makes the tensors of an op and a point; the seed is fixed.
        providers: For each provider its variants, each a function that prepares a step, or gives
            None where it does not apply. Dense torch is judged by its fastest variant.
        sweep: The points.
        kernels: As ``providers``, of the operators called directly, for the tables of kernels.
    """

    op: str
    setup: Callable[[str, Point], Problem]
    providers: Providers
    sweep: tuple[Point, ...]
    kernels: Providers = dataclasses.field(default_factory=dict)

    def variants(
        self, kernels: bool = False
    ) -> Iterator[tuple[str, str, Callable[[Problem], Step | None]]]:
        """Yield provider, variant and what prepares it, of layers or of the kernels alone."""
        for provider, variants in (self.kernels if kernels else self.providers).items():
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
        batch_last=point.batch_last,
        wants_bias=point.wants_bias,
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
        batch_last=point.batch_last,
        wants_bias=point.wants_bias,
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
    """Prepare the op of this project: the same memory order in and out, the problem's."""
    op = getattr(ops, problem.op)
    plan = plan_of(problem)
    # A score of any magnitude has the same sign, so the weight itself serves as one.
    stored = problem.weight[problem.support.to_mask()][plan.order].requires_grad_()

    given = problem.turned() if problem.batch_last else problem
    # What a sign layer keeps between steps.
    kept = {"codes": ops.SignCodes()} if problem.op == "sign_linear" else {}

    def call(x: torch.Tensor, stored: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if problem.batch_last:
            return ops.batch_last(op(x, stored, *problem.magnitudes, bias, plan, **kept))
        if problem.conv is None:
            arguments = (x, stored, *problem.magnitudes, bias, plan)
            out: torch.Tensor = op(*arguments, row_major=True, **kept)
            return out
        return ops.row_major(op(x, stored, *problem.magnitudes, bias, plan))

    def layout() -> dict[str, str]:
        return {"layout": "/".join({choice.layout for choice in plan.choices.values()})}

    return autograd_step(call, given, stored, in_row_major(plan))._replace(notes=layout)


def kernels_step(problem: Problem) -> Step:
    """Prepare the registered operators of this project, with what the op would give them."""
    plan = plan_of(problem)
    stored = problem.weight[problem.support.to_mask()][plan.order]
    given = problem.turned() if problem.batch_last else problem
    ours = torch.ops.sparsefl
    forward: Callable[..., torch.Tensor] = getattr(ours, problem.op).default
    backward = getattr(ours, f"{problem.op}_backward").default
    if isinstance(plan, ops.LinearPlan):
        told = (*plan.forward, not problem.batch_last)
        told_backward: tuple[Any, ...] = plan.transposed
        wanted_x = BATCH_LAST if problem.batch_last else ROW_MAJOR
    else:
        known = call_of(plan, given.x)
        told, told_backward, wanted_x = known.forward, known.backward, known.wanted_x
    wanted = [wanted_x, 1, int(problem.wants_bias)]

    def gradients() -> Gradients:
        x, weight, bias = backward(given.grad, given.x, stored, *told_backward, wanted)
        return Gradients(x, weight, bias if problem.wants_bias else None)

    return direct_step(
        lambda: forward(given.x, stored, given.bias, *told), gradients, in_row_major(plan)
    )


def plan_of(problem: Problem) -> ops.LinearPlan | ops.Conv2dPlan:
    """Return how the op of this project walks the support."""
    if problem.conv is None:
        return ops.LinearPlan(problem.support)
    return ops.Conv2dPlan(problem.support, *problem.conv)


def in_row_major(plan: ops.LinearPlan | ops.Conv2dPlan) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what brings the gradient of what is stored in a plan's order into row-major order."""

    def row_major(grad: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(grad)
        out[plan.order] = grad
        return out

    return row_major


def values_step(problem: Problem) -> Step:
    """Prepare the op of real weights on the support of a sign op."""
    step = sparsefl_step(
        dataclasses.replace(problem, op=problem.op.replace("sign_", "sparse_"), magnitudes=())
    )

    def gradients() -> Gradients:
        found = step.gradients()
        return found._replace(weight=found.weight * problem.score_scale)

    return step._replace(gradients=gradients)


def dense_step(
    memory_format: torch.memory_format, autocast: bool = False
) -> Callable[[Problem], Step]:
    """Return what prepares dense torch, through autograd, in a memory format.

    Args:
        memory_format: Of the tensors of a convolution.
        autocast: Whether it computes in bfloat16 under autocast.
    """

    def prepare(problem: Problem) -> Step:
        moved = problem.to(memory_format)
        weight = moved.weight.clone().requires_grad_()

        def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                if problem.conv is None:
                    return F.linear(x, weight, bias)
                return F.conv2d(x, weight, bias, problem.conv.stride, problem.conv.padding)

        return autograd_step(call, moved, weight, baselines.kept_of(problem))

    return prepare


NCHW, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
LINEAR_PROVIDERS: Providers = {
    "sparsefl": {"batch_last": sparsefl_step},
    "torch_dense": {
        "autograd": dense_step(NCHW),
        "preallocated": baselines.direct_linear(preallocated=True),
    },
    "torch_bf16": {"autocast": dense_step(NCHW, autocast=True)},
    "torch_sparse": {"csr": baselines.csr_linear},
}
CONV_PROVIDERS: Providers = {
    "sparsefl": {"batch_last": sparsefl_step},
    "torch_dense": {"nchw": dense_step(NCHW), "channels_last": dense_step(CHANNELS_LAST)},
    "torch_bf16": {
        "nchw": dense_step(NCHW, autocast=True),
        "channels_last": dense_step(CHANNELS_LAST, autocast=True),
    },
    "torch_sparse": {"im2col_csr": baselines.csr_conv2d},
}
LINEAR_KERNELS: Providers = {
    "sparsefl": {"kernels": kernels_step},
    "torch_dense": {
        "allocated": baselines.direct_linear(preallocated=False),
        "preallocated": baselines.direct_linear(preallocated=True),
    },
}
CONV_KERNELS: Providers = {
    "sparsefl": {"kernels": kernels_step},
    "torch_dense": {
        "nchw": baselines.direct_conv2d(NCHW),
        "channels_last": baselines.direct_conv2d(CHANNELS_LAST),
    },
}
REAL_WEIGHTS: Providers = {"sparse_op": {"equal_density": values_step}}
SIGN_LINEAR_PROVIDERS = {**LINEAR_PROVIDERS, **REAL_WEIGHTS}
SIGN_CONV_PROVIDERS = {**CONV_PROVIDERS, **REAL_WEIGHTS}

CASES = {
    case.op: case
    for case in (
        Case("sparse_linear", linear_problem, LINEAR_PROVIDERS, LINEAR_SWEEP, LINEAR_KERNELS),
        Case("sparse_conv2d", conv_problem, CONV_PROVIDERS, CONV_SWEEP, CONV_KERNELS),
        Case("sign_linear", linear_problem, SIGN_LINEAR_PROVIDERS, SIGN_LINEAR_SWEEP),
        Case("sign_conv2d", conv_problem, SIGN_CONV_PROVIDERS, SIGN_CONV_SWEEP),
    )
}
