"""One pass of a layer on a device, by a kernel and by dense torch on a scratch weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefl import ops
from sparsefl.ops import _conv2d, _dense, _kernel_conv2d, _kernel_linear, _linear
from sparsefl.ops._kernel_weight import packed_weight
from sparsefl.ops._magnitude import Magnitude
from sparsefl.support import Support

Step = Callable[[], object]
# Pixels of a side of a convolution's images: ResNet's are 4 to 32 at 32 x 32.
_SIDE = 8


def make_plan(support: Support) -> ops.LinearPlan | ops.Conv2dPlan:
    """Return the plan of a layer, a convolution's with outputs as large as inputs."""
    if len(support.shape) == 2:
        return ops.LinearPlan(support)
    return ops.Conv2dPlan(support, padding=_padding(support))


def _padding(support: Support) -> tuple[int, int]:
    return support.shape[2] // 2, support.shape[3] // 2


@dataclass
class LinearPasses:
    """The pass of a linear layer that a kernel computes.

    Attributes:
        kernel: Name of the kernel.
        plan: Of the layer, on the device.
        positions: Rows of the input.
        stored: Values or scores, on the device.
        magnitude: That of a sign layer, or None.
    """

    kernel: str
    plan: ops.LinearPlan
    positions: int
    stored: Tensor
    magnitude: Magnitude | None

    def __post_init__(self) -> None:
        """Draw the operands."""
        out, inner = self.plan.support.shape
        self.x, self.grad = (
            self.stored.new_empty(self.positions, n).normal_() for n in (inner, out)
        )

    def by_kernel(self) -> Step:
        """Return the pass by the kernel."""
        kernel, magnitude, plan = self.kernel, self.magnitude, self.plan
        if kernel.endswith("_dw"):
            return lambda: _kernel_linear.stored_gradient(
                kernel, self.grad, self.x, magnitude, plan
            )
        given = self.grad if kernel.endswith("_dx") else self.x

        def product() -> Tensor:
            packed = packed_weight(kernel, self.stored, magnitude, plan)
            return _kernel_linear.product(kernel, given, packed, None, magnitude, plan)

        return product

    def by_torch(self) -> Step:
        """Return the same by dense torch."""
        if self.kernel.endswith("_dw"):
            return lambda: _dense.kept_gradient(
                _linear.weight_gradient(self.grad, self.x, self.plan), self.magnitude, self.plan
            )
        if self.kernel.endswith("_dx"):
            return lambda: self.grad @ self._weight()
        return lambda: torch.nn.functional.linear(self.x, self._weight())

    def _weight(self) -> Tensor:
        return _dense.fill_weight(self.stored, self.magnitude, self.plan)


@dataclass
class Conv2dPasses:
    """The pass of a convolution that a kernel computes; attributes as of :class:`LinearPasses`.

    Positions are pixels in all images, of which there are as many as make at least so many.
    """

    kernel: str
    plan: ops.Conv2dPlan
    positions: int
    stored: Tensor
    magnitude: Magnitude | None

    def __post_init__(self) -> None:
        """Draw the operands, channels_last."""
        images = -(-self.positions // _SIDE**2)
        out, inner, *_ = self.plan.support.shape
        self.x, self.grad = (
            self.stored.new_empty(images, _SIDE, _SIDE, n).normal_().permute(0, 3, 1, 2)
            for n in (inner, out)
        )

    def by_kernel(self) -> Step:
        """Return the pass by the kernel."""
        kernel, magnitude, plan = self.kernel, self.magnitude, self.plan
        if kernel.endswith("_dw"):
            return lambda: _kernel_conv2d.stored_gradient(
                kernel, self.grad, self.x, magnitude, plan
            )
        given = self.grad if kernel.endswith("_dx") else self.x

        def product() -> Tensor:
            packed = packed_weight(kernel, self.stored, magnitude, plan)
            return _kernel_conv2d.product(
                kernel, given, packed, None, magnitude, plan, self.x.shape
            )

        return product

    def by_torch(self) -> Step:
        """Return the same by dense torch."""
        if self.kernel.endswith("_dw"):

            def weight_gradient() -> Tensor:
                _, dense, _ = self._gradients(None, (False, True, False))
                assert dense is not None
                return _dense.kept_gradient(dense, self.magnitude, self.plan)

            return weight_gradient
        if self.kernel.endswith("_dx"):
            return lambda: self._gradients(self._weight(), (True, False, False))[0]
        return lambda: torch.nn.functional.conv2d(
            self.x, self._weight(), padding=_padding(self.plan.support)
        )

    def _gradients(
        self, weight: Tensor | None, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        geometry = ((1, 1), _padding(self.plan.support), (1, 1), 1)
        x = self.x if wanted[1] else self.x.shape
        return _conv2d.dense_gradients(self.grad, x, weight, geometry, wanted, self.plan)

    def _weight(self) -> Tensor:
        return _dense.fill_weight(self.stored, self.magnitude, self.plan)
