"""What the operators' tests share: one problem, run by an operator and by the reference."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsefl import Support, ops, reference

KINDS = ("values", "sign_constant", "sign_tensor")
DENSITIES = (0.0, "one", 0.01, 0.1, 0.5, 1.0)


def make_mask(shape: tuple[int, ...], density: float | str, structure: str | None = None) -> Tensor:
    """Returns a mask of the density; ``"one"`` keeps a single position.

    ``structure="crossings"`` keeps every crossing of some rows and some columns.
    """
    if structure == "crossings":
        rows, columns = (Support.random((n, 1), density**0.5, seed=n).to_mask() for n in shape[:2])
        return (rows & columns.T).view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)
    if structure is not None:
        assert not isinstance(density, str)
        return Support.random(shape, density, seed=1, structure=structure).to_mask()
    if density == "one":
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[torch.randint(mask.numel(), ())] = True
        return mask
    return torch.rand(shape) < density


@dataclass
class Problem:
    """Inputs of one operator call; ``geometry`` is empty for a linear map."""

    x: Tensor
    mask: Tensor
    stored: Tensor  # values or scores, row-major
    magnitude: float | Tensor | None
    bias: Tensor | None
    grad: Tensor | None
    geometry: dict[str, Any]

    def reference(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns output and gradients by dense torch in ``dtype``."""
        x, stored = (t.detach().to(dtype).requires_grad_() for t in (self.x, self.stored))
        bias = None if self.bias is None else self.bias.detach().to(dtype).requires_grad_()
        linear = not self.geometry
        if self.magnitude is None:
            op = reference.sparse_linear if linear else reference.sparse_conv2d
            y = op(x, stored, self.mask, bias, **self.geometry)
        else:
            magnitude = self.magnitude
            if isinstance(magnitude, Tensor):
                magnitude = magnitude.to(dtype)
            op = reference.sign_linear if linear else reference.sign_conv2d
            y = op(x, stored, magnitude, self.mask, bias, **self.geometry)
        return _with_gradients(y, x, stored, bias, self.grad)

    def sparse(self) -> dict[str, Tensor]:
        """Returns the same through the operator, gradients of stored elements row-major."""
        support = Support.from_mask(self.mask)
        linear = not self.geometry
        plan = ops.LinearPlan(support) if linear else ops.Conv2dPlan(support, **self.geometry)
        x = self.x.detach().requires_grad_()
        stored = self.stored.detach()[plan.order].requires_grad_()
        bias = None if self.bias is None else self.bias.detach().requires_grad_()
        if self.magnitude is None:
            op = ops.sparse_linear if linear else ops.sparse_conv2d
            y = op(x, stored, bias, plan)
        else:
            magnitude = self.magnitude
            if isinstance(magnitude, Tensor):
                magnitude = magnitude[plan.order]
            op = ops.sign_linear if linear else ops.sign_conv2d
            y = op(x, stored, magnitude, bias, plan)
        results = _with_gradients(y, x, stored, bias, self.grad)
        row_major = torch.zeros_like(stored)
        row_major[plan.order] = results["stored gradient"]
        results["stored gradient"] = row_major
        return results


def _with_gradients(
    y: Tensor, x: Tensor, stored: Tensor, bias: Tensor | None, grad: Tensor | None
) -> dict[str, Tensor]:
    grad = torch.ones_like(y) if grad is None else grad.to(y.dtype)
    y.backward(grad)
    results = {"output": y.detach(), "input gradient": x.grad, "stored gradient": stored.grad}
    if bias is not None:
        results["bias gradient"] = bias.grad
    return results


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Returns the maker of a random problem from the shapes of the operands."""

    def make(
        x_shape: tuple[int, ...],
        weight_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        density: float | str = 0.1,
        kind: str = "values",
        dtype: torch.dtype = torch.float32,
        structure: str | None = None,
        **geometry: Any,
    ) -> Problem:
        mask = make_mask(weight_shape, density, structure)
        nnz = int(mask.sum())
        magnitude = {
            "values": None,
            "sign_constant": 0.37,
            "sign_tensor": torch.rand(nnz, dtype=dtype) + 0.1,
        }[kind]
        stored = torch.randn(nnz, dtype=dtype)
        if kind != "values" and nnz > 2:
            stored[0], stored[1] = 0.0, -0.0  # sgn(0) = +1, whatever its sign bit
        return Problem(
            x=torch.randn(x_shape, dtype=dtype),
            mask=mask,
            stored=stored,
            magnitude=magnitude,
            bias=torch.randn(weight_shape[0], dtype=dtype),
            grad=torch.randn(y_shape, dtype=dtype),
            geometry=geometry,
        )

    return make


@pytest.fixture
def assert_op_matches(assert_matches: Callable[..., None]) -> Callable[[Problem], None]:
    """Returns the check of an operator's output and every gradient against float64."""

    def check(problem: Problem) -> None:
        results = problem.sparse()
        expected = problem.reference(torch.float64)
        dense = problem.reference(problem.x.dtype)
        assert results.keys() == expected.keys()
        for what, result in results.items():
            if result.dtype == torch.float64:
                # Dense torch's own error is not to be seen in the reference's precision.
                torch.testing.assert_close(result, expected[what], rtol=1e-12, atol=1e-12, msg=what)
            else:
                assert_matches(result, expected[what], dense[what], what)

    return check


@pytest.fixture
def set_layout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Returns what sets ``SPARSEFL_LAYOUT`` for a test."""

    def change(layout: str) -> None:
        monkeypatch.setenv("SPARSEFL_LAYOUT", layout)
        ops._dispatch.forget()

    yield change
    monkeypatch.undo()
    ops._dispatch.forget()


@pytest.fixture
def sparse_layout(set_layout: Callable[[str], None]) -> None:
    """Takes the sparse kernels at every density."""
    set_layout("sparse")


@pytest.fixture
def dense_layout(set_layout: Callable[[str], None]) -> None:
    """Takes dense torch on a scratch weight at every density."""
    set_layout("dense")


@pytest.fixture
def op_calls() -> Callable[..., Any]:
    """Returns a context manager that counts the calls of sparsefl's operators by name and keeps
    the arguments of the last."""

    class Calls(TorchDispatchMode, Counter[str]):
        def __init__(self) -> None:
            super().__init__()
            self.arguments: dict[str, tuple[Any, ...]] = {}

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            namespace, name = func.name().split("::")
            if namespace == "sparsefl":
                self[name.split(".")[0]] += 1
                self.arguments[name.split(".")[0]] = args
            return func(*args, **(kwargs or {}))

    return Calls


@pytest.fixture
def saved_sizes() -> Callable[[Callable[[], Tensor]], list[int]]:
    """Returns the measure of what a call saves for backward: elements of every saved tensor."""

    def measure(call: Callable[[], Tensor]) -> list[int]:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call()
        return sizes

    return measure
