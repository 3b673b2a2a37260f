"""The two shapes of layer with a support, whatever is stored on it."""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import Proxy

from sparsefl.nn._sizes import Conv2dSizes, LinearSizes, Padding, Size
from sparsefl.nn._stand_in import refuse_transforms
from sparsefl.nn._support_layer import SupportLayer, SupportLike, as_support
from sparsefl.nn._tracing import call_whole
from sparsefl.ops import Conv2dPlan, LinearPlan
from sparsefl.support import Support

Device: TypeAlias = torch.device | str | None


class LinearLayer(LinearSizes, SupportLayer):
    """``y = x @ weight.T + bias`` with a weight ``[out_features, in_features]`` on a support."""

    _plan: LinearPlan

    def __init__(
        self,
        in_features: int,
        out_features: int,
        support: SupportLike,
        bias: bool = True,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh parameters; see :meth:`reset_parameters`."""
        super().__init__()
        shape = self._set_sizes(in_features, out_features)
        self._allocate(as_support(support, shape), bias, device, dtype)

    def _make_plan(self, support: Support) -> LinearPlan:
        return LinearPlan(support)


class Conv2dLayer(Conv2dSizes, SupportLayer):
    """A 2-d convolution whose weight ``[out, in / groups, kh, kw]`` lives on a support."""

    _plan: Conv2dPlan

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        support: SupportLike,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Create the layer with fresh parameters; see :meth:`reset_parameters`."""
        super().__init__()
        steps = (stride, padding, dilation, groups)
        shape = self._set_sizes(in_channels, out_channels, kernel_size, *steps, padding_mode)
        self._allocate(as_support(support, shape), bias, device, dtype)

    def _make_plan(self, support: Support) -> Conv2dPlan:
        padding = (0, 0) if self.padding == "valid" else self.padding
        return Conv2dPlan(support, self.stride, padding, self.dilation, self.groups)

    def _convolve(self, x: Tensor) -> Tensor:
        """Return the convolution of a batch, ``[N, C, H, W]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``[N, C, H, W]`` or ``[C, H, W]``, with as many dimensions."""
        if isinstance(x, Proxy):
            return call_whole(self, x)
        refuse_transforms(self)
        if isinstance(x, Tensor) and x.dim() == 3:
            return self._convolve(x.unsqueeze(0)).squeeze(0)
        return self._convolve(x)
